"""`pretokenized`: text becomes tokens once. `one-worker`: a loader process ahead. `pinned`: copies that do not wait."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import forecast_headroom, less, phase_s, sample_s


def _tokenize_once(cell: Any) -> Any:
    if cell.pretokenized:
        raise llmbench.DoesNotApply("its text is tokenized once")
    return dataclasses.replace(cell, pretokenized=True)


def _predict_tokenizing(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    """T / (T - t): t, getting the features of a batch, where the step waits for that (no loader processes)."""
    if record["cell"]["workers"]:
        return less(record, phase_s(record, "input"), 0.0, "at most the wait for batches")
    return less(record, sample_s(record, "step_fetch_s"), 0.0, "tokenizing a batch")


def _add_worker(cell: Any) -> Any:
    if cell.workers:
        raise llmbench.DoesNotApply(f"it has {cell.workers} loader processes")
    return dataclasses.replace(cell, workers=1)


def _predict_no_wait(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    return less(record, phase_s(record, "input"), 0.0, "the wait for batches is hidden behind the step")


def _pin(cell: Any) -> Any:
    if cell.pin_memory:
        raise llmbench.DoesNotApply("its batches are pinned")
    return dataclasses.replace(cell, pin_memory=True)


def _predict_copies(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    return forecast_headroom(record, "copy", "copies are hidden behind the step")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedies."""
    return [
        llmbench.RemedySpec(
            name="pretokenized",
            answers=("input",),
            change=_tokenize_once,
            predict=_predict_tokenizing,
            description="text tokenized once, before the first step",
            general=True,
            same_updates=True,
        ),
        llmbench.RemedySpec(
            name="one-worker",
            answers=("input",),
            change=_add_worker,
            predict=_predict_no_wait,
            description="a loader process that prepares batches ahead",
            same_updates=True,
        ),
        llmbench.RemedySpec(
            name="pinned",
            answers=("copy",),
            change=_pin,
            predict=_predict_copies,
            description="page-locked batches, copied without waiting",
            same_updates=True,
            devices=("cuda",),
        ),
    ]
