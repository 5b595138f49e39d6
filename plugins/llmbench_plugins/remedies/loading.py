"""`pretokenized`: text becomes tokens once. `one-worker`: a loader process ahead. `pinned`: copies that do not wait."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import answered, less, phase_s, sample_s


def _cached(cell: Any) -> Any:
    if cell.pretokenized:
        raise llmbench.DoesNotApply("its text is tokenized once")
    return dataclasses.replace(cell, pretokenized=True)


def _without_fetch(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    """T / (T - t): t, getting the features of a batch, where the step waits for that (no loader processes)."""
    if record["cell"]["workers"]:
        return less(record, phase_s(record, "input"), 0.0, "at most the wait for batches")
    return less(record, sample_s(record, "step_fetch_s"), 0.0, "tokenizing a batch")


def _one(cell: Any) -> Any:
    if cell.workers:
        raise llmbench.DoesNotApply(f"it has {cell.workers} loader processes")
    return dataclasses.replace(cell, workers=1)


def _hidden(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    return less(record, phase_s(record, "input"), 0.0, "the wait for batches is hidden behind the step")


def _pinned(cell: Any) -> Any:
    if cell.pin_memory:
        raise llmbench.DoesNotApply("its batches are pinned")
    return dataclasses.replace(cell, pin_memory=True)


def _not_waited(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    return answered(record, "copy", "copies are hidden behind the step")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedies."""
    return [
        llmbench.RemedySpec(
            name="pretokenized",
            answers=("input",),
            change=_cached,
            predict=_without_fetch,
            description="text tokenized once, before the first step",
            general=True,
            same_updates=True,
        ),
        llmbench.RemedySpec(
            name="one-worker",
            answers=("input",),
            change=_one,
            predict=_hidden,
            description="a loader process that prepares batches ahead",
            same_updates=True,
        ),
        llmbench.RemedySpec(
            name="pinned",
            answers=("copy",),
            change=_pinned,
            predict=_not_waited,
            description="page-locked batches, copied without waiting",
            same_updates=True,
            devices=("cuda",),
        ),
    ]
