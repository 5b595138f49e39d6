"""The command line: exit codes, what goes to which stream, and one small run from end to end."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import SMALL, call
from support.limits import HANG_S

from llmbench.contract.cell import Cell
from llmbench.contract.job import Job, new_record
from llmbench.execution.progress import Progress, style_for


def llmbench(*args, cwd, **env):
    command = [sys.executable, "-m", "llmbench", *args]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=HANG_S, check=False, env=variables)


@pytest.mark.parametrize(
    "args, says",
    [
        (["run", "quik"], "did you mean 'quick'"),
        (["run", "--executor", "ray"], "not available yet"),
        (["run", "--frsh"], "--fresh"),
        (["plan", "-k", "(gpt"], "-k (gpt"),
        (["plan", "--set", "stepz=3"], "stepz"),
        (["run", "--set", "world_size=2"], "write world_size: 1"),
        (["run", "--set", "strategy=ddp"], "write strategy: single"),
        (["report", "nowhere"], "nowhere"),
        (["run", "--plugin", "none.py"], "none.py"),
        (["plugins", "info", "brt"], "did you mean 'bert'"),
        (["run", "--timeout", "0"], "--timeout"),
        (["unheard"], "unheard"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(args, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *args)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and says in err


def test_help_and_version(capsys):
    assert call(capsys)[0] == 0
    assert "run" in call(capsys, "--help")[1]
    assert call(capsys, "--version")[1].startswith("llmbench ")


def test_plan_says_what_starts_from_what(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "no ceilings"))
    (tmp_path / "small.yaml").write_text(SMALL)
    code, out, _ = call(capsys, "plan", "small.yaml", "--json")
    (plan,) = json.loads(out)["plans"]
    train, score = plan["cells"]
    assert code == 0 and score["depends_on"] == [train["cell_id"]] and score["reasons"]["predicted_s"]
    assert train["cell_id"] in call(capsys, "run", "small.yaml", "--dry-run")[1]
    assert not (tmp_path / "results").exists()
    code, out, _ = call(capsys, "plan", "small.yaml", "--json", "-k", train["cell_id"])
    assert [cell["cell_id"] for cell in json.loads(out)["plans"][0]["cells"]] == [train["cell_id"]]


def test_plugins_show_broken_ones_and_clashes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("import nothing_of_this_name\n")
    twin = "import llmbench\n\n@llmbench.hookimpl\ndef llmbench_precisions():\n"
    (tmp_path / "twin.py").write_text(f"{twin}    return [llmbench.PrecisionSpec(name='fp32')]\n")
    code, out, _ = call(capsys, "plugins", "list", "--json", "--plugin", "bad.py", "--plugin", "twin.py")
    found = json.loads(out)
    assert code == 0 and {"fp32", "lstm"} <= {p["name"] for p in found["plugins"]}
    assert [b["owner"] for b in found["broken"]] == ["bad.py"] and "nothing_of_this_name" in found["broken"][0]["error"]
    assert "twin.py" in found["clashes"][0]["what"]
    code, _, err = call(capsys, "plan", "--plugin", "twin.py")
    assert code == 0 and "belongs to llmbench" in err and "twin.py" in err


def test_hooks_and_info(capsys):
    assert "llmbench_models()" in call(capsys, "plugins", "hooks")[1]
    assert "layouts" in call(capsys, "plugins", "info", "lstm")[1]


def test_a_run_from_end_to_end(tmp_path: Path):
    (tmp_path / "small.yaml").write_text(SMALL)
    done = llmbench("run", "small.yaml", "--json", "--start-method", "spawn", cwd=tmp_path)
    found = json.loads(done.stdout)
    statuses = [cell["status"] for cell in found["cells"]]
    assert (done.returncode, statuses) == (0, ["ok", "ok"]), done.stderr + str(found["failures"])
    assert found["cells"][1]["quality"] and found["cells"][0]["step_ms"] > 0
    folder = tmp_path / "results" / "local" / "small"
    names = {"suite.yaml", "environment.json", "records.jsonl", "report.md", "report.html"}
    assert names <= {path.name for path in folder.iterdir()}
    assert set(found["environments"]) == {found["cells"][0]["environment_ids"][0]}

    before = (folder / "records.jsonl").read_bytes()
    again = llmbench("run", "small.yaml", "--quiet", "--start-method", "spawn", cwd=tmp_path, NO_COLOR="1")
    assert again.returncode == 0 and (folder / "records.jsonl").read_bytes() == before
    assert again.stderr.strip() == "results/local/small: records.jsonl, report.md, report.html"
    assert "Where the time goes" in again.stdout and "\x1b" not in again.stdout and str(tmp_path) not in again.stdout
    cell_id = found["cells"][1]["cell_id"]
    assert found["cells"][1]["reproduce"].startswith(f"llmbench run small.yaml -k {cell_id} ")
    assert str(tmp_path) not in (folder / "report.md").read_text()


def job():
    return Job.single(Cell("m", "tiny", "t", "d@1", "eval"), repeats=2)


def test_progress_is_plain_lines_without_a_terminal():
    out = io.StringIO()
    with Progress(2, stream=out) as progress:
        progress.start(job())
        progress.event({"event": "train", "step": 1, "steps": 9, "loss": None})
        progress.record(new_record(job(), "oom", wall_s=1.5, error={"type": "E", "message": "too\nbig"}))
    assert out.getvalue().startswith("[1/2] eval/m/tiny/t/fp32/cpu repeat 1: oom in 1.5 s: too big, ~0:01 left\n")


def test_progress_counts_what_was_decided_on_the_way():
    out = io.StringIO()
    with Progress(2, stream=out) as progress:
        progress.record(new_record(job(), "ok"))
        progress.expect(3)
        progress.start(dataclasses.replace(job(), repeat=2, processes=5))
        progress.record(new_record(dataclasses.replace(job(), repeat=2), "ok"))
        assert progress._label.endswith("repeat 3/5")
    assert "[1/2]" in out.getvalue() and "[2/4]" in out.getvalue()


def test_time_left_knows_that_only_first_repeats_train_and_verify():
    spent = {"train_s": 10.0, "verify_s": 25.0, "measure_s": 5.0}
    with Progress(6, 3, quiet=True) as progress:
        progress.record(new_record(job(), "ok", wall_s=40.0, spent=spent))
        assert progress.time_left() == "~1:35 left"  # two like it, and three without training and trials
        progress.record(new_record(job(), "ok", wall_s=40.0, spent=spent))
        progress.record(new_record(dataclasses.replace(job(), repeat=1), "ok", wall_s=10.0))
        assert progress.time_left() == "~1:00 left"
        progress.expect(4)
        assert progress.time_left() == "~0:40 left"
        progress.expect(0)
        assert progress.time_left() == ""


def test_progress_is_silent_when_quiet_and_plain_in_ci(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("CI", raising=False)
    assert style_for(Terminal(), quiet=False) == "bar" and style_for(Terminal(), quiet=True) == "none"
    monkeypatch.setenv("CI", "1")
    assert style_for(Terminal(), quiet=False) == "plain"
    out = io.StringIO()
    with Progress(1, quiet=True, stream=out) as progress:
        progress.start(job())
        progress.record(new_record(job(), "ok"))
    assert out.getvalue() == ""


def test_the_bar_shows_step_and_loss(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with Progress(2, stream=out) as progress:
        progress.start(job())
        progress.event({"event": "train", "step": 3, "steps": 9, "loss": 1.25})
        progress._bar.refresh()
    assert "train step 3/9 loss 1.25" in out.getvalue()
