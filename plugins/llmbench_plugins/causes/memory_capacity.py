"""`memory_capacity`: a batch that cannot grow because memory is full. Removed by memory for a batch twice as large.

Memory is freed in both arms (the optimizer keeps no state), and the batch is doubled in one: time per example of
the batch that fits over that of the batch that would. It applies only where memory is nearly full.
Shapes: `B` rows.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._swap import Function, replaced

FULL = 0.5  # of the memory: below, the batch can simply be doubled
TIMES = 2


def _check(trial: llmbench.Trial) -> float:
    used = trial.memory_used
    if used is None:
        raise llmbench.Unisolated("how full the memory is, is not known here")
    if used < FULL:
        raise llmbench.DoesNotApply(f"{100 * used:.0f} % of the memory is used: the batch can be doubled")
    if trial.generates or trial.compiled or len(trial.pool) < TIMES:
        raise llmbench.Unisolated("batches of this step cannot be put together")
    return used


@contextlib.contextmanager
def _stateless(trial: llmbench.Trial) -> Iterator[None]:
    """Let the optimizer do nothing, and hold no state meanwhile."""
    if trial.optimizer is None:
        yield
        return
    state = dict(trial.optimizer.state)
    trial.optimizer.state.clear()

    def nothing(_: Function) -> Function:
        return lambda closure=None: None if closure is None else closure()

    try:
        with replaced([(trial.optimizer, "step")], nothing):
            yield
    finally:
        trial.optimizer.state.update(state)


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return how full memory is, and the times of one batch and of two as one, without the optimizer."""
    used = _check(trial)
    with _stateless(trial):
        both = trial.merged(trial.pool[:TIMES])
        once = trial.seconds(lambda: trial.step(trial.pool[0]), least=15)
        twice = trial.seconds(lambda: trial.step(both), least=15)
    return {"memory_used": used, "once_s": once, "twice_s": twice}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """2 t(B) / t(2B): time per example of a batch over that of one twice as large."""
    once, twice = statistics.median(facts["once_s"]), statistics.median(facts["twice_s"])
    return TIMES * once / twice


def larger_x(trial: llmbench.Trial) -> float:
    """Return what a batch twice as large would give where memory is full; 1 where that is not the question."""
    try:
        return predict({}, probe(trial)) or 1.0
    except (llmbench.DoesNotApply, llmbench.Unisolated):
        return 1.0


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Take two batches as one."""
    _check(trial)
    merged = {
        id(batch): trial.merged([batch, trial.pool[(i + 1) % len(trial.pool)]]) for i, batch in enumerate(trial.pool)
    }

    def one_by_one(batches: Sequence[Any]) -> None:
        with _stateless(trial):
            for batch in batches:
                trial.step(batch)

    def together(batches: Sequence[Any]) -> None:
        with _stateless(trial):
            trial.step(merged[id(batches[0])])

    return llmbench.Intervention(steps=TIMES, treated=together, clean=one_by_one, burn=TIMES)


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="memory_capacity",
            axis="why",
            cause_class="hardware",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="a batch that cannot grow because memory is full",
            advice="activation checkpointing, lower precision, an optimizer with less state, gradient accumulation",
        )
    ]
