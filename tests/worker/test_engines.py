"""Engines are plugins: one of no framework runs whole jobs, and none of our code imports torch for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.limits import HANG_S
from support.paths import SUPPORT

import llmbench
from llmbench.contract.errors import PluginError
from llmbench.plugins.discovery import discover
from llmbench.report.cells.summary import summarise

PLUGIN = SUPPORT / "numpy_engine.py"
SUITE = """name: small
matrix: {model: counts, size: tiny, task: classification, stage: [finetune, eval], dataset: synthetic}
defaults: {batch_size: 16, seq_len: 32, vocab_size: 400, train_examples: 400, test_examples: 60, steps: 150}
repeats: 1
budget: {seconds: 0.3, verify_seconds: 60}  # far more than is needed: trials end with their pairs
verify: verdict
"""
RUN = """
import builtins, sys
imported = builtins.__import__
def without_torch(name, globals=None, *rest, **more):
    asks = str((globals or {}).get("__name__"))
    if name.partition(".")[0] == "torch" and asks.startswith("llmbench"):
        raise AssertionError(f"{asks} imports torch")
    return imported(name, globals, *rest, **more)
builtins.__import__ = without_torch
from pathlib import Path
from llmbench.suite.plan import plan_cells
from llmbench.plugins.discovery import discover
from llmbench.contract.job import Job
from llmbench.records.json_lines import dump_json
from llmbench.suite.file import load_suite
from llmbench.worker.job import run_job
plugin, folder = sys.argv[1:]
suite = load_suite(str(Path(folder) / "small.yaml"))
plan = plan_cells(suite, discover([plugin]))
for planned in plan.cells:
    job = Job.single(planned.cell, suite.budget, folder, sources=plan.sources, corpora=plan.corpora,
                     plugin_files=(plugin,), verify=suite.verify)
    print("RECORD", dump_json(run_job(job, lambda event: None)))
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numpy")
    (folder / "small.yaml").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(PLUGIN), str(folder)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RECORD ")]
    return {record["cell"]["stage"]: record for record in found}


def test_an_engine_of_no_framework_trains_and_is_scored_without_torch(records):
    assert {record["status"] for record in records.values()} == {"ok"}
    losses = [loss for _, loss in records["finetune"]["training"]["loss"]]
    assert losses[-1] < losses[0]
    assert records["eval"]["quality"]["values"]["accuracy"] > 0.3  # four classes


def test_its_step_is_measured_in_phases(records):
    phases = records["finetune"]["phases"]
    assert set(phases) == {"input_s", "copy_s", "forward_s", "backward_s", "optimizer_s"}
    assert all(min(seconds) >= 0 for seconds in phases.values())


def test_causes_for_any_engine_are_tried_and_others_say_that_they_are_not_written_for_it(records):
    found = records["finetune"]["interventions"]
    assert found["input"]["outcome"] in ("measured", "not_selected")
    assert found["input"]["predicted_x"] > 1
    assert found["padding"]["outcome"] != "unisolated"
    assert found["optimizer"]["reason"] == "the engine numpy cannot leave the update out" or (
        found["optimizer"]["outcome"] == "not_selected"
    )
    for name in ("attention", "kernel", "host", "compute"):
        assert found[name]["reason"] == "not written for the engine numpy"


def test_what_is_not_counted_is_null_with_the_reason(records):
    counts = records["finetune"]["counts"]
    assert counts["flops"] is None and counts["bytes"] is None
    assert counts["model_flops"] > 0
    assert records["finetune"]["operators"]["notes"] == ["not counted"]


def test_a_model_whose_engine_nobody_brings_is_one_line():
    registry = discover()
    with pytest.raises(PluginError, match=r"unknown engine 'kers' .did you mean 'keras'"):
        registry.get("engine", "kers")


def test_the_plugin_is_listed():
    registry = discover([PLUGIN])
    assert registry.get("engine", "numpy").description == "token counts"
    assert isinstance(registry.get("engine", "torch"), llmbench.EngineSpec)


def test_reports_say_why_what_the_engine_does_not_count_is_unknown(records):
    cells = {cell["stage"]: cell for cell in summarise(records.values())}
    assert cells["finetune"]["flops_per_step"] is None
    assert cells["finetune"]["reasons"]["flops_per_step"]
    assert cells["finetune"]["step_ms"] > 0
