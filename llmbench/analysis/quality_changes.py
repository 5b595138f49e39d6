"""Quality of two runs side by side, with an interval where one can be known. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.stats.student_t import t_quantile

Record = Mapping[str, Any]

NO_INTERVAL = "no interval: the record holds one corpus-wide score of one training"
OTHER_DATA = "refused: the data differ"


@dataclass(frozen=True)
class QualityChange:
    """One metric of one cell; `verdict` is better, worse, same, undecided or refused. `low`, `high`: of head - base."""

    cell: Record
    metric: str
    base: float | None
    head: float | None
    low: float | None
    high: float | None
    verdict: str
    examples: int | None
    reason: str | None = None

    @property
    def ends(self) -> list[float] | None:
        """Both ends of the interval; None without one."""
        return None if self.low is None or self.high is None else [self.low, self.high]


def compare_quality(pairs: Iterable[tuple[Sequence[Record], Sequence[Record]]], level: float) -> list[QualityChange]:
    """Return every metric that both runs have of a cell (repeat 0 is scored); all intervals hold together at `level`.

    The interval is of what another draw of as many test examples would give; that another seed trains another model is
    not in it. A score between 0 and 1 that is a mean over n examples has a variance of at most p (1 - p) / n (Bhatia
    & Davis 2000), whatever the metric; both runs score the same examples, which makes the difference no less certain.
    Other scores (perplexity, corpus BLEU) have no interval; equal ones are the same all the same.
    """
    found = [one for base, head in pairs for one in _metrics(base[0], head[0])]
    scored = sum(not other for *_, other in found)
    each = 1 - (1 - level) / max(1, scored)
    return [_change(record, metric, values, each, other) for record, metric, values, other in found]


def _metrics(base: Record, head: Record) -> Iterable[tuple[Record, str, tuple[Any, Any], bool]]:
    values = [(record.get("quality") or {}).get("values") or {} for record in (base, head)]
    other = data_of(base["cell"]) != data_of(head["cell"])
    for metric in values[1]:
        if metric in values[0]:
            yield head, metric, (values[0][metric], values[1][metric]), other


def data_of(cell: Record) -> tuple[Any, ...]:
    """Return what names the content of the data that a cell is trained and scored on."""
    return cell.get("dataset"), cell.get("pretrain_dataset"), cell.get("test_examples"), cell.get("train_examples")


def _change(head: Record, metric: str, values: tuple[Any, Any], each: float, other: bool) -> QualityChange:
    quality = head["quality"]
    n = quality.get("examples")
    if other or None in values:
        reason = OTHER_DATA if other else "not known on one side"
        return QualityChange(head["cell"], metric, *values, None, None, "refused" if other else "undecided", n, reason)
    base, now = values
    if base == now:
        return QualityChange(head["cell"], metric, base, now, None, None, "same", n, "equal")
    direction = (quality.get("direction") or {}).get(metric)
    if direction != "higher" or not n or not (0 <= base <= 1 and 0 <= now <= 1):
        return QualityChange(head["cell"], metric, base, now, None, None, "undecided", n, NO_INTERVAL)
    half = t_quantile(0.5 + each / 2, math.inf) * math.sqrt((base * (1 - base) + now * (1 - now)) / n)
    low, high = now - base - half, now - base + half
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return QualityChange(head["cell"], metric, base, now, low, high, verdict, n)
