"""The reporter against a real MLflow on SQLite, from runs that are recorded here and now."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from llmbench_mlflow import _numbers
from mlflow import MlflowClient

import llmbench

SUITE = """name: small
matrix: {model: [gpt], size: tiny, task: classification, stage: [finetune, eval], dataset: synthetic}
defaults: {batch_size: 4, seq_len: 32, vocab_size: 400, train_examples: 60, test_examples: 12, steps: {finetune: 4}}
repeats: 2
budget: {seconds: 0.2, verify_seconds: 15}
verify: verdict
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.yaml").write_text(SUITE)
    return llmbench.run(folder / "small.yaml", output=folder / "small", quiet=True)


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return MlflowClient()


def logged(client, name="llmbench"):
    experiment = client.get_experiment_by_name(name).experiment_id
    runs = client.search_runs([experiment])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def test_it_is_found_as_any_plugin_is():
    found = llmbench.found_plugins()
    (row,) = found[(found["kind"] == "reporter") & (found["name"] == "mlflow")].to_dict("records")
    assert row["owner"] == "llmbench-mlflow"


def test_cells_quality_verdicts_and_the_report_are_in_the_store(recorded, client, tmp_path):
    said = recorded.render("mlflow")
    (parent,), cells = logged(client)
    assert said.startswith("small: 2 cells logged as run ") and parent.info.run_id in said
    by_stage = {cell.data.params["stage"]: cell for cell in cells}
    for told in recorded.document["cells"]:
        cell = by_stage[told["stage"]]
        assert cell.data.metrics["step_ms"] == pytest.approx(told["step_ms"])
        assert cell.data.metrics["shares.forward"] == pytest.approx(told["shares"]["forward"])
        assert cell.data.tags["llmbench.verdict"] == told["verdict"] and cell.data.tags["llmbench.status"] == "ok"
        assert cell.data.tags["mlflow.parentRunId"] == parent.info.run_id and cell.info.status == "FINISHED"
        assert cell.info.end_time > cell.info.start_time
    scored = by_stage["eval"].data.metrics
    for name in ("quality.accuracy", "oracle.accuracy", "baseline.accuracy"):
        assert 0 <= scored[name] <= 1
    assert any(name.startswith("cause.") and name.endswith("measured_x") for name in by_stage["finetune"].data.metrics)
    losses = client.get_metric_history(by_stage["finetune"].info.run_id, "training.loss")
    assert len(losses) >= 2 and all(math.isfinite(point.value) for point in losses)
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names == {"report.html", "report.md", "report.json", "suite.yaml", "environments.json"}
    report = json.loads(Path(client.download_artifacts(parent.info.run_id, "report.json")).read_text())
    assert [cell["cell_id"] for cell in report["cells"]] == [c["cell_id"] for c in recorded.document["cells"]]
    assert "<canvas" in Path(client.download_artifacts(parent.info.run_id, "report.html")).read_text()


def test_the_same_run_is_logged_once_and_a_run_that_was_cut_off_again(recorded, client):
    recorded.render("mlflow")
    assert "logged before" in recorded.render("mlflow") and len(logged(client)[0]) == 1
    client.delete_tag(logged(client)[0][0].info.run_id, "llmbench.fingerprint")
    assert "cells logged" in recorded.render("mlflow") and len(logged(client)[0]) == 2


def test_the_experiment_is_mlflows_variable(recorded, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team")
    assert "experiment team" in recorded.render("mlflow") and len(logged(client, "team")[1]) == 2


def test_a_store_that_refuses_is_one_line(recorded, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://somewhere")
    with pytest.raises(llmbench.UserError, match="nonsense") as told:
        recorded.render("mlflow")
    assert "\n" not in str(told.value)


def test_what_is_not_known_is_not_logged():
    cell = {"a": None, "b": float("nan"), "c": True, "d_ci": [1.0, 2.0], "e": {"f": 3}, "g": "text", "seed": 4}
    assert dict(_numbers(cell)) == {"d_low": 1.0, "d_high": 2.0, "e.f": 3.0}
