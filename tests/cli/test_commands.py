"""Every command that a document shows is executed here; what cannot be is listed with the reason.

A command of an `sh` block runs as it stands, in a folder that has what it names: runs `A`, `BEFORE`, `RUN` ..., a suite
`my-suite.yaml`, a plugin `my_model.py`. `MORE` is appended where it would take minutes; options given twice count as
given last. A command that is new and in neither list runs as it stands.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support.limits import HANG_S
from support.paths import ROOT

from llmbench.cli import cli

PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "results/README.md", "examples/*.md", "plugins/*/README.md")
DOCUMENTS = sorted(path for pattern in PAGES for path in ROOT.glob(pattern))
DATA = Path(os.environ.get("LLMBENCH_DATA") or ROOT.parent / "shared" / "data")

TINY = (
    "--set steps=2 --set train_examples=40 --set test_examples=8 --set batch_size=4 --set seq_len=32 "
    "--set repeats=1 --set seconds=0.05 --set verify=none --quiet"
)
TRIED = "--set remedy_seconds=0.05 --set remedy_pairs=2 --set remedy_seeds=2"
#: What is appended, so that a command takes seconds.
MORE = {
    "llmbench run real --set data=DATA": f"{TINY} -k 'gpt and classification and ag_news and finetune'",
    'llmbench run quick -k "gpt and not eval"': TINY,
    "llmbench run quick --set model=hf:MODEL": f"{TINY} -k 'classification and finetune'",
    "llmbench run my-suite.yaml --plugin my_model.py": TINY,
    "llmbench run remedies --remedies": f"{TINY} {TRIED} -k lstm",
    'llmbench run quick --remedies -k "bert and pretrain"': f"{TINY} {TRIED}",
    "llmbench run quick --remedy labelled-logits --remedy batch-4x": f"{TINY} {TRIED} -k 'bert and pretrain'",
    "llmbench diagnose examples/diagnose_gpt.py:target": "--budget 3",
    "llmbench diagnose examples/diagnose_transformers.py:target": "--budget 3",
    "llmbench diagnose my_package.training:target --budget 120 --json": "--budget 3",
}
CI = "it makes an environment; .ci/run executes it, in a fresh clone"
#: What is not executed here, and why.
SKIPPED = {
    "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt torch==2.13.0 -e . "
    "&& .venv/bin/llmbench run quick": CI,
    "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt torch==2.13.0 -e '.[dev]' "
    "&& .venv/bin/python -m pytest -n 2": CI,
    "pip install llmbench-mlflow": CI,
    "llmbench report results/local/quick --format mlflow": "it needs MLflow; .ci/run executes it",
}
#: Commands that take more than some seconds even so.
SLOW = ("llmbench run", "llmbench diagnose")
SUITE = """name: my-suite
matrix: {model: [bag, gpt], size: tiny, task: classification, stage: [finetune, eval]}
defaults: {vocab_size: 400}
"""
TARGET = """
def target():
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(32, 32)

        def forward(self, x):
            return {"loss": self.inner(x).square().mean()}

    return {"model": Model(), "data": [{"x": torch.randn(8, 32)} for _ in range(8)]}
"""


def commands_in(path):
    """The commands of the `sh` blocks of a page, without comments; a line that ends with a backslash goes on."""
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#\s.*$", "", line).strip()
            if command and not command.startswith("#"):
                yield " ".join(command.split())


SHOWN = {command: path.relative_to(ROOT) for path in DOCUMENTS for command in commands_in(path)}


def cases():
    for command, path in SHOWN.items():
        if command not in SKIPPED:
            marks = [pytest.mark.slow] if command.startswith(SLOW) else []
            yield pytest.param(command, marks=marks, id=f"{path}: {command}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the commands name."""
    place = tmp_path_factory.mktemp("commands")
    published = ROOT / "results" / "amd-epyc-2-cores" / "quick"
    for name in ("A", "B", "C", "BEFORE", "AFTER", "BASE", "HEAD", "RUN", "results/here/quick", "results/local/quick"):
        shutil.copytree(published, place / name)
    for name in ("examples", "suites", "docs", "tests"):
        (place / name).symlink_to(ROOT / name)
    (place / "my-suite.yaml").write_text(SUITE)
    (place / "my_model.py").write_text((ROOT / "llmbench/plugins/examples/model.py").read_text())
    (place / "my_package").mkdir()
    (place / "my_package" / "training.py").write_text(TARGET)
    if DATA.is_dir():
        (place / "DATA").symlink_to(DATA)
    return place


@pytest.fixture
def pretrained(folder):
    """A model of transformers, with random weights, in the folder `MODEL`."""
    import torch
    import transformers

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=64, **shape)).save_pretrained(folder / "MODEL")


@pytest.mark.parametrize("command", list(cases()))
def test_a_command_that_is_shown_works(command, folder, request):
    if "DATA" in command and not DATA.is_dir():
        pytest.skip("no folder of real data: set LLMBENCH_DATA")
    if "MODEL" in command:
        request.getfixturevalue("pretrained")
    if command.startswith("llmbench run"):  # from the start, whatever ran before
        shutil.rmtree(folder / "results" / "local", ignore_errors=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    line = f"{command} {MORE.get(command, '')}"
    if not shutil.which("llmbench", path=path):
        line = line.replace("llmbench ", f"{shlex.quote(sys.executable)} -m llmbench ", 1)
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_the_lists_name_only_what_is_shown():
    assert len(SHOWN) > 15
    assert {*MORE, *SKIPPED} - set(SHOWN) == set(), "no document shows this any more"


def test_what_ci_executes_instead_is_in_its_script():
    script = (ROOT / ".ci" / "run").read_text()
    assert "readme_command 1" in script and "readme_command 2" in script
    assert "--format mlflow" in script and "./plugins/llmbench-mlflow" in script
    first, second = (
        " ".join(b.split()) for b in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[:2]
    )
    assert SKIPPED[first] == SKIPPED[second] == CI


def inline():
    """Every `llmbench ...` in the running text of a page."""
    for path in DOCUMENTS:
        text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        for command in re.findall(r"`(llmbench [^`]+)`", text):
            yield pytest.param(" ".join(command.split()), id=f"{path.relative_to(ROOT)}: {command}")


def parse(words):
    """Parse a command line as llmbench would; raise click's error for an unknown command or option."""
    command, args = cli, list(words)
    context = click.Context(cli, info_name="llmbench")
    while isinstance(command, click.Group) and args:
        name = args.pop(0)
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no command {name!r}")
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_parser(context).parse_args(args)


@pytest.mark.parametrize("command", list(inline()))
def test_a_command_in_running_text_is_one(command):
    names = {"a|b": "a"}
    words = [names.get(word, word.partition("|")[0]) for word in shlex.split(command)[1:]]
    if words[-1].startswith("-"):  # the value of the option is left to the reader
        words.append("1")
    if ">" in words:
        words = words[: words.index(">")]
    if words[:2] == ["plugins", "check"] and "check" not in cli.commands["plugins"].commands:
        pytest.xfail("the conformance kit is not there yet")
    parse(words)


def test_the_parser_sees_what_is_not_there():
    for command in ("run --no-such-option", "plugins unheard", "unheard"):
        with pytest.raises(click.UsageError):
            parse(command.split())


def python_blocks():
    for path in DOCUMENTS:
        for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)):
            yield pytest.param(block, id=f"{path.relative_to(ROOT)}: {i}")


@pytest.mark.parametrize("block", list(python_blocks()))
def test_python_that_is_shown_compiles(block):
    compile(block, "shown", "exec")
