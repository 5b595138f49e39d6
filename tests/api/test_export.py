"""Exports are read by the tools that they are for, and say what the report says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.limits import HANG_S
from support.records import record, scored

from llmbench.cli import cli
from llmbench.contract.errors import UserError
from llmbench.records.read import read_runs
from llmbench.records.run_dir import RunDir
from llmbench.report.formats import pytest_benchmark


@pytest.fixture
def run_path(tmp_path) -> Path:
    with RunDir.open(tmp_path / "quick", write=True) as run_dir:
        for one in (scored(step_s=(0.1, 0.2, 0.3)), record(repeat=1, step_s=(0.2, 0.3, 0.4)), record(stage="eval")):
            run_dir.append(one)
        run_dir.write_json("environment.json", {"e1": {"environment_id": "e1", "cpu": "X9", "python": "3.12"}})
        run_dir.write_text("suite.yaml", "name: quick\n")
    return tmp_path / "quick"


def export(*words) -> object:
    return CliRunner().invoke(cli, ["export", *map(str, words)], standalone_mode=False)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40))
def test_statistics_are_those_of_pytest_benchmark(times):
    from pytest_benchmark.stats import Stats

    theirs = Stats()
    for value in times:
        theirs.update(value)
    assert pytest_benchmark.summarise(times) == theirs.as_dict()


def test_pytest_benchmark_compares_two_exports(run_path, tmp_path):
    for name in ("a", "b"):
        assert export(run_path, "--to", "pytest-benchmark", "-o", tmp_path / f"{name}.json").return_value == 0
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "a.json", "b.json", "--columns=mean,rounds"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("finetune/m|1")]
    assert len(rows) == 2 and all("250.0000 (1.0)" in row and row.split()[-1] == "6" for row in rows)


def test_parquet_holds_a_row_per_cell_or_per_step(run_path, tmp_path):
    import pyarrow.parquet as pq

    export(run_path, "--to", "parquet", "-o", tmp_path / "cells.parquet")
    cells = pq.read_table(tmp_path / "cells.parquet").to_pylist()
    shown = CliRunner().invoke(cli, ["report", str(run_path), "--format", "json"], standalone_mode=False)
    told = json.loads(shown.output)["cells"]
    for name in ("cell_id", "step_ms", "status", "tokens_per_s", "step_ms_ci"):
        assert [cell[name] for cell in cells] == [cell[name] for cell in told]
    assert cells[0]["shares.input"] == told[0]["shares"]["input"] and cells[0]["quality.acc"] == 0.6
    export(run_path, "--to", "parquet", "--samples", "-o", tmp_path / "steps.parquet")
    steps = pq.read_table(tmp_path / "steps.parquet").to_pylist()
    assert [(s["repeat"], s["step"], s["step_s"]) for s in steps[:4]] == [
        (0, 0, 0.1),
        (0, 1, 0.2),
        (0, 2, 0.3),
        (1, 0, 0.2),
    ]
    assert len(steps) == 10


def test_csv_is_the_reports(run_path, tmp_path):
    export(run_path, "--to", "csv", "-o", tmp_path / "x.csv")
    shown = CliRunner().invoke(cli, ["report", str(run_path), "--format", "csv"], standalone_mode=False)
    assert (tmp_path / "x.csv").read_text() == shown.output


def test_a_bundle_is_the_run_and_is_compared_as_it_is(run_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export("quick", "--to", "bundle").return_value == 0
    (here,), (there,) = read_runs(run_path), read_runs(tmp_path / "quick.llmbench.zip")
    assert here == there
    done = CliRunner().invoke(
        cli, ["compare", "quick", "quick.llmbench.zip", "--format", "json"], standalone_mode=False
    )
    assert json.loads(done.stdout)["counts"]["slower"] == 0


@pytest.mark.parametrize(
    "words", [["--to", "csv", "--samples"], ["--to", "csv", "--keep-personal"], ["--to", "csv", "-o", "none/x.csv"]]
)
def test_what_cannot_be_is_said(run_path, words):
    assert isinstance(export(run_path, *words).exception, UserError)


def test_one_run_at_a_time_is_bundled(run_path, tmp_path):
    with RunDir.open(tmp_path / "other", write=True) as run_dir:
        run_dir.append(record())
    assert "takes one run, not 2" in str(export(tmp_path, "--to", "bundle").exception)
