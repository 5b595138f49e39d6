"""The law by which each part of a step grows: its counted work, at rates that are fitted. Pure functions of records.

The operators of a step are counted (`llmbench.worker.torch_engine.operator_counter`): calls, FLOPs and bytes of each
class. They take o calls + FLOPs / P + bytes / W: a rate that saturates (half of P at o P FLOPs a call; Hockney and
Jesshope 1981), a roofline whose corner is smooth. o, P and W are fitted to measured times, none negative. Counts are
whole polynomials of the axis, so that a law holds beyond the largest point without a count of it.

Rates change where a cache is outgrown or another kernel is taken. So a law is fitted to the longest run of largest
points that it describes: to 2 %, or to within what processes differ by. No point that is predicted has a say in that.

Parts without operators of their own: `host` (dispatch, and taking and giving back memory) has the calls and bytes of
all; `input` has the tokens of the batch. Work that was not counted may be a constant, linear or square in x.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from llmbench import stats
from llmbench.stats.growth import LINEAR, ONE, SQUARE, Growth, fit

Record = Mapping[str, Any]
COUNTS = ("calls", "flops", "bytes")
HOST, INPUT = "host", "input"
ALL = ""  # the class that stands for all classes together
FEWEST = 3  # points of a fit
DESCRIBED = 0.02  # of a time: what a step time is measured to by default (`Budget.ci_pct`)
LEVEL = 0.95


def fit_laws(xs: Sequence[int], times: Sequence[Sequence[float]], work: Sequence[Growth]) -> list[Growth]:
    """Return the law of a part of the step in each round. times: per round the seconds at each of `xs`."""
    first = start_of_law(xs, times, work)
    return [fit(xs[first:], seconds[first:], work) for seconds in times]


def start_of_law(xs: Sequence[int], times: Sequence[Sequence[float]], work: Sequence[Growth]) -> int:
    """Return the index of the smallest point from which on one law describes the means over rounds."""
    means = [statistics.fmean(found) for found in zip(*times, strict=True)]
    allowed = [
        max(DESCRIBED, _half_width(found) / mean) for found, mean in zip(zip(*times, strict=True), means, strict=True)
    ]
    last = max(0, len(xs) - FEWEST)
    for first in range(last):
        found = fit(xs[first:], means[first:], work)
        if all(abs(found.at(xs[i]) / means[i] - 1) <= allowed[i] for i in range(first, len(xs))):
            return first
    return last


def _half_width(values: Sequence[float]) -> float:
    """Return half of Student's interval of the mean of one point over rounds; 0 from one round."""
    n = len(values)
    return stats.t_quantile((1 + LEVEL) / 2, n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0


def work_of(part: str, xs: Sequence[int], records: Sequence[Record]) -> list[Growth]:
    """Return the work of a part (a class of operators, `host`, `input`, or any other) as growths along the axis.

    records: one for each of `xs`. Of what is not counted everywhere: a constant, and the first and second power of x.
    """
    if part == INPUT:
        return _growths(xs, [[1.0, tokens(r)] for r in records])
    found = [work_by_class(r) for r in records]
    name = ALL if part == HOST else part
    if not all(name in counts for counts in found):
        return [ONE, LINEAR, SQUARE]
    names = ("calls", "bytes") if part == HOST else COUNTS
    return _growths(xs, [[counts[name][what] for what in names] for counts in found])


def work_by_class(record: Record) -> dict[str, dict[str, float]]:
    """Return class of operators -> `calls`, `flops` and `bytes` of the traced step; `ALL` has their sums."""
    out: dict[str, dict[str, float]] = {}
    for row in (record.get("operators") or {}).get("rows") or ():
        for name in (row["operator_class"], ALL):
            sums = out.setdefault(name, dict.fromkeys(COUNTS, 0.0))
            for what in COUNTS:
                sums[what] += row[what]
    return out


def tokens(record: Record) -> float:
    """Return the tokens of a step, padding among them: the mean over clean steps; 0 where they were not counted."""
    samples = record["samples"]
    return sum(statistics.fmean(samples[name]) for name in ("step_tokens", "step_padding_tokens") if samples.get(name))


def _growths(xs: Sequence[int], rows: Sequence[Sequence[float]]) -> list[Growth]:
    """Return the growth of each column that is above zero everywhere."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return [fit(xs, column) for column in columns if all(value > 0 for value in column)] or [ONE, LINEAR, SQUARE]
