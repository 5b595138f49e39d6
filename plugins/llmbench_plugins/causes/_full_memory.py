"""Memory that is too full for a larger batch, and what a batch twice as large would give.

`memory_capacity` is removed by that, and `kernel` asks whether larger batches, which help it, would fit.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from typing import NamedTuple

import llmbench
from llmbench_plugins.causes._swap import Function, substitute

FULL = 0.5  # of the memory: with less in use, the batch can simply be doubled
TIMES = 2  # as many examples in the larger batch


class Doubling(NamedTuple):
    """How full the memory is (a share), and the seconds of a batch and of two as one, without the optimizer."""

    in_use: float
    once_s: list[float]
    twice_s: list[float]


def check_full(trial: llmbench.Trial) -> float:
    """Return the share of the memory that is in use. Raises DoesNotApply or Unisolated where that bounds no batch."""
    used = trial.memory_used
    if used is None:
        raise llmbench.Unisolated("how full the memory is, is not known here")
    if used < FULL:
        raise llmbench.DoesNotApply(f"{100 * used:.0f} % of the memory is used: the batch can be doubled")
    if trial.generates or trial.compiled or len(trial.pool) < TIMES:
        raise llmbench.Unisolated("batches of this step cannot be put together")
    return used


@contextlib.contextmanager
def without_optimizer_state(trial: llmbench.Trial) -> Iterator[None]:
    """Let the optimizer do nothing, and hold no state meanwhile."""
    if trial.optimizer is None:
        yield
        return
    state = dict(trial.optimizer.state)
    trial.optimizer.state.clear()

    def nothing(_: Function) -> Function:
        return lambda closure=None: None if closure is None else closure()

    try:
        with substitute([(trial.optimizer, "step")], nothing):
            yield
    finally:
        trial.optimizer.state.update(state)


def time_doubling(trial: llmbench.Trial) -> Doubling:
    """Time a batch, and two as one. Raises DoesNotApply or Unisolated where full memory bounds no batch."""
    used = check_full(trial)
    with without_optimizer_state(trial):
        both = trial.merged(trial.pool[:TIMES])
        once = trial.seconds(lambda: trial.step(trial.pool[0]), least=15)
        twice = trial.seconds(lambda: trial.step(both), least=15)
    return Doubling(used, once, twice)


def headroom_x(once_s: list[float], twice_s: list[float]) -> float:
    """Return 2 t(B) / t(2B): the time per example of a batch over that of a batch twice as large."""
    return TIMES * statistics.median(once_s) / statistics.median(twice_s)


def larger_x(trial: llmbench.Trial) -> float:
    """Return the headroom of a batch twice as large where memory is too full for it, else 1."""
    try:
        doubling = time_doubling(trial)
    except (llmbench.DoesNotApply, llmbench.Unisolated):
        return 1.0
    return headroom_x(doubling.once_s, doubling.twice_s) or 1.0
