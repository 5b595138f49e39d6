"""Reading a record for a prediction: medians of its phases, and headrooms of causes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import llmbench


def phase_s(record: Mapping[str, Any], *names: str) -> float | None:
    """Return the sum of the median seconds of phases (`forward` ...), None where none is in the record."""
    times = [record.get("phases", {}).get(f"{name}_s") for name in names]
    known = [statistics.median(t) for t in times if t]
    return sum(known) if known else None


def sample_s(record: Mapping[str, Any], name: str) -> float | None:
    """Return the median of a sample (`step_fetch_s` ...), None without it."""
    times = record.get("samples", {}).get(name)
    return statistics.median(times) if times else None


def less(record: Mapping[str, Any], part_s: float | None, left_s: float, reason: str) -> llmbench.Forecast:
    """Return the forecast of a step whose part of `part_s` seconds takes `left_s`; unknown where the part is."""
    if part_s is None:
        return llmbench.Forecast(None, f"{reason}: not measured")
    return llmbench.Forecast(llmbench.without(record, [part_s], left_s), reason)


def forecast_headroom(record: Mapping[str, Any], cause: str, reason: str) -> llmbench.Forecast:
    """Return the headroom of a cause as the forecast of what removes it."""
    gain = llmbench.headroom_of(record, cause)
    return llmbench.Forecast(gain, reason if gain is not None else f"{reason}: the cause was not tried")
