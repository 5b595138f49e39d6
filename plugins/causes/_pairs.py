"""A few pairs of steps, for a cause that has to leave out what belongs to another one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import llmbench

PAIRS = 6


def saved(trial: llmbench.Trial, changed: Callable[[], AbstractContextManager[Any]], batches: Sequence[Any]) -> float:
    """Return the seconds per step that a change saves: the median over a few pairs, never below 0."""
    differences = []
    for i in range(PAIRS):
        batch = batches[i % len(batches)]
        (plain,) = trial.seconds(lambda b=batch: trial.step(b), least=1)  # type: ignore[misc]
        with changed():
            (other,) = trial.seconds(lambda b=batch: trial.step(b), least=1)  # type: ignore[misc]
        differences.append(plain - other)
    return max(0.0, statistics.median(differences))
