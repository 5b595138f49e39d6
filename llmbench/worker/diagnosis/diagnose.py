"""The diagnosis of a user's own model and loader: measure the step, try every cause, restore everything."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

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
from llmbench.worker.measuring.passes import Watch, affordable_pairs, run_clean_pass, run_phase_pass
from llmbench.worker.torch_engine import padding as paddings
from llmbench.worker.torch_engine.memory import limit_used
from llmbench.worker.verification.cell_trial import POOL_BATCHES, causes
from llmbench.worker.verification.verify import verify_causes

if TYPE_CHECKING:
    from llmbench.contract.record import Emit, Health, Intervention, Measurements, Record, Samples, Together
    from llmbench.worker.machine.facts import Environment

FEWEST_BATCHES = 6  # of the pool
POOL_S = 0.35  # seconds that a round of the pool may take
# Shares of the budget:
POOL_SHARE = 0.1  # for making the batches of the pool
CLEAN_SHARE = 0.12  # for the clean pass
PHASE_SHARE = 0.06  # for the phase pass
END_SHARE = 0.05  # for the end, at most: restoring, writing and printing
# Shares of the remaining time, where steps are so long that the usual fewest of them would take more:
CLEAN_MOST = 0.25
PHASE_MOST = 0.12
CLEAN_LEAST = 6  # steps of the clean pass, however long they take
PAIRS_LEAST = 2  # of the phase pass, however long they take
TRIALS_SHARE = 0.85  # of the remaining time: the fewest pairs of a trial may take longer than its part


class TargetDiagnosis(TypedDict):
    """The diagnosis of a target, and what its reader needs to explain it."""

    record: Record
    environment: Environment
    causes: dict[str, str]  # name -> description


def diagnose_target(target: str, options: Mapping[str, Any]) -> TargetDiagnosis:
    """Diagnose the step of a target; return its record, the environment, and the description of each cause.

    `options` are those of `diagnose_given`, `plugin_files` and `cwd_plugins`, and `started_at` (of `time.time`): when
    the command began, whose budget it is.
    """
    options = dict(options)
    since_s = max(0.0, time.time() - options.pop("started_at", time.time()))  # a process takes seconds to begin
    budget_s = options.pop("budget_s", 60.0)
    end_s = max(LEAST_END_S, min(since_s, END_SHARE * budget_s))  # ending takes about as long as beginning did
    time_budget = TimeBudget(budget_s, time.perf_counter() - since_s, end_s)
    time_budget.spent_s["start_s"] = since_s
    plugins = [options.pop(name, default) for name, default in (("plugin_files", ()), ("cwd_plugins", None))]
    with time_budget.spending("start_s"):
        environment, registry = capture(), find_plugins(*plugins)
    # a spawned process starts its own children by spawning, too; a script of the user's would not, and a data set that
    # is defined in FILE.py cannot be found by a loader's worker that was
    multiprocessing.set_start_method(None, force=True)
    with time_budget.spending("target_s"):
        given = load_target(target)
    record = diagnose_given(given, **options, name=target, time_budget=time_budget, registry=registry)
    return {"record": record, "environment": environment, "causes": describe_causes(registry)}


def find_plugins(plugin_files: Sequence[str] = (), cwd_plugins: str | None = None) -> Registry:
    """Find the plugins; return their registry."""
    return discover(plugin_files, Path(cwd_plugins) if cwd_plugins else None)


def describe_causes(registry: Registry) -> dict[str, str]:
    """Return the description of each cause, by its name."""
    return {name: registry.get("cause", name).description for name in registry.names("cause")}


def diagnose_given(
    given: Mapping[str, object],
    *,
    name: str = "user",
    budget_s: float = 60.0,
    mode: str = "verdict",
    seed: int = 0,
    time_budget: TimeBudget | None = None,
    registry: Registry | None = None,
    emit: Emit = lambda event: None,
) -> Record:
    """Measure a user's step and try its causes, in `budget_s` seconds or the rest of `time_budget`; return the record.

    Model, optimizers and random states are restored.
    """
    time_budget = time_budget or TimeBudget(budget_s, time.perf_counter())
    registry = registry or find_plugins()
    precision = str(given.get("precision") or "fp32")
    engine = UserEngine(given, registry.get("precision", precision))
    with restore_after(engine) as snapshot:
        with time_budget.spending("target_s"):
            pool = pool_of(given["data"], POOL_BATCHES, least=FEWEST_BATCHES, seconds=POOL_SHARE * time_budget.budget_s)
        kind = UserStep()
        with time_budget.spending("measure_s"):
            kind.trains, optimizer = watch_step(engine, pool[0], snapshot)
            if engine.optimizer is None:
                engine.optimizer = optimizer
            padding = paddings.find_padding(engine.module, pool)
            fields = measure(engine, kind, wrap_batches(endless(given["data"]), padding), time_budget)
        cell = describe_cell(name, engine, pool[0], precision, seed, given["data"])
        budget = Budget(seconds=time_budget.budget_s, verify_seconds=time_budget.budget_s)
        job = Job.single(cell, budget, verify=mode)
        trial = user_trial(engine, kind, pool[: pool_size(fields)], given["data"])
        trial.step_s = statistics.median(fields["samples"]["step_s"])
        with time_budget.spending("verify_s"):
            tried = try_causes(trial, registry, fields, mode, time_budget, seed, emit)
            fields["interventions"], fields["together"] = tried
    spent = dict(time_budget.spent_s)
    wall_s = time_budget.clock() - time_budget.start_s
    return cast("Record", new_record(job, "ok", **fields, spent=spent, wall_s=wall_s))


def measure(engine: UserEngine, kind: UserStep, batches: Iterator[UserBatch], time_budget: TimeBudget) -> Measurements:
    """Run the clean pass and the phase pass; return their fields. Where steps are long, both take few of them."""
    budget_s = time_budget.budget_s
    (step_s,) = run_steps(engine, batches, kind.step, 1)["step_s"]  # after the first one, which may compile
    watches: dict[str, Watch] = {"health": Monitor(engine.device.type)}
    clean = run_clean_pass(
        engine,
        batches,
        kind.step,
        seconds=CLEAN_SHARE * budget_s,
        ci_pct=1.0,
        watches=watches,
        most_steps=time_budget.steps(step_s, CLEAN_MOST, CLEAN_LEAST),
    )
    step_s = statistics.median(clean.samples["step_s"])
    affordable = time_budget.steps(step_s, PHASE_MOST, 2 * PAIRS_LEAST) // 2
    paired = run_phase_pass(engine, batches, kind, min(affordable, affordable_pairs(step_s, PHASE_SHARE * budget_s)))
    health = cast("Health", clean.readings["health"])
    return {
        "samples": cast("Samples", {**clean.samples, **paired.samples}),
        "phases": paired.phases,
        "counts": {
            "tokens": statistics.fmean(clean.samples["step_tokens"]),
            "padding_tokens": statistics.fmean(clean.samples["step_padding_tokens"]),
            "examples": statistics.fmean(clean.samples["step_examples"]),
            "parameters": engine.parameters(),
            "timing": clean.how,
        },
        "memory": {"peak_mib": engine.peak_memory_mib(), "capacity_mib": engine.capacity_mib()},
        "health": health,
        "warnings": warnings(health),
    }


def pool_size(fields: Measurements) -> int:
    """Return the number of batches on which the trials take turns: all, or fewer where steps are long."""
    step_s = statistics.median(fields["samples"]["step_s"])
    return max(FEWEST_BATCHES, min(POOL_BATCHES, math.ceil(POOL_S / step_s)))


def try_causes(
    trial: BoundedTrial,
    registry: Registry,
    fields: Measurements,
    mode: str,
    time_budget: TimeBudget,
    seed: int,
    emit: Emit,
) -> tuple[dict[str, Intervention], Together | None]:
    """Try the causes; return the record's `interventions` and `together`. After the budget, `out_of_time`."""
    memory = fields["memory"]
    used = (memory["peak_mib"] or 0.0) / (memory["capacity_mib"] or math.inf)
    trial.memory_used = max(used, limit_used() or 0.0) if trial.device == "cpu" else used
    time_budget.limit(trial)
    seconds = TRIALS_SHARE * (trial.until - time_budget.clock())
    return verify_causes(
        trial, fields, causes(registry, trial.device), mode=mode, seconds=seconds, seed=seed, emit=emit
    )


def describe_cell(name: str, engine: UserEngine, batch: Any, precision: str, seed: int, data: Any) -> Cell:
    """Return a cell that describes the diagnosed step."""
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
