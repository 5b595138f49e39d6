"""`labelled-logits`: output projection and loss only where there is a label (15 % of tokens of a masked model)."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import less


def _change(cell: Any) -> Any:
    if cell.stage == "eval":
        raise llmbench.DoesNotApply("generation projects the last token only")
    if cell.labelled_logits:
        raise llmbench.DoesNotApply("only labelled positions are projected")
    return dataclasses.replace(cell, labelled_logits=True)


def _predict(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    """T / (T - t (1 - p)): t, what is done over the vocabulary; p, the share of positions that have a label."""
    share = (record.get("counts") or {}).get("labelled_share")
    if share is None:
        raise llmbench.DoesNotApply("there is no label per position")
    part_s = llmbench.part_of(record, "vocabulary")
    middle = statistics.median(part_s) if part_s else None
    return less(record, middle, (middle or 0.0) * share, f"the vocabulary for {100 * share:.0f} % of the positions")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedy."""
    return [
        llmbench.RemedySpec(
            name="labelled-logits",
            answers=("vocabulary",),
            change=_change,
            predict=_predict,
            description="logits only where there is a label",
            general=True,
            same_updates=True,
        )
    ]
