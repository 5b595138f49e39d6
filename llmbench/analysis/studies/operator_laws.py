"""The law by which each part of a step grows: its counted work, at rates that are fitted. Pure functions of records.

The operators of a step are counted (`llmbench.worker.torch_engine.operator_counter`): calls, FLOPs and bytes of each
class. They take o calls + FLOPs / P + bytes / W: a rate that saturates (half of P at o P FLOPs a call; Hockney and
Jesshope 1981), a roofline whose corner is smooth. o, P and W are fitted to measured times, none negative. Counts are
whole polynomials of the axis, so that a law holds beyond the largest point without a count of it.

Rates change where data outgrow a cache or another kernel is chosen. So a law is fitted to as many of the largest points
as it describes: to 2 %, or to within the differences of processes. A point that is predicted takes no part in that.

Parts without operators of their own: `host` (dispatch, and taking and giving back memory) has the calls and bytes of
all; `input` has the tokens of the batch. Work that was not counted may be a constant, linear or square in x.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from llmbench import stats
from llmbench.stats.growth import LINEAR, ONE, SQUARE, Growth, fit

if TYPE_CHECKING:
    from llmbench.contract.record import Record

COUNTS: Final = ("calls", "flops", "bytes")
HOST = "host"  # the part of a step that dispatches operators, and takes and gives back memory
INPUT = "input"  # the part that makes batches
ALL = ""  # the class that stands for all classes together
FEWEST = 3  # points of a fit: as many as a law has rates
TOLERANCE = 0.02  # of a time: step times are measured to that by default (`Budget.ci_pct`)
LEVEL = 0.95  # of the interval over rounds


def fit_laws(xs: Sequence[int], times: Sequence[Sequence[float]], work: Sequence[Growth]) -> list[Growth]:
    """Return the law of a part of the step in each round. times: per round the seconds at each of `xs`."""
    first = start_of_law(xs, times, work)
    return [fit(xs[first:], seconds[first:], work) for seconds in times]


def start_of_law(xs: Sequence[int], times: Sequence[Sequence[float]], work: Sequence[Growth]) -> int:
    """Return the index of the smallest point from which on one law describes the means over rounds."""
    by_point = list(zip(*times, strict=True))
    means = [statistics.fmean(seconds) for seconds in by_point]
    limits = [max(TOLERANCE, _half_width(seconds) / mean) for seconds, mean in zip(by_point, means, strict=True)]
    last = max(0, len(xs) - FEWEST)
    for first in range(last):
        law = fit(xs[first:], means[first:], work)
        if all(abs(law.at(xs[i]) / means[i] - 1) <= limits[i] for i in range(first, len(xs))):
            return first
    return last


def _half_width(values: Sequence[float]) -> float:
    """Return half of Student's interval of the mean of one point over rounds; 0 from one round."""
    n = len(values)
    return stats.t_quantile((1 + LEVEL) / 2, n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0


def work_of(part: str, xs: Sequence[int], records: Sequence[Record]) -> list[Growth]:
    """Return the work of a part (a class of operators, `host`, `input`, or any other) as growths along the axis.

    records: one for each of `xs`. A part that is not counted everywhere: a constant, and the first two powers of x.
    """
    if part == INPUT:
        return _growths(xs, [[1.0, tokens(r)] for r in records])
    works = [work_by_class(r) for r in records]
    name = ALL if part == HOST else part
    if not all(name in work for work in works):
        return [ONE, LINEAR, SQUARE]
    counts = ("calls", "bytes") if part == HOST else COUNTS
    return _growths(xs, [[work[name][count] for count in counts] for work in works])


def work_by_class(record: Record) -> dict[str, dict[str, float]]:
    """Return class of operators -> `calls`, `flops` and `bytes` of the traced step; `ALL` has their sums."""
    work: dict[str, dict[str, float]] = {}
    for row in (record.get("operators") or {}).get("rows") or ():
        for name in (row["operator_class"], ALL):
            sums = work.setdefault(name, dict.fromkeys(COUNTS, 0.0))
            for count in COUNTS:
                sums[count] += row[count]
    return work


def tokens(record: Record) -> float:
    """Return the tokens of a step, padding among them: the mean over clean steps; 0 where they were not counted."""
    samples = record["samples"]
    series = (samples.get("step_tokens"), samples.get("step_padding_tokens"))
    return sum(statistics.fmean(counts) for counts in series if counts)


def _growths(xs: Sequence[int], rows: Sequence[Sequence[float]]) -> list[Growth]:
    """Return the growth of each column that is above zero everywhere."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return [fit(xs, column) for column in columns if all(value > 0 for value in column)] or [ONE, LINEAR, SQUARE]
