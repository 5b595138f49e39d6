"""Plugins that would harm others: each is named in one line with its owner, and the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from support.limits import HANG_S
from support.paths import RESULTS

import llmbench
from llmbench.plugins import guard, monkeypatches
from llmbench.plugins.discovery import discover
from llmbench.report.tables.inventory import plugin_document

MINE = """
import llmbench

@llmbench.hookimpl
def llmbench_precisions():
    return [llmbench.PrecisionSpec(name={name!r})]
"""
#: Its time is over when it hangs, not after the seconds that every other plugin has, too.
OVER = "import signal, time; signal.setitimer(signal.ITIMER_REAL, 0.05, 1.0)\n"
HANGS = "while True:\n    time.sleep(60)\n"
TOO_LONG = f"left out: TooLong: took longer than {HANG_S} s to load"
HARMFUL = {
    "hangs": (OVER + HANGS, TOO_LONG),
    "hangs_on": (
        OVER + "while True:\n    try:\n        time.sleep(60)\n    except Exception:\n        pass\n",
        TOO_LONG,
    ),
    "hangs_later": (
        f"import llmbench\n@llmbench.hookimpl\ndef llmbench_models():\n    {OVER}    while True: pass\n",
        TOO_LONG,
    ),
    "raises": ("raise RuntimeError('no\\nluck')", "left out: RuntimeError: no luck"),
    "exits": ("import sys\nsys.exit(3)\n", "left out: SystemExit: 3"),
    "leaves": ("raise SystemExit\n", "left out: SystemExit"),
    "ends": ("import os\nos._exit(0)\n", "left out: Ended: it calls os._exit, which would end llmbench"),
    "ends_later": (
        "import llmbench\nfrom os import abort\n@llmbench.hookimpl\ndef llmbench_models():\n    abort()\n",
        "left out: Ended: it calls os.abort",
    ),
    "skips": ("class Skipped(BaseException): pass\nraise Skipped('not here')\n", "left out: Skipped: not here"),
    "prints": (
        "print('hello from', __name__[:8])\n" + MINE.format(name="printed"),
        "prints to standard output when it is loaded: 'hello from llmbench'",
    ),
    "prints_below": (
        "import os\nos.write(1, b'from below\\n')\n" + MINE.format(name="below"),
        "prints to standard output when it is loaded: 'from below'",
    ),
    "patches": (
        "import torch\ntorch.nn.functional.softmax = lambda x, dim: x\n" + MINE.format(name="patched"),
        "left out: PluginError: it replaces torch.nn.functional.softmax",
    ),
    "claims": (MINE.format(name="fp32"), "precision 'fp32' belongs to llmbench 0.1.0"),
    "newer": ("LLMBENCH_API = 99\nfrom llmbench import OfTheFuture\n", "left out: PluginError: it needs plugin API 99"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plugins").mkdir()
    for name, (text, _) in HARMFUL.items():
        (tmp_path / "plugins" / f"{name}.py").write_text(text)
    own = "import llmbench.contract.errors\nllmbench.contract.errors.did_you_mean = lambda *_: 0\n" + MINE.format(
        name="patched"
    )
    (tmp_path / "plugins" / "patches.py").write_text(own)  # importing torch takes longer than these may
    (tmp_path / "plugins" / "good.py").write_text(MINE.format(name="good"))
    return tmp_path


def command(*words, cwd, **env):
    variables = {**os.environ, guard.LIMIT_VARIABLE: str(HANG_S), **env}
    words = [sys.executable, "-m", "llmbench", *words]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=HANG_S, check=False, env=variables)


def test_each_is_named_in_one_line_and_the_result_is_json(folder):
    done = command("plan", "quick", "--json", "--set", "precision=good", "-k", "eval and gpt", cwd=folder)
    assert done.returncode == 0 and json.loads(done.stdout)["plans"][0]["cells"], done.stderr
    told = {name: says for name, (_, says) in HARMFUL.items()}
    told["patches"] = "left out: PluginError: it replaces llmbench.contract.errors.did_you_mean"
    for name, says in told.items():
        (line,) = [line for line in done.stderr.splitlines() if f"{name}.py " in line]
        assert says in line
    assert len(done.stderr.splitlines()) == len(told)


def test_the_list_has_them_beside_what_works(folder, monkeypatch):
    monkeypatch.setenv(guard.LIMIT_VARIABLE, str(HANG_S))
    (folder / "plugins" / "patches.py").write_text(HARMFUL["patches"][0])
    registry = discover(cwd=folder)
    for name, (_, says) in HARMFUL.items():
        assert [says in line for line in registry.notes() if f"{name}.py " in line] == [True]
    found = plugin_document(registry)
    names = {one["name"] for one in found["plugins"]}
    assert {"good", "printed", "below", "fp32", "gpt"} <= names and "patched" not in names
    broken = {one["owner"]: one["error"] for one in found["broken"]}
    assert {f"{n}.py" for n in HARMFUL} - set(broken) == {"prints.py", "prints_below.py", "claims.py"}
    assert {one["owner"] for one in found["remarks"]} == {"prints.py", "prints_below.py"}
    assert "claims.py" in found["clashes"][0]["what"]


def test_a_plugin_has_so_many_seconds_and_then_one_after_the_other(tmp_path):
    (tmp_path / "hangs.py").write_text(f"import time\n{HANGS}")
    before = signal.getitimer(signal.ITIMER_REAL)
    with guard._limit_time(60.0):
        left_s, every_s = signal.getitimer(signal.ITIMER_REAL)
    assert 0 < left_s <= 60 and every_s == 1.0 and signal.getitimer(signal.ITIMER_REAL) == before
    done = command("plan", "quick", "--plugin", "hangs.py", cwd=tmp_path, LLMBENCH_PLUGIN_SECONDS="0.5")
    assert done.returncode == 0 and "TooLong: took longer than 0.5 s to load" in done.stderr


def noted(tmp_path, text):
    """Return a plugin that notes in a file that it is loaded."""
    path = tmp_path / "loaded"
    path.touch()
    return path, f"open({str(path)!r}, 'a').write('x')\n{text}"


def test_help_looks_for_no_plugins(folder):
    loaded, text = noted(folder, MINE.format(name="seen"))
    (folder / "plugins" / "seen.py").write_text(text)
    assert "Usage" in command("--help", cwd=folder).stdout and loaded.read_text() == ""
    command("plugins", "list", cwd=folder)
    assert loaded.read_text() == "x"


def test_what_was_replaced_is_put_back(tmp_path):
    before = torch.nn.functional.softmax, torch.nn.Linear.forward, guard.limit_s
    text = "import torch, functools\nfrom llmbench.plugins import guard\nF = torch.nn.functional\n"
    text += "F.softmax = functools.wraps(F.softmax)(lambda x, dim: x)\nguard.limit_s = lambda: 0\n"
    text += "torch.nn.Linear.forward = torch.nn.Identity.forward\ntorch.nn.LSTM.extra = lambda self: 0\n"
    (tmp_path / "bad.py").write_text(text)
    for _ in range(2):  # asking again does not take it for good
        (broken,) = discover([tmp_path / "bad.py"]).failures
        assert "it replaces " in broken.error and "and 3 more" in broken.error
        assert before == (torch.nn.functional.softmax, torch.nn.Linear.forward, guard.limit_s)
        assert not hasattr(torch.nn.LSTM, "extra")


@pytest.mark.slow
def test_libraries_may_add_to_torch():
    snapshot = monkeypatches.Snapshot()
    import datasets  # noqa: F401
    import transformers

    transformers.GPT2Model(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1))
    assert snapshot.find_patches() == []


def test_a_worker_leaves_out_what_is_known_to_be_broken(folder, monkeypatch):
    monkeypatch.setenv(guard.LIMIT_VARIABLE, str(HANG_S))
    loaded, text = noted(folder, HARMFUL["hangs"][0])
    (folder / "plugins" / "hangs.py").write_text(text)
    first = discover(cwd=folder)
    assert any("hangs.py" in key for key in first.keys_left_out) and loaded.read_text() == "x"
    again = discover(cwd=folder, left_out=first.keys_left_out)
    assert again.failures == () and "good" in again.names("precision") and loaded.read_text() == "x"


@pytest.mark.parametrize("written, fits", [("1", True), ("0", False), ("2", False)])
def test_the_interface_that_a_plugin_was_written_for(written, fits, tmp_path):
    (tmp_path / "mine.py").write_text(f"LLMBENCH_API = {written}\n" + MINE.format(name="fp15"))
    registry = discover([tmp_path / "mine.py"])
    assert (registry.failures == ()) == fits == ("fp15" in registry.names("precision"))
    assert llmbench.API_VERSION == 1


def test_reporters_may_print_and_the_result_is_theirs_alone(tmp_path):
    text = "import llmbench\n\ndef render(report):\n    print('noise')\n    return 'document'\n\n@llmbench.hookimpl\n"
    text += "def llmbench_reporters():\n    return [llmbench.ReporterSpec('loud', render, '.txt')]\n"
    (tmp_path / "loud.py").write_text(text)
    run = RESULTS / "amd-epyc-2-cores" / "quick"
    done = command("report", str(run), "--format", "loud", "--plugin", "loud.py", cwd=tmp_path)
    assert done.stdout == "document\n" and "noise" in done.stderr
