"""A machine that has torch, transformers and pandas, and nothing that only some uses need."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.commands import SMALL
from support.limits import HANG_S
from support.paths import RESULTS

import llmbench
from llmbench.api.machine import FOR_SOME_USES
from llmbench.contract.errors import MissingPackage, needs_packages

#: Imported by every process of Python that has its folder on the path: nothing finds these modules.
HIDING = """
import sys
from importlib.machinery import PathFinder
HIDDEN = "rich orjson evaluate datasets sklearn sacrebleu rouge_score pyarrow".split()

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
QUICK = RESULTS / "amd-epyc-2-cores" / "quick"


@pytest.fixture
def bare(tmp_path):
    """Return a function that runs a command of llmbench where the packages are hidden."""
    (tmp_path / "hiding").mkdir()
    (tmp_path / "hiding" / "sitecustomize.py").write_text(HIDING)
    path = os.pathsep.join([str(tmp_path / "hiding"), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(*words):
        command = [sys.executable, "-m", "llmbench", *map(str, words)]
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=HANG_S, check=False
        )

    return run


def test_the_packages_are_hidden(tmp_path, bare):
    bare("--version")  # writes nothing, and does not fail
    code = "import importlib.util as u; print([m for m in ('rich', 'orjson', 'sklearn', 'pyarrow') if u.find_spec(m)])"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "hiding")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_reports_are_json_markdown_or_plain_text(bare):
    as_json, markdown, plain = (bare("report", QUICK, "--format", form) for form in ("json", "markdown", "terminal"))
    assert [done.returncode for done in (as_json, markdown, plain)] == [0, 0, 0], as_json.stderr
    assert len(json.loads(as_json.stdout)["cells"]) == 27
    assert "| model |" in markdown.stdout
    lines = plain.stdout.splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("model") and "task" in line]
    assert heads and set(lines[heads[0] + 1]) == {"-", " "} and "bert" in plain.stdout


def test_what_needs_more_says_what_to_install(bare):
    done = bare("export", QUICK, "--to", "parquet")
    assert done.returncode == 2
    assert done.stderr == "error: --to parquet needs pyarrow, which is not installed: pip install pyarrow\n"


@pytest.mark.slow
def test_speed_is_measured_and_a_scored_cell_is_unsupported_before_it_is_measured(tmp_path, bare):
    (tmp_path / "small.yaml").write_text(SMALL)
    speed = bare("run", "small.yaml", "-o", "speed", "--set", "measure=speed")
    assert speed.returncode == 0, speed.stderr
    scored = bare("run", "small.yaml", "-o", "scored", "--json")
    assert {cell["stage"]: cell["status"] for cell in json.loads(scored.stdout)["cells"]} == {
        "finetune": "ok",
        "eval": "unsupported",
    }
    (record,) = [
        record
        for record in map(json.loads, (tmp_path / "scored" / "records.jsonl").read_text().splitlines())
        if record["cell"]["stage"] == "eval"
    ]
    assert "needs evaluate, which is not installed: pip install evaluate" in record["error"]["message"]
    assert "samples" not in record or not record["samples"]
    doctor = bare("doctor", "--json")
    assert doctor.returncode == 0 and "problems" in json.loads(doctor.stdout)


def test_a_failed_import_becomes_one_line():
    says = r"the metric F1 needs scikit-learn, .*: pip install scikit-learn"
    with pytest.raises(MissingPackage, match=says), needs_packages("the metric F1"):
        raise ModuleNotFoundError("No module named 'sklearn.metrics'", name="sklearn.metrics")
    assert issubclass(MissingPackage, llmbench.UserError) and issubclass(MissingPackage, llmbench.Unsupported)
    with pytest.raises(ZeroDivisionError), needs_packages("nothing"):
        raise ZeroDivisionError


def test_every_package_that_some_uses_need_is_a_dependency():
    import tomllib

    from support.paths import ROOT

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.partition(">")[0].partition("[")[0] for line in project["dependencies"]}
    assert set(FOR_SOME_USES) <= names
