"""`sdpa`: torch's fused attention instead of scores, softmax and mixing one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import forecast_headroom


def _change(cell: Any) -> Any:
    if cell.attention != "eager":
        raise llmbench.DoesNotApply(f"its attention is {cell.attention}")
    return dataclasses.replace(cell, attention="sdpa")


def _predict(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    return forecast_headroom(record, "attention", "at most what the whole core of attention takes")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedy."""
    return [
        llmbench.RemedySpec(
            name="sdpa",
            answers=("attention", "memory_bandwidth", "memory_capacity"),
            change=_change,
            predict=_predict,
            description="torch's fused scaled_dot_product_attention",
            same_updates=True,
        )
    ]
