"""The proof for a user's own model and loader: measure the step, try every cause, give it back as it was."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbench.contract.cell import Budget, Cell
from llmbench.contract.job import Job, new_record
from llmbench.plugins.discovery import discover
from llmbench.plugins.registry import Registry
from llmbench.worker.diagnosis.restore import restore_after
from llmbench.worker.diagnosis.time_budget import LEAST_END_S, BoundedTrial, TimeBudget
from llmbench.worker.diagnosis.user_engine import UserBatch, UserEngine, endless, load_target, pool_of, wrap_batches
from llmbench.worker.diagnosis.user_step import UserStep, batch_tensors, user_trial, watch_step
from llmbench.worker.machine.environment import capture
from llmbench.worker.machine.monitor import Monitor, warnings
from llmbench.worker.measuring.loops import run_steps
from llmbench.worker.measuring.passes import affordable_pairs, run_clean_pass, run_phase_pass
from llmbench.worker.torch_engine import padding as paddings
from llmbench.worker.torch_engine.memory import limit_used
from llmbench.worker.verification.cell_trial import POOL_BATCHES, causes
from llmbench.worker.verification.verify import verify_causes

FEWEST_BATCHES = 6  # of the pool
POOL_S = 0.35  # seconds that a round of the pool may take
#: Of the budget: the pool's batches may take so long to make, the clean pass and the phase pass so long to measure.
POOL_SHARE, CLEAN_SHARE, PHASE_SHARE = 0.1, 0.12, 0.06
#: Of what is left: steps are so long that the usual fewest would take more, so there are fewer of them.
CLEAN_MOST, PHASE_MOST = 0.25, 0.12
CLEAN_LEAST, PAIRS_LEAST = 6, 2
END_SHARE = 0.05
TRIALS_SHARE = 0.85  # of the time that is left: the fewest pairs of a trial may take longer than its part
Emit = Callable[[dict[str, Any]], None]


def diagnose_target(target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"record", "environment", "causes"}` of the target's step, the last what each cause is.

    `options` are those of `diagnose_given`. Besides, `started_at` (of `time.time`) says when the command began, whose
    budget it is.
    """
    options = dict(options)
    since_s = max(0.0, time.time() - options.pop("started_at", time.time()))  # a process takes seconds to begin
    budget_s = options.pop("budget_s", 60.0)
    end_s = max(LEAST_END_S, min(since_s, END_SHARE * budget_s))  # ending takes about as long as beginning did
    allowance = TimeBudget(budget_s, time.perf_counter() - since_s, end_s)
    allowance.spent_s["start_s"] = since_s
    plugins = [options.pop(name, default) for name, default in (("plugin_files", ()), ("cwd_plugins", None))]
    with allowance.spending("start_s"):
        environment, registry = capture(), find_plugins(*plugins)
    # a spawned process starts its own children by spawning, too; a script of the user's would not, and a data set that
    # is defined in FILE.py cannot be found by a loader's worker that was
    multiprocessing.set_start_method(None, force=True)
    with allowance.spending("target_s"):
        given = load_target(target)
    record = diagnose_given(given, **options, name=target, allowance=allowance, registry=registry)
    return {"record": record, "environment": environment, "causes": describe_causes(registry)}


def find_plugins(plugin_files: Sequence[str] = (), cwd_plugins: str | None = None) -> Registry:
    """Return the plugins that are found."""
    return discover(plugin_files, Path(cwd_plugins) if cwd_plugins else None)


def describe_causes(registry: Registry) -> dict[str, str]:
    """Return what each cause is."""
    return {name: registry.get("cause", name).description for name in registry.names("cause")}


def diagnose_given(
    given: Mapping[str, Any],
    *,
    name: str = "user",
    budget_s: float = 60.0,
    mode: str = "verdict",
    seed: int = 0,
    allowance: TimeBudget | None = None,
    registry: Registry | None = None,
    emit: Emit = lambda event: None,
) -> dict[str, Any]:
    """Return the record of a user's step with its causes tried, in `budget_s` seconds, or what `allowance` has left.

    Model, optimizers and random states are given back as they were.
    """
    allowance = allowance or TimeBudget(budget_s, time.perf_counter())
    registry = registry or find_plugins()
    precision = str(given.get("precision") or "fp32")
    engine = UserEngine(given, registry.get("precision", precision))
    with restore_after(engine) as kept:
        with allowance.spending("target_s"):
            pool = pool_of(given["data"], POOL_BATCHES, least=FEWEST_BATCHES, seconds=POOL_SHARE * allowance.budget_s)
        work = UserStep()
        with allowance.spending("measure_s"):
            trains, found = watch_step(engine, pool[0], kept)
            if engine.optimizer is None:
                engine.optimizer = found  # type: ignore[assignment]
            work.trains = trains
            padding = paddings.find_padding(engine.module, pool)
            fields = measure(engine, work, wrap_batches(endless(given["data"]), padding), allowance)
        cell = describe_cell(name, engine, pool[0], precision, seed, given["data"])
        budget = Budget(seconds=allowance.budget_s, verify_seconds=allowance.budget_s)
        job = Job.single(cell, budget, verify=mode)
        trial = user_trial(engine, work, pool[: pool_size(fields)], given["data"])
        trial.step_s = statistics.median(fields["samples"]["step_s"])
        with allowance.spending("verify_s"):
            tried = try_causes(trial, registry, fields, mode, allowance, seed, emit)
            fields["interventions"], fields["together"] = tried
    spent = dict(allowance.spent_s)
    return new_record(job, "ok", **fields, spent=spent, wall_s=allowance.clock() - allowance.begun_s)


def measure(engine: UserEngine, work: UserStep, batches: Iterator[UserBatch], allowance: TimeBudget) -> dict[str, Any]:
    """Return the fields of the clean pass and the phase pass; long steps get few of them, so that time is left."""
    budget_s = allowance.budget_s
    (step_s,) = run_steps(engine, batches, work.step, 1)["step_s"]  # behind the first one, which may compile
    watch = Monitor(engine.device.type)
    clean = run_clean_pass(
        engine,
        batches,
        work.step,
        seconds=CLEAN_SHARE * budget_s,
        ci_pct=1.0,
        watches={"health": watch},
        most_steps=allowance.steps(step_s, CLEAN_MOST, CLEAN_LEAST),
    )
    step_s = statistics.median(clean.samples["step_s"])
    affordable = allowance.steps(step_s, PHASE_MOST, 2 * PAIRS_LEAST) // 2
    parts = run_phase_pass(engine, batches, work, min(affordable, affordable_pairs(step_s, PHASE_SHARE * budget_s)))
    mean = {key: statistics.fmean(clean.samples[f"step_{key}"]) for key in ("tokens", "padding_tokens", "examples")}
    return {
        "samples": {**clean.samples, **parts.samples},
        "phases": parts.phases,
        "counts": {**mean, "parameters": engine.parameters(), "timing": clean.how},
        "memory": {"peak_mib": engine.peak_memory_mib(), "capacity_mib": engine.capacity_mib()},
        "health": clean.readings["health"],
        "warnings": warnings(clean.readings["health"]),
    }


def pool_size(fields: Mapping[str, Any]) -> int:
    """Return how many batches the trials take turns on: all, or fewer where steps are long."""
    step_s = statistics.median(fields["samples"]["step_s"])
    return max(FEWEST_BATCHES, min(POOL_BATCHES, math.ceil(POOL_S / step_s)))


def try_causes(
    trial: BoundedTrial,
    registry: Registry,
    fields: Mapping[str, Any],
    mode: str,
    allowance: TimeBudget,
    seed: int,
    emit: Emit,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return interventions and their interaction. What the end of the budget stopped is `out_of_time`."""
    memory = fields["memory"]
    used = memory["peak_mib"] / memory["capacity_mib"]
    trial.memory_used = max(used, limit_used() or 0.0) if trial.device == "cpu" else used
    allowance.bound(trial)
    seconds = TRIALS_SHARE * (trial.until - allowance.clock())
    return verify_causes(
        trial, fields, causes(registry, trial.device), mode=mode, seconds=seconds, seed=seed, emit=emit
    )


def describe_cell(name: str, engine: UserEngine, batch: Any, precision: str, seed: int, data: Any) -> Cell:
    """Return a cell that says what was diagnosed."""
    shapes = [t.shape for t in batch_tensors(batch) if t.dim() == 2]
    rows, length = max(shapes, key=lambda s: s[1]) if shapes else (len(next(iter(batch_tensors(batch)))), 1)
    return Cell(
        model=type(engine.module).__name__,
        size="own",
        task="own",
        dataset=name,
        stage="finetune",
        device=str(engine.device),
        precision=precision,
        batch_size=int(rows),
        seq_len=int(length),
        steps=0,
        seed=seed,
        optimizer=type(engine.optimizer).__name__.lower() if engine.optimizer is not None else "none",
        workers=int(getattr(data, "num_workers", 0) or 0),
    )


__all__ = ["diagnose_given", "diagnose_target"]
