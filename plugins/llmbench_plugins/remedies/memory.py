"""What is kept costs no time again. `no-checkpointing`: activations, for the backward pass, instead of computing them a
second time. `keep-memory`: memory that a step frees on the host, for the next step."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import forecast_headroom, less

FEW_FAULTS = 32  # pages of a step: batches and bookkeeping, not activations


def _keep_activations(cell: Any) -> Any:
    if not cell.checkpointing:
        raise llmbench.DoesNotApply("it keeps its activations")
    return dataclasses.replace(cell, checkpointing=False)


def _predict_activations(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    return forecast_headroom(record, "checkpointing", "nothing is computed again")


def _keep_memory(cell: Any) -> Any:
    if cell.keep_memory:
        raise llmbench.DoesNotApply("it keeps what it frees")
    return dataclasses.replace(cell, keep_memory=True)


def _predict_faults(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    """T / (T - t): t, the process's time in the kernel per step, which is for page faults nearly alone.

    A page that comes back is cleared, too, which empties caches: more than this can be gained.
    """
    health, steps = record.get("health") or {}, len(record["samples"]["step_s"])
    faults, system_s = health.get("minor_faults"), health.get("own_system_s")
    reason = "no page of a step is given back and faulted in again"
    if faults is None or system_s is None or not steps:
        return llmbench.Forecast(None, f"{reason}: not measured")
    if faults / steps < FEW_FAULTS:
        raise llmbench.DoesNotApply(f"{faults / steps:.0f} page faults a step: its memory stays as it is")
    mib = faults / steps * os.sysconf("SC_PAGE_SIZE") / 2**20
    return less(record, system_s / steps, 0.0, f"{reason} ({faults / steps:,.0f} pages, {mib:.1f} MiB)")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedies."""
    return [
        llmbench.RemedySpec(
            name="no-checkpointing",
            answers=("checkpointing",),
            change=_keep_activations,
            predict=_predict_activations,
            description="activations kept for the backward pass",
            general=True,
            same_updates=True,
        ),
        llmbench.RemedySpec(
            name="keep-memory",
            answers=("memory_bandwidth", "host"),
            change=_keep_memory,
            predict=_predict_faults,
            description="freed host memory stays with the process",
            general=True,
            same_updates=True,
            devices=("cpu",),
        ),
    ]
