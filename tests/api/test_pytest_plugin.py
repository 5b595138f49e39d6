"""`pytest suite.yaml`: cells are tests, timed by pytest-benchmark; a slower cell fails `--benchmark-compare-fail`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import pytest_in

from llmbench.contract.cell import Cell
from llmbench.contract.job import Job, new_record
from llmbench.records.run_dir import RunDir

SUITE = """
name: two
matrix: {model: [gpt, bert], size: tiny, task: classification, stage: finetune, precision: fp32}
defaults: {batch_size: 4, seq_len: 16, vocab_size: 512, train_examples: 64, test_examples: 16, steps: 2}
repeats: 1
budget: {seconds: 0.5}
verify: none
"""
GPT, BERT = "finetune/gpt/tiny/classification/fp32/cpu", "finetune/bert/tiny/classification/fp32/cpu"


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> tuple[Path, list[Cell]]:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "two.yaml").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "llmbench", "plan", "two.yaml", "--json"], cwd=folder, capture_output=True, check=True
    )
    return folder, [Cell.from_json(cell) for cell in json.loads(done.stdout)["plans"][0]["cells"]]


def recorded(folder: Path, cells: list[Cell], ratio: float = 1.0, status: str = "ok") -> str:
    """A run of `cells`, the first of them `ratio` times as slow, or not ok."""
    with RunDir.open(folder, write=True) as run_dir:
        for index, cell in enumerate(cells):
            job = Job.single(cell)
            times = [(ratio if index == 0 else 1.0) * seconds for seconds in (0.010, 0.011, 0.012)]
            if index == 0 and status != "ok":
                run_dir.append(new_record(job, status, error={"type": "Boom", "message": "it broke"}))
            else:
                run_dir.append(new_record(job, "ok", samples={"step_s": times}))
    return str(folder)


def test_a_planted_regression_fails_and_the_same_again_passes(planned, tmp_path):
    folder, cells = planned
    before, after = recorded(tmp_path / "a", cells), recorded(tmp_path / "b", cells, ratio=1.1)
    first = pytest_in(folder, "two.yaml", "--benchmark-autosave", "--llmbench-run", before)
    assert first.returncode == 0 and f"two.yaml::{GPT} PASSED" in first.stdout, first.stdout
    fail = ("two.yaml", "--benchmark-compare", "--benchmark-compare-fail=mean:5%", "--llmbench-run")
    assert pytest_in(folder, *fail, before).returncode == 0
    slower = pytest_in(folder, *fail, after)
    assert slower.returncode != 0 and "Performance has regressed" in slower.stdout + slower.stderr
    saved = json.loads(next((folder / ".benchmarks").rglob("*.json")).read_text())
    stats = {bench["name"]: bench["stats"] for bench in saved["benchmarks"]}
    assert set(stats) == {GPT, BERT}
    told = [stats[GPT][name] for name in ("min", "median", "max", "rounds")]
    assert told == pytest.approx([0.010, 0.011, 0.012, 3])


def test_a_failed_cell_fails_with_its_error_and_others_go_on(planned, tmp_path):
    folder, cells = planned
    done = pytest_in(folder, "two.yaml", "--llmbench-run", recorded(tmp_path / "a", cells, status="crashed"))
    assert "crashed: Boom: it broke" in done.stdout and "1 failed, 1 passed" in done.stdout
    assert "Traceback" not in done.stdout and "pytest_plugin.py" not in done.stdout
    done = pytest_in(
        folder, "two.yaml", "-k", "gpt", "--llmbench-run", recorded(tmp_path / "b", cells, status="unsupported")
    )
    assert "unsupported: Boom" in done.stdout and "1 skipped, 1 deselected" in done.stdout


def test_other_yaml_is_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("a: 1\n")
    (tmp_path / "suite.yaml").write_text(SUITE.replace("gpt", "none-such"))
    (tmp_path / "test_x.py").write_text(
        "import sys\ndef test_x():\n    assert not {'torch', 'yaml', 'llmbench.suite.plan'} & set(sys.modules)\n"
    )
    assert "1 passed" in pytest_in(tmp_path).stdout
    assert "no tests ran" in pytest_in(tmp_path, "config.yaml").stdout
    done = pytest_in(tmp_path, "-o", "llmbench_suites=.")
    assert "did you mean" in done.stdout + done.stderr or "known:" in done.stdout
    assert "Traceback" not in done.stdout and done.returncode == 2


@pytest.mark.slow
def test_cells_are_measured_for_real(tmp_path):
    (tmp_path / "two.yaml").write_text(SUITE)
    done = pytest_in(tmp_path, "two.yaml", "-k", "gpt", "--benchmark-autosave")
    assert "1 passed, 1 deselected" in done.stdout, done.stdout + done.stderr
    saved = json.loads(next((tmp_path / ".benchmarks").rglob("*.json")).read_text())
    assert saved["benchmarks"][0]["stats"]["rounds"] >= 10
