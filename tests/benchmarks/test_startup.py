"""What a cell costs before it does its work: a warm fork server against a fresh process. Run with `-m slow`.

The start-up cost is the wall time of a whole cell, from asking for the process to its record, less what the worker
spends on the work itself (the function that is timed here does none).
"""

from __future__ import annotations

import json
import statistics
import time

import pytest

from llmbench.execution.local import LocalExecutor
from llmbench.records.read import read_runs

pytestmark = pytest.mark.slow

ROUNDS = 7


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_starting_a_process_that_can_run_a_cell(benchmark, tmp_path, start_method):
    """Time a call into the worker; `spawn` has to import torch each time, the server has done so once."""
    with LocalExecutor(tmp_path / "logs", start_method=start_method) as executor:
        executor.call("llmbench.worker.machine.environment:devices")
        benchmark.pedantic(executor.call, args=("llmbench.worker.machine.environment:devices",), rounds=ROUNDS)


def test_a_forked_cell_starts_several_times_faster_than_a_spawned_one(tmp_path):
    """Interleave both, and compare medians; no absolute time is asserted."""
    seconds = {"forkserver": [], "spawn": []}
    with (
        LocalExecutor(tmp_path / "a" / "logs") as forked,
        LocalExecutor(tmp_path / "b" / "logs", start_method="spawn") as spawned,
    ):
        forked.call("llmbench.worker.machine.environment:devices")
        for _ in range(ROUNDS):
            for name, executor in (("forkserver", forked), ("spawn", spawned)):
                begin = time.perf_counter()
                executor.call("llmbench.worker.machine.environment:devices")
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(json.dumps({"start_up_s": medians}))
    assert medians["spawn"] > 3 * medians["forkserver"]


def test_what_a_cell_of_quick_costs_beside_its_work(benchmark, tmp_path):
    """Run cells of `quick`; report their wall time less measuring, training and scoring, all but the first's."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "llmbench", "run", "quick", "-k", "classification", "-o", str(tmp_path / "run")]
    benchmark.pedantic(subprocess.run, args=(command,), kwargs={"check": True, "capture_output": True}, rounds=1)
    records = read_runs(tmp_path / "run")[0].records
    overhead = [r["wall_s"] - sum(r["spent"].values()) for r in records[1:]]
    benchmark.extra_info["start_up_s"] = statistics.median(overhead)
    print(json.dumps({"start_up_s": statistics.median(overhead), "cells": len(overhead)}))
    assert statistics.median(overhead) < 0.5 * statistics.median(r["wall_s"] for r in records)
