"""`kv-cache`: keys, values and states of earlier tokens are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import forecast_headroom


def _change(cell: Any) -> Any:
    if cell.stage != "eval":
        raise llmbench.DoesNotApply("nothing is generated")
    if cell.kv_cache:
        raise llmbench.DoesNotApply("it keeps keys and values")
    return dataclasses.replace(cell, kv_cache=True)


def _predict(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    return forecast_headroom(record, "decoding", "at most what one pass over all tokens would give")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedy."""
    return [
        llmbench.RemedySpec(
            name="kv-cache",
            answers=("decoding",),
            change=_change,
            predict=_predict,
            description="keep keys, values and states from token to token",
            same_updates=True,
        )
    ]
