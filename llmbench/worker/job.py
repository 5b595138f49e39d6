"""One job in, one record out. This is the page to read: what is run for a cell, and in which order."""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbench.contract.engines import Engine
from llmbench.contract.errors import Unsupported
from llmbench.contract.job import Job, new_record
from llmbench.contract.specs import Batch, ModelSpec
from llmbench.layouts import IGNORE
from llmbench.plugins.discovery import discover
from llmbench.plugins.registry import Registry
from llmbench.worker.cell_run import (
    TIMED_ORDER_STEPS,
    Emit,
    build,
    build_request,
    collate_context,
    first_step,
    prepare_training,
    save_checkpoint,
    score,
    start,
)
from llmbench.worker.data.features import CellData, load_cell_data, training_order
from llmbench.worker.largest_batch import PREDICT_STEPS, TRAIN_STEPS, Rehearsal, add_largest_batch, longest, unending
from llmbench.worker.machine import allocator, monitor
from llmbench.worker.machine.energy import EnergyMeter
from llmbench.worker.machine.monitor import Monitor
from llmbench.worker.measuring import loops
from llmbench.worker.measuring.passes import MORE_TIMES, Watch, paired_order, pairs_for, phase_pass, timed_pass
from llmbench.worker.measuring.step_kinds import Prediction, Training, Work
from llmbench.worker.remedy_trial import try_remedy
from llmbench.worker.scoring import check_metrics

POOL_ORDER_STEPS = 64


def run_job(job: Job, emit: Emit) -> dict[str, Any]:
    """Run one repeat of one cell and return its record.

    Every repeat times the cell from the same state; repeat 0 also trains (and saves a checkpoint) or is scored.
    Raises Unsupported where the cell cannot run here; any other exception is the cell's error.
    """
    cwd = Path(job.cwd_plugins) if job.cwd_plugins else None
    registry = discover(job.plugin_files, cwd, left_out=job.left_out)
    model: ModelSpec = registry.model(job.cell.model, job.weights)
    emit({"event": "setup"})
    data = load_cell_data(job, registry)
    if job.cell.keep_memory:
        allocator.keep_freed()
    if data.task.head not in model.layouts:
        raise Unsupported(f"model {model.name!r} has no {data.task.head!r} head")
    if job.cell.remedy_of is not None:
        return try_remedy(job, registry, model, data, emit)
    if job.repeat == 0 and job.scored:
        check_metrics(job, data.task, registry)
    run = evaluate if job.cell.stage == "eval" else learn
    record = run(job, registry, model, data, emit)
    if job.repeat == 0 and job.budget.largest_batch:
        limited = job.cell.device != "cpu" or job.budget.memory_mib is not None
        rehearsal = functools.partial(rehearse, job, registry, model, data)
        add_largest_batch(record, rehearsal, job.cell.batch_size, emit, limited=limited)
    return record


def learn(job: Job, registry: Registry, model: ModelSpec, data: CellData, emit: Emit) -> dict[str, Any]:
    """Pretrain or fine-tune: time it from the initial state, then (repeat 0) train from that state."""
    cell = job.cell
    engine, loaded = start(job, registry, model, data)
    watch = engine.compile_watch()
    prepare_training(engine, model, cell)
    feed = loops.Feed(
        engine, data.train, model.layouts[data.task.head], collate_context(cell, data, True), cell.workers
    )
    first_step_s = first_step(job, registry, model, data, engine, feed)
    emit({"event": "measure"})
    spent = Spent()
    work = Training(model, build_request(job, model, data))
    with spent("measure_s"):
        fields = measure(job, engine, feed, work)
    fields |= {"checkpoint": loaded, "spent": spent.seconds}
    if watch is not None:
        fields["compilation"] = watch.stop(first_step_s, statistics.median(fields["samples"]["step_s"]))
    if job.repeat == 0 and job.verify != "none":
        with spent("verify_s"):
            try_causes(job, registry, model, engine, feed, work, fields, emit)
    if job.repeat == 0:
        del work  # with the last loss, which holds on to the parameters
        engine, loaded = start(job, registry, model, data)
        prepare_training(engine, model, cell)
        feed = loops.Feed(engine, data.train, feed.layout, feed.ctx, cell.workers)
        order = training_order(data.train, feed.layout, cell, cell.steps)
        with spent("train_s"):
            fields["training"] = loops.train(engine, feed(order), cell.steps, emit)
        fields["training"]["examples"] = data.train_examples
        fields["checkpoint"] = {**loaded, "id": cell.cell_id}
        save_checkpoint(job, engine, fields["training"])
        if job.scored:
            with spent("score_s"):
                fields.update(score(job, registry, model, data, engine, emit))
    return new_record(job, "ok", **fields)


def evaluate(job: Job, registry: Registry, model: ModelSpec, data: CellData, emit: Emit) -> dict[str, Any]:
    """Time prediction over the test split, and (repeat 0) score it."""
    cell = job.cell
    engine, loaded = start(job, registry, model, data)
    feed = loops.Feed(
        engine, data.test, model.layouts[data.task.head], collate_context(cell, data, False), cell.workers
    )
    emit({"event": "measure"})
    spent = Spent()
    with spent("measure_s"):
        element_bytes = registry.get("precision", cell.precision).element_bytes
        work = Prediction(model, build_request(job, model, data), element_bytes)
        fields = measure(job, engine, feed, work)
    fields |= {"checkpoint": loaded, "spent": spent.seconds}
    if job.repeat == 0 and job.verify != "none":
        with spent("verify_s"):
            try_causes(job, registry, model, engine, feed, work, fields, emit)
    if job.repeat == 0 and job.scored:
        with spent("score_s"):
            fields.update(score(job, registry, model, data, engine, emit))
    return new_record(job, "ok", **fields)


class Spent:
    """Wall seconds of the parts of a job; the rest of its wall time is what starting and preparing took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin


def measure(job: Job, engine: Engine, feed: loops.Feed, work: Work) -> dict[str, Any]:
    """Run the clean pass, the phase pass and (repeat 0) the trace pass; return the record's fields."""
    cell, seconds = job.cell, job.budget.seconds / job.repeats
    order = training_order(feed.features, feed.layout, cell, TIMED_ORDER_STEPS)
    watches: dict[str, Watch] = {"health": Monitor(cell.device), "energy": EnergyMeter(cell.device)}
    clean = timed_pass(
        engine, feed(order), work.step, seconds=seconds, ci_pct=job.budget.ci_pct, note=work.note, watches=watches
    )
    memory: dict[str, Any] = {"peak_mib": engine.peak_memory_mib(), "capacity_mib": engine.capacity_mib()}
    memory |= work.kept()
    step_s = statistics.median(clean.samples["step_s"])
    pairs, most = pairs_for(step_s, seconds), pairs_for(step_s, MORE_TIMES * seconds)
    parts = phase_pass(engine, feed(paired_order(order[::-1], most)), work, pairs, most)
    fields: dict[str, Any] = {
        "samples": {**clean.samples, **parts.samples, **work.samples()},
        "phases": parts.phases,
        "counts": {**mean_counts(clean.samples), "parameters": engine.parameters(), "timing": clean.how},
        "memory": memory,
        "health": clean.seen["health"],
        "energy": clean.seen["energy"],
        "warnings": monitor.warnings(clean.seen["health"]),
    }
    if job.trace == "all" or (job.trace == "first" and job.repeat == 0):
        batch = typical_batch(feed, order[: len(clean.samples["step_s"])])
        memory.update(engine.memory_parts(batch, train=work.trains))
        fields["operators"] = engine.trace(batch, train=work.trains, max_new_tokens=work.max_new_tokens)
        fields["counts"].update(work.counts(fields["operators"]))
        fields["counts"]["labelled_share"] = labelled_share(batch)
    return fields


def labelled_share(batch: Batch) -> float | None:
    """Return the share of a batch's positions that have a label; None where labels are not one per position."""
    labels = batch.arrays.get("labels")
    if labels is None or len(labels.shape) != 2:
        return None
    return float((labels != IGNORE).sum()) / math.prod(labels.shape)


def try_causes(
    job: Job,
    registry: Registry,
    model: ModelSpec,
    engine: Engine,
    feed: loops.Feed,
    work: Work,
    fields: dict[str, Any],
    emit: Emit,
) -> None:
    """Remove the causes that the job asks for and measure again; fill in the record's `interventions`, `together`."""
    from llmbench.worker.verification.cell_trial import causes, make_cell_trial
    from llmbench.worker.verification.verify import verify_causes

    cell = job.cell
    order = training_order(feed.features, feed.layout, cell, POOL_ORDER_STEPS)
    memory = fields["memory"]
    limit = job.budget.memory_mib or memory["capacity_mib"]
    used = memory["peak_mib"] / limit if limit else 0.0
    trial = make_cell_trial(engine, feed, order, work, cell, name=model.engine, memory_used=used)
    fields["interventions"], fields["together"] = verify_causes(
        trial,
        fields,
        causes(registry, trial.device),
        mode=job.verify,
        seconds=job.budget.verify_seconds,
        seed=cell.seed,
        emit=emit,
    )


def mean_counts(samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return what the steps of a clean pass hold on average."""
    names = {"tokens": "step_tokens", "padding_tokens": "step_padding_tokens", "examples": "step_examples"}
    unknown = dict.fromkeys(("flops", "recomputed_flops", "model_flops", "bytes", "kernels"))
    return {**{name: statistics.fmean(samples[key]) for name, key in names.items()}, **unknown}


def typical_batch(feed: loops.Feed, order: Sequence[list[int]]) -> Batch:
    """Return the batch of median size among (at most 50 of) `order`."""
    lengths = [max(feed.layout.length(feed.features[i]) for i in indices) for indices in order[:50]]
    middle = sorted(range(len(lengths)), key=lengths.__getitem__)[len(lengths) // 2]
    return next(loops.Feed(feed.engine, feed.features, feed.layout, feed.ctx, 0)([order[middle]]))


def rehearse(job: Job, registry: Registry, model: ModelSpec, data: CellData) -> Rehearsal:
    """Return what the largest batch is searched with: a fresh model, and the longest sequences."""
    cell, train = job.cell, job.cell.stage != "eval"
    request = build_request(job, model, data)
    layout, ctx = model.layouts[data.task.head], collate_context(cell, data, train)
    engine = build(job, registry, model, request if train else unending(request))
    feature = longest(data.train if train else data.test, layout, ctx)
    if train:
        prepare = functools.partial(prepare_training, engine, model, cell)
        return Rehearsal(engine, feature, layout, ctx, loops.train_step, TRAIN_STEPS, prepare)
    step = Prediction(model, request).step
    return Rehearsal(engine, feature, layout, ctx, step, PREDICT_STEPS, engine.synchronize)
