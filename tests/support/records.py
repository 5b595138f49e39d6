"""Records as a worker writes them, for tests of what is made of them."""

from __future__ import annotations

from llmbench.contract.cell import Cell
from llmbench.contract.job import Job, new_record


def record(status="ok", repeat=0, attempt=0, stage="finetune", step_s=(0.1, 0.1, 0.1, 0.1), **fields):
    cell = Cell("m|1", "tiny", "t", "made@1", stage)
    job = Job.single(cell, repeat=repeat, attempt=attempt, repeats=2, environment_id="e1")
    if status == "ok":
        n = len(step_s)
        measured = {
            "wall_s": 3.0,
            "samples": {"step_s": list(step_s), "step_tokens": [50] * n, "step_examples": [4] * n},
            "phases": {"input_s": [0.06, 0.06], "forward_s": [0.02, 0.02], "backward_s": [0.02, 0.02]},
            "counts": {"tokens": 50.0, "padding_tokens": 150.0, "examples": 4.0},
            "memory": {"peak_mib": 100.0 + repeat, "capacity_mib": 1000.0},
        }
        fields = {**measured, **fields}
    return new_record(job, status, **fields)


def scored(**fields):
    quality = {"values": {"acc": 0.6, "ppl": 20.0}, "examples": 30, "primary": "acc"}
    quality["direction"] = {"acc": "higher", "ppl": "lower"}
    oracle = {"kind": "exact", "values": {"acc": 0.8, "ppl": 10.0}}
    baselines = {"majority": {"acc": 0.5, "ppl": 90.0}, "other": {"acc": 0.3, "ppl": 40.0}}
    return record(quality=quality, oracle=oracle, baselines=baselines, **fields)
