"""Runs are read from a run directory, a bundle or a folder of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.paths import RESULTS
from support.records import record

from llmbench.cli import cli
from llmbench.contract.errors import UserError
from llmbench.records.read import read_all, read_runs
from llmbench.records.run_dir import RunDir


def run_at(folder: Path, **fields) -> Path:
    with RunDir.open(folder, write=True) as run_dir:
        run_dir.append(record(**fields))
    return folder


def test_a_folder_of_runs_is_read_in_order_and_without_local(tmp_path):
    for name in ("b/quick", "a/quick", "local/quick", "a/.hidden"):
        run_at(tmp_path / name)
    run_at(tmp_path / "a/quick/nested")
    assert [run.name for run in read_runs(tmp_path)] == ["a/quick", "b/quick"]
    assert [run.name for run in read_runs(tmp_path / "local")] == ["quick"]


def test_runs_of_one_name_are_told_apart_by_their_path(tmp_path):
    paths = [run_at(tmp_path / name) for name in ("before/quick", "after/quick", "after/matrix")]
    assert [run.name for run in read_all(paths)] == ["before/quick", "after/quick", "matrix"]
    deep = [run_at(tmp_path / name) for name in ("x/results/quick", "y/results/quick")]
    assert [run.name for run in read_all(deep)] == ["x/results/quick", "y/results/quick"]
    folders = read_all([tmp_path / "x", tmp_path / "y"])
    assert [run.name for run in folders] == ["x/results/quick", "y/results/quick"]


def test_a_fleet_has_one_environment_per_node(tmp_path):
    run_at(tmp_path / "run")
    (tmp_path / "run/environments").mkdir()
    (tmp_path / "run/environments/n1.json").write_text(json.dumps({"environment_id": "n1", "cpu": "x"}))
    (tmp_path / "run/environments/n2.json").write_text(json.dumps({"n2": {"environment_id": "n2"}}))
    (run,) = read_runs(tmp_path / "run")
    assert set(run.environments) == {"n1", "n2"}


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_what_is_no_run_is_named(tmp_path, what):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"{what}.*give the folder of a run"):
        read_runs(tmp_path / what)


def test_all_published_results_are_reported_at_once():
    names = {run.name for run in read_runs(RESULTS)}
    assert {"amd-epyc-2-cores/quick", "amd-epyc-2-cores/matrix"} <= names
    done = CliRunner().invoke(cli, ["report", str(RESULTS), "--format", "json"], standalone_mode=False)
    assert {cell["run"] for cell in json.loads(done.output)["cells"]} == names
