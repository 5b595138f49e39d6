"""A trial of remedies: one process that times a configuration, or trains and scores it.

See `llmbench.analysis.remedy_choice`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llmbench.contract.job import Job, learns, new_record
from llmbench.contract.specs import ModelSpec
from llmbench.plugins.registry import Registry
from llmbench.worker.cell_run import TIMED_ORDER_STEPS, build_request, collate_context, prepare_training, score, start
from llmbench.worker.data.features import CellData, training_order
from llmbench.worker.machine import monitor
from llmbench.worker.measuring import loops
from llmbench.worker.measuring.passes import timed_pass
from llmbench.worker.measuring.step_kinds import Prediction, Training

Emit = Callable[[dict[str, Any]], None]

SCORED_BATCH = 64  # rows of a batch in which what was trained is scored, whatever it was trained in
CI_PCT = 1.0  # of one process: it then takes what `remedy_seconds` allows


def try_remedy(job: Job, registry: Registry, model: ModelSpec, data: CellData, emit: Emit) -> dict[str, Any]:
    """Run the job's trial and return its record: `samples` and `memory`, or `training` and `quality`."""
    if learns(job.cell.role):
        return learn(job, registry, model, data, emit)
    return measure(job, registry, model, data, emit)


def measure(job: Job, registry: Registry, model: ModelSpec, data: CellData, emit: Emit) -> dict[str, Any]:
    """Time whole steps from the cell's first state; nothing else is done in the process."""
    cell, train = job.cell, job.cell.stage != "eval"
    engine, _ = start(job, registry, model, data)
    if train:
        prepare_training(engine, model, cell)
    features, layout = data.train if train else data.test, model.layouts[data.task.head]
    feed = loops.Feed(engine, features, layout, collate_context(cell, data, train), cell.workers)
    work = (Training if train else Prediction)(model, build_request(job, model, data))
    emit({"event": "measure"})
    order = training_order(features, layout, cell, TIMED_ORDER_STEPS)
    seconds, watch = job.budget.remedy_seconds, monitor.Monitor(cell.device)
    clean = timed_pass(engine, feed(order), work.step, seconds=seconds, ci_pct=CI_PCT, watches={"health": watch})
    health = clean.seen["health"]
    return new_record(
        job,
        "ok",
        samples=clean.samples,
        counts={"timing": clean.how},
        memory={"peak_mib": engine.peak_memory_mib(), "capacity_mib": engine.capacity_mib()},
        health=health,
        warnings=monitor.warnings(health),
    )


def learn(job: Job, registry: Registry, model: ModelSpec, data: CellData, emit: Emit) -> dict[str, Any]:
    """Train from the cell's first state and score; a cell of the stage eval is only scored.

    What was trained is scored in batches of one size, since a layout may draw what is asked batch by batch (masks).
    """
    cell = job.cell
    engine, _ = start(job, registry, model, data)
    scored, training = job, None
    if cell.stage != "eval":
        prepare_training(engine, model, cell)
        layout = model.layouts[data.task.head]
        feed = loops.Feed(engine, data.train, layout, collate_context(cell, data, True), cell.workers)
        training = loops.train(engine, feed(training_order(data.train, layout, cell, cell.steps)), cell.steps, emit)
        scored = replace(job, cell=replace(cell, batch_size=SCORED_BATCH, bucketing=True))
    quality = score(scored, registry, model, data, engine, emit, only_model=True)["quality"]
    return new_record(job, "ok", training=training, quality=quality)
