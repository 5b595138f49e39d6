"""One job in, one record out. This is the page to read: what is run for a cell, and in which order."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmbench.contract.engines import Engine
from llmbench.contract.job import Job, new_record
from llmbench.contract.specs import Batch
from llmbench.layouts import IGNORE
from llmbench.worker.cell_run import TIMED_ORDER_STEPS, CellRun, Emit
from llmbench.worker.data.features import training_order
from llmbench.worker.largest_batch import PREDICT_STEPS, TRAIN_STEPS, Rehearsal, add_largest_batch, longest, unending
from llmbench.worker.machine import allocator, monitor
from llmbench.worker.machine.energy import EnergyMeter
from llmbench.worker.machine.monitor import Monitor
from llmbench.worker.measuring import loops
from llmbench.worker.measuring.loops import Feed
from llmbench.worker.measuring.passes import (
    MORE_TIMES,
    Watch,
    affordable_pairs,
    order_in_pairs,
    run_clean_pass,
    run_phase_pass,
)
from llmbench.worker.measuring.step_kinds import StepKind
from llmbench.worker.remedy_trial import try_remedy
from llmbench.worker.scoring import check_metrics
from llmbench.worker.verification.cell_trial import causes, make_cell_trial
from llmbench.worker.verification.verify import verify_causes

POOL_ORDER_STEPS = 64  # batches that trials of causes may take from the start of the order


def run_job(job: Job, emit: Emit) -> dict[str, Any]:
    """Run one repeat of one cell and return its record.

    Every repeat times the cell from the same state; repeat 0 also trains (and saves a checkpoint) or is scored.
    Raises Unsupported where the cell cannot run here; any other exception is the cell's error.
    """
    run = CellRun.open(job, emit)
    if job.cell.keep_memory:
        allocator.keep_freed()
    if job.cell.remedy_of is not None:
        return try_remedy(run)
    if job.repeat == 0 and job.is_scored:
        check_metrics(job, run.data.task, run.registry)
    record = learn(run) if run.trains else evaluate(run)
    if job.repeat == 0 and job.budget.largest_batch:
        limited = job.cell.device != "cpu" or job.budget.memory_mib is not None
        add_largest_batch(record, functools.partial(rehearse, run), job.cell.batch_size, emit, limited=limited)
    return record


def learn(run: CellRun) -> dict[str, Any]:
    """Pretrain or fine-tune: time it from the initial state, then (repeat 0) train from that state."""
    job, cell = run.job, run.job.cell
    engine, loaded = run.start()
    watch = engine.compile_watch()
    run.prepare_training(engine)
    feed = run.feed(engine, train=True)
    first_step_s = run.first_step(engine, feed)
    run.emit({"event": "measure"})
    spent = Spent()
    work = run.step_kind()
    with spent("measure_s"):
        fields = measure(job, engine, feed, work)
    fields |= {"checkpoint": loaded, "spent": spent.seconds}
    if watch is not None:
        fields["compilation"] = watch.stop(first_step_s, statistics.median(fields["samples"]["step_s"]))
    if job.repeat == 0 and job.verify != "none":
        with spent("verify_s"):
            fields |= try_causes(run, engine, feed, work, fields)
    if job.repeat == 0:
        del work  # with the last loss, which holds on to the parameters
        engine, loaded = run.start()
        run.prepare_training(engine)
        feed = run.feed(engine, train=True)
        order = run.order(cell.steps, train=True)
        with spent("train_s"):
            fields["training"] = loops.train(engine, feed(order), cell.steps, run.emit)
        fields["training"]["examples"] = run.data.train_examples
        fields["checkpoint"] = {**loaded, "id": cell.cell_id}
        run.save_checkpoint(engine, fields["training"])
        if job.is_scored:
            with spent("score_s"):
                fields |= run.score(engine)
    return new_record(job, "ok", **fields)


def evaluate(run: CellRun) -> dict[str, Any]:
    """Time prediction over the test split, and (repeat 0) score it."""
    job = run.job
    engine, loaded = run.start()
    feed = run.feed(engine, train=False)
    run.emit({"event": "measure"})
    spent = Spent()
    work = run.step_kind()
    with spent("measure_s"):
        fields = measure(job, engine, feed, work)
    fields |= {"checkpoint": loaded, "spent": spent.seconds}
    if job.repeat == 0 and job.verify != "none":
        with spent("verify_s"):
            fields |= try_causes(run, engine, feed, work, fields)
    if job.repeat == 0 and job.is_scored:
        with spent("score_s"):
            fields |= run.score(engine)
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


def measure(job: Job, engine: Engine, feed: Feed, work: StepKind) -> dict[str, Any]:
    """Run the clean pass, the phase pass and (repeat 0) the trace pass; return the record's fields."""
    cell, seconds = job.cell, job.budget.seconds / job.repeats
    order = training_order(feed.features, feed.layout, cell, TIMED_ORDER_STEPS)
    watches: dict[str, Watch] = {"health": Monitor(cell.device), "energy": EnergyMeter(cell.device)}
    clean = run_clean_pass(
        engine, feed(order), work.step, seconds=seconds, ci_pct=job.budget.ci_pct, note=work.note, watches=watches
    )
    memory: dict[str, Any] = {"peak_mib": engine.peak_memory_mib(), "capacity_mib": engine.capacity_mib()}
    memory |= work.cache_memory()
    step_s = statistics.median(clean.samples["step_s"])
    pairs, most = affordable_pairs(step_s, seconds), affordable_pairs(step_s, MORE_TIMES * seconds)
    parts = run_phase_pass(engine, feed(order_in_pairs(order[::-1], most)), work, pairs, most)
    fields: dict[str, Any] = {
        "samples": {**clean.samples, **parts.samples, **work.samples()},
        "phases": parts.phases,
        "counts": {**mean_counts(clean.samples), "parameters": engine.parameters(), "timing": clean.how},
        "memory": memory,
        "health": clean.readings["health"],
        "energy": clean.readings["energy"],
        "warnings": monitor.warnings(clean.readings["health"]),
    }
    if job.trace == "all" or (job.trace == "first" and job.repeat == 0):
        batch = typical_batch(feed, order[: len(clean.samples["step_s"])])
        memory.update(engine.memory_parts(batch, train=work.trains))
        fields["operators"] = engine.trace(batch, train=work.trains, max_new_tokens=work.max_new_tokens)
        fields["counts"].update(work.counts(fields["operators"]))
        fields["counts"]["labelled_share"] = share_of_labels(batch)
    return fields


def share_of_labels(batch: Batch) -> float | None:
    """Return the share of a batch's positions that have a label; None where labels are not one per position."""
    labels = batch.arrays.get("labels")
    if labels is None or len(labels.shape) != 2:
        return None
    return float((labels != IGNORE).sum()) / math.prod(labels.shape)


def try_causes(run: CellRun, engine: Engine, feed: Feed, work: StepKind, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the causes that the job asks for and measure again; return the fields `interventions` and `together`.

    `fields` are those that measuring the step gave.
    """
    job, memory = run.job, fields["memory"]
    order = training_order(feed.features, feed.layout, job.cell, POOL_ORDER_STEPS)
    limit = job.budget.memory_mib or memory["capacity_mib"]
    share = memory["peak_mib"] / limit if limit else 0.0
    trial = make_cell_trial(engine, feed, order, work, job.cell, name=run.model.engine, memory_used=share)
    interventions, together = verify_causes(
        trial,
        fields,
        causes(run.registry, trial.device),
        mode=job.verify,
        seconds=job.budget.verify_seconds,
        seed=job.cell.seed,
        emit=run.emit,
    )
    return {"interventions": interventions, "together": together}


def mean_counts(samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return what the steps of a clean pass hold on average."""
    names = {"tokens": "step_tokens", "padding_tokens": "step_padding_tokens", "examples": "step_examples"}
    unknown = dict.fromkeys(("flops", "recomputed_flops", "model_flops", "bytes", "kernels"))
    return {**{name: statistics.fmean(samples[key]) for name, key in names.items()}, **unknown}


def typical_batch(feed: Feed, order: Sequence[list[int]]) -> Batch:
    """Return the batch of median size among (at most 50 of) `order`."""
    lengths = [max(feed.layout.length(feed.features[i]) for i in indices) for indices in order[:50]]
    middle = sorted(range(len(lengths)), key=lengths.__getitem__)[len(lengths) // 2]
    return next(dataclasses.replace(feed, workers=0)([order[middle]]))


def rehearse(run: CellRun) -> Rehearsal:
    """Build a new model for the search of the largest batch; return its steps on the longest sequences."""
    request = run.build_request()
    layout, context = run.layout, run.collate_context(train=run.trains)
    engine = run.engine(request if run.trains else unending(request))
    feature = longest(run.features(train=run.trains), layout, context)
    if run.trains:
        prepare = functools.partial(run.prepare_training, engine)
        return Rehearsal(engine, feature, layout, context, loops.train_step, TRAIN_STEPS, prepare)
    return Rehearsal(engine, feature, layout, context, run.step_kind().step, PREDICT_STEPS, engine.synchronize)
