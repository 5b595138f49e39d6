"""A few ordinary steps in turns with others: what a change saves, and what a part takes at the clean pass's pace."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import llmbench

PAIRS = 6


def measure_saving(
    trial: llmbench.Trial, changed: Callable[[], AbstractContextManager[Any]], batches: Sequence[Any]
) -> float:
    """Return the seconds per step that a change saves: the median over a few pairs, never below 0."""
    differences = []
    for i in range(PAIRS):
        batch = batches[i % len(batches)]
        (plain,) = trial.seconds(lambda b=batch: trial.step(b), least=1)  # type: ignore[misc]
        with changed():
            (other,) = trial.seconds(lambda b=batch: trial.step(b), least=1)  # type: ignore[misc]
        differences.append(plain - other)
    return max(0.0, statistics.median(differences))


def measure_at_pace(trial: llmbench.Trial, once: Callable[[], float]) -> float:
    """Return the seconds that `once()` returns, at the pace of the clean pass: the median over a few calls."""
    return statistics.median(trial.paced(once, batch) for batch in trial.probes())
