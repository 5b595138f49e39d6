"""`bucketing`: batches of similar lengths, so that rows need little padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import forecast_headroom


def _change(cell: Any) -> Any:
    if cell.bucketing:
        raise llmbench.DoesNotApply("its batches are of similar lengths")
    return dataclasses.replace(cell, bucketing=True)


def _predict(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    counts = record.get("counts") or {}
    if counts.get("padding_tokens") == 0:
        return llmbench.Forecast(1.0, "there is no padding")
    return forecast_headroom(record, "padding", "no padding left")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedy."""
    return [
        llmbench.RemedySpec(
            name="bucketing",
            answers=("padding",),
            change=_change,
            predict=_predict,
            description="batches of similar lengths",
            general=True,
        )
    ]
