"""Quality of two runs side by side, with an interval where one can be known. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from llmbench.stats.student_t import t_quantile

if TYPE_CHECKING:
    from llmbench.contract.record import CellFields, Record

NO_INTERVAL = "no interval: the record holds one corpus-wide score of one training"
OTHER_DATA = "refused: the data differ"


@dataclass(frozen=True)
class QualityChange:
    """One metric of one cell in both runs."""

    cell: CellFields
    metric: str
    base: float | None
    head: float | None
    low: float | None  # of the interval of head - base
    high: float | None
    verdict: str  # better, worse, same, undecided or refused
    examples: int | None
    reason: str | None = None

    @property
    def ends(self) -> list[float] | None:
        """Both ends of the interval; None without one."""
        return None if self.low is None or self.high is None else [self.low, self.high]


def compare_quality(pairs: Iterable[tuple[Sequence[Record], Sequence[Record]]], level: float) -> list[QualityChange]:
    """Return every metric that both runs have of a cell (repeat 0 is scored); all intervals hold together at `level`.

    The interval holds for another draw of as many test examples, and not for another seed, which trains another model.
    A score between 0 and 1 that is a mean over n examples has a variance of at most p (1 - p) / n (Bhatia
    & Davis 2000), whatever the metric; both runs score the same examples, which makes the difference no less certain.
    Other scores (perplexity, corpus BLEU) have no interval; equal ones are the same all the same.
    """
    scores = [score for base, head in pairs for score in _scores(base[0], head[0])]
    comparable = sum(not score.other_data for score in scores)
    each = 1 - (1 - level) / max(1, comparable)
    return [_change(score, each) for score in scores]


class _Score(NamedTuple):
    """The values of one metric of one cell in both runs."""

    record: Record  # of head
    metric: str
    base: float | None
    head: float | None
    other_data: bool  # the runs have other data


def _scores(base: Record, head: Record) -> Iterator[_Score]:
    before, after = ((record.get("quality") or {}).get("values") or {} for record in (base, head))
    other_data = data_of(base["cell"]) != data_of(head["cell"])
    for metric, value in after.items():
        if metric in before:
            yield _Score(head, metric, before[metric], value, other_data)


class DataIdentity(NamedTuple):
    """The data that a cell is trained and scored on."""

    dataset: str | None
    pretrain_dataset: str | None
    test_examples: int | None
    train_examples: int | None


def data_of(cell: CellFields) -> DataIdentity:
    """Return the identity of the data that a cell is trained and scored on."""
    return DataIdentity(
        cell.get("dataset"), cell.get("pretrain_dataset"), cell.get("test_examples"), cell.get("train_examples")
    )


def _change(score: _Score, each: float) -> QualityChange:
    head, metric, base, now, other_data = score
    quality = head["quality"]
    n = quality.get("examples")
    if other_data:
        return QualityChange(head["cell"], metric, base, now, None, None, "refused", n, OTHER_DATA)
    if base is None or now is None:
        return QualityChange(head["cell"], metric, base, now, None, None, "undecided", n, "not known on one side")
    if base == now:
        return QualityChange(head["cell"], metric, base, now, None, None, "same", n, "equal")
    direction = (quality.get("direction") or {}).get(metric)
    if direction != "higher" or not n or not (0 <= base <= 1 and 0 <= now <= 1):
        return QualityChange(head["cell"], metric, base, now, None, None, "undecided", n, NO_INTERVAL)
    half = t_quantile(0.5 + each / 2, math.inf) * math.sqrt((base * (1 - base) + now * (1 - now)) / n)
    low, high = now - base - half, now - base + half
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return QualityChange(head["cell"], metric, base, now, low, high, verdict, n)
