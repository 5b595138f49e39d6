"""`no-checkpointing`: activations are kept for the backward pass instead of computed again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import answered


def _kept(cell: Any) -> Any:
    if not cell.checkpointing:
        raise llmbench.DoesNotApply("it keeps its activations")
    return dataclasses.replace(cell, checkpointing=False)


def _recomputed(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    return answered(record, "checkpointing", "nothing is computed again")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedy."""
    return [
        llmbench.RemedySpec(
            name="no-checkpointing",
            answers=("checkpointing",),
            change=_kept,
            predict=_recomputed,
            description="activations kept for the backward pass",
            general=True,
            same_updates=True,
        )
    ]
