"""`one-thread`: every operator on one core; small ones lose more by sharing than they gain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import llmbench


def _change(cell: Any) -> Any:
    if cell.threads == 1:
        raise llmbench.DoesNotApply("its operators run on one thread")
    return dataclasses.replace(cell, threads=1)


def _predict(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    """How well operators share their work is not in a record, so nothing is predicted.

    Where the machine's ceilings were measured on one thread there is nothing to share: to try it would measure noise.
    """
    if record["cell"].get("threads") is None and ceilings.get("threads") == 1:
        raise llmbench.DoesNotApply("operators have one thread on this machine as it is")
    return llmbench.Forecast(None, "how well small operators share their work is only known when they do not")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedy."""
    return [
        llmbench.RemedySpec(
            name="one-thread",
            answers=("kernel", "host", "recurrence"),
            change=_change,
            predict=_predict,
            description="one thread per operator",
            general=True,
            same_updates=True,
            devices=("cpu",),
        )
    ]
