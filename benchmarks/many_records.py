"""Records in great number, as workers write them: what reports are timed with (`report_scale.py`)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from llmbench.contract.cell import Cell
from llmbench.contract.job import Job, new_record

REPEATS, STEPS = 3, 20
CAUSES = (("optimizer", "where", "algorithm"), ("attention", "where", "algorithm"), ("kernel", "why", "hardware"))
PAIRS = 8


def records(count: int, *, repeats: int = REPEATS, verified: bool = False, seed: int = 0) -> Iterator[dict]:
    """Yield `count` records of count / repeats cells. `verified`: repeat 0 tried three causes, in 8 pairs each."""
    rng = random.Random(seed)
    axes = (("gpt", "bert", "lstm"), ("classification", "qa"), ("finetune", "eval"), ("fp32", "bf16"))
    points = itertools.cycle(itertools.product(*axes))
    for number in range(-(-count // repeats)):
        model, task, stage, precision = next(points)
        cell = Cell(model, "tiny", task, "made@1", stage, precision=precision, seed=number)
        base = 0.01 * 2 ** rng.uniform(0, 4)
        for repeat in range(min(repeats, count - number * repeats)):
            yield one(rng, cell, base, repeat, repeats, verified)


def one(rng: random.Random, cell: Cell, base: float, repeat: int, repeats: int, verified: bool) -> dict:
    speed = base * rng.lognormvariate(0, 0.02)
    steps = [speed * rng.lognormvariate(0, 0.03) for _ in range(STEPS)]
    parts = {"input": 0.05, "copy": 0.01, "forward": 0.34, "backward": 0.5, "optimizer": 0.1}
    fields: dict = {
        "wall_s": 3.0,
        "started_at": "2026-01-01T00:00:00+00:00",
        "samples": {
            "step_s": steps,
            "step_tokens": [900] * STEPS,
            "step_examples": [16] * STEPS,
            "paired_step_s": steps[:10],
        },
        "phases": {f"{name}_s": [share * s for s in steps[:10]] for name, share in parts.items()},
        "counts": {"tokens": 900.0, "padding_tokens": 124.0, "examples": 16.0},
        "memory": {"peak_mib": 500.0 + rng.random(), "capacity_mib": 24000.0},
    }
    if repeat == 0:
        accuracy = rng.random()
        fields["quality"] = {"values": {"accuracy": accuracy}, "examples": 200, "primary": "accuracy"}
        fields["quality"]["direction"] = {"accuracy": "higher"}
        fields["oracle"] = {"kind": "exact", "values": {"accuracy": 1.0}}
        fields["baselines"] = {"majority": {"accuracy": 0.25}}
        fields["training"] = {"steps": 60, "seconds": 60 * base, "tokens": 54000, "loss": [[1, 6.0], [60, 3.0]]}
        if verified:
            fields["interventions"] = {name: trial(rng, base, axis, kind) for name, axis, kind in CAUSES}
    job = Job.single(cell, repeat=repeat, repeats=repeats, environment_id="e1")
    return new_record(job, "ok", **fields)


def trial(rng: random.Random, base: float, axis: str, kind: str) -> dict:
    gain = rng.uniform(1.0, 2.0)
    clean = [base * rng.lognormvariate(0, 0.03) for _ in range(PAIRS)]
    treated = [c / gain * rng.lognormvariate(0, 0.02) for c in clean]
    made = {"axis": axis, "class": kind, "outcome": "measured", "advice": "something", "predicted_x": gain}
    return {**made, "clean_s": clean, "treated_s": treated, "share": 1.0}
