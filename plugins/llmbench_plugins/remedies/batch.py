"""`batch-2x`, `batch-4x`: larger batches, as many examples in all. `whole-batch`: no accumulation."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import phase_s

LEAST_STEPS = 20  # an optimizer needs some, whatever the batch is


def _enlarge(cell: Any, factor: int) -> Any:
    """The learning rate grows with the square root of the batch, for Adam (Malladi et al. 2022, arXiv 2205.10287)."""
    if cell.stage == "eval":
        return dataclasses.replace(cell, batch_size=factor * cell.batch_size)
    steps = round(cell.steps / factor)
    if steps < LEAST_STEPS:
        raise llmbench.DoesNotApply(f"only {steps} steps would be left of {cell.steps}")
    rate = float(f"{cell.learning_rate * factor**0.5:.6g}")
    return dataclasses.replace(cell, batch_size=factor * cell.batch_size, steps=steps, learning_rate=rate)


def _predict(record: Mapping[str, Any], ceilings: Mapping[str, Any], factor: int) -> llmbench.Forecast:
    """Per example T / (T - (1 - 1/k) t): t, what a step costs whatever its size.

    That is the optimizer, and what the cause `kernel` found to be saved when two batches are one step.
    """
    facts = ((record.get("interventions") or {}).get("kernel") or {}).get("facts") or {}
    fixed_s = phase_s(record, "optimizer") or 0.0
    if facts.get("two_s"):
        fixed_s += max(0.0, statistics.median(facts["two_s"]) - statistics.median(facts["merged_s"]))
    elif not fixed_s:
        return llmbench.Forecast(None, "what a step costs whatever its size was not measured")
    return llmbench.Forecast(
        llmbench.without(record, [fixed_s], fixed_s / factor), "the optimizer and small operators, per example"
    )


def _whole(cell: Any) -> Any:
    if cell.accumulation == 1:
        raise llmbench.DoesNotApply("it does not accumulate")
    return dataclasses.replace(cell, accumulation=1)


def _unknown(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    return llmbench.Forecast(None, "what the parts of a batch cost beyond its rows was not measured")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedies."""
    enlarged = [
        llmbench.RemedySpec(
            name=f"batch-{factor}x",
            answers=("kernel", "host", "memory_bandwidth", "optimizer"),
            change=functools.partial(_enlarge, factor=factor),
            predict=functools.partial(_predict, factor=factor),
            description=f"{factor} times the batch, as many examples, the learning rate by its square root",
            general=True,
            family="batch",
        )
        for factor in (2, 4)
    ]
    whole = llmbench.RemedySpec(
        name="whole-batch",
        answers=("kernel", "host", "memory_bandwidth"),
        change=_whole,
        predict=_unknown,
        description="the batch at once instead of in parts",
        general=True,
        same_updates=True,
    )
    return [*enlarged, whole]
