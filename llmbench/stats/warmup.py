"""The step at which warm-up ends: a robust changepoint search on log step times.

Barrett et al. (2017), "Virtual machine warmup blows hot and cold", OOPSLA, segment step times and call steady what is
equivalent to the last segment. The segmentation is exact optimal partitioning (Jackson et al. 2005; PELT of Killick
et al. 2012 is the same search with pruning, which a few dozen steps do not need). The cost of a step is bounded, so
that a stall is not a level of its own (Fearnhead & Rigaill 2019, "Changepoint detection in the presence of outliers").
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np

from llmbench.stats.intervals import log_samples
from llmbench.stats.step_series import MAD_TO_SD, TOLERANCE

#: Penalty of a changepoint over log n: 2 is BIC for independent steps; correlation 0.5 triples their long-run variance.
PENALTY = 6.0
#: Most that one step can cost, over the penalty. Below 2 (a changepoint before and one after), so that one stall never
#: pays; above 1, so that one slow first step does.
MOST_COST = 1.5
STALL = 3  # steps: a deviating segment up to this long, between steady ones, is a stall and not warm-up
GRID = 60  # steps at the beginning where a changepoint may be anywhere; places for one in the rest


def steady_from(samples: Sequence[float]) -> int:
    """Return the number of leading samples that are warm-up: the index of the changepoint to the steady level.

    A level is steady that is within 2 %, or within chance, of the last segment's; a stall of up to 3 steps does not
    end it. At most half of the samples are warm-up; fewer than 4 samples have none. Raises ValueError for a
    sample that is not finite and positive.
    """
    return min(_settling_index(samples), len(samples) // 2)


def is_steady(samples: Sequence[float]) -> bool:
    """Return whether at least the second half of `samples` (at least 6 of them) is on one level, without a trend."""
    n = len(samples)
    if n < 6 or _settling_index(samples) > n // 2:
        return False
    return not _has_trend(log_samples(samples)[n // 2 if n >= 12 else 0 :])


def _has_trend(logs: np.ndarray) -> bool:
    """Return whether values rise or fall all along: by more than 2 %, and beyond chance (Mann 1945, at 1 %).

    A ramp has no changepoint that stands out while it is short.
    """
    n, third = len(logs), len(logs) // 3
    moved = abs(float(np.median(logs[-third:]) - np.median(logs[:third])))
    order = sum(float(np.sign(logs[i + 1 :] - logs[i]).sum()) for i in range(n - 1))
    return moved > math.log1p(TOLERANCE) and abs(order) > 2.576 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)


def changepoints(samples: Sequence[float]) -> list[int]:
    """Return the indices at which a new level begins, in order, without 0. Raises ValueError as `steady_from` does."""
    n = len(samples)
    if n < 4:
        return []
    logs = log_samples(samples)
    penalty = PENALTY * math.log(n)
    ends = _places(n)
    best, before = [0.0], [0]
    costs = [_segment_costs(logs[s:] / _noise(logs), np.array(ends[i + 1 :]) - s, penalty) for i, s in enumerate(ends)]
    for j in range(1, len(ends)):
        totals = [best[i] + costs[i][j - i - 1] + penalty for i in range(j)]
        before.append(int(np.argmin(totals)))
        best.append(totals[before[-1]])
    points, j = [], len(ends) - 1
    while before[j] > 0:
        j = before[j]
        points.append(ends[j])
    return points[::-1]


def _places(n: int) -> list[int]:
    """Return the places where segments may begin or end: everywhere early on, and at even distances later."""
    if n <= 2 * GRID:
        return list(range(n + 1))
    return [*range(GRID), *(int(p) for p in np.linspace(GRID, n, GRID + 1))]


def _noise(logs: np.ndarray) -> float:
    """Return the standard deviation of steps around their level, from medians: of differences or of the second half.

    Differences see no changes of level, but too little of correlated noise; the larger of the two counts, and a
    third of 2 % at least, since a clock may tick coarsely.
    """
    half = logs[len(logs) // 2 :]
    around = MAD_TO_SD * float(np.median(np.abs(half - np.median(half))))
    between = MAD_TO_SD * float(np.median(np.abs(np.diff(logs)))) / math.sqrt(2)
    return max(around, between, math.log1p(TOLERANCE) / 3)


def _segment_costs(scaled: np.ndarray, lengths: np.ndarray, penalty: float) -> list[float]:
    """Return the cost of the segment of each length: bounded squared deviations from its median."""
    ordered: list[float] = []
    costs, done = [], 0
    for length in lengths:
        for value in scaled[done:length]:
            bisect.insort(ordered, float(value))
        done = int(length)
        middle = (ordered[(done - 1) // 2] + ordered[done // 2]) / 2
        costs.append(float(np.minimum((scaled[:done] - middle) ** 2, MOST_COST * penalty).sum()))
    return costs


def _settling_index(samples: Sequence[float]) -> int:
    """Return the index from which on all segments are equivalent to the last one, stalls aside."""
    if len(samples) < 4:
        return 0
    logs = log_samples(samples)
    edges = [0, *changepoints(samples), len(logs)]
    segments = list(zip(edges, edges[1:], strict=False))
    noise = _noise(logs)
    last = segments[-1]

    def equivalent(segment: tuple[int, int]) -> bool:
        distance = abs(float(np.median(logs[slice(*segment)]) - np.median(logs[slice(*last)])))
        shares = 1 / (segment[1] - segment[0]) + 1 / (last[1] - last[0])
        chance = 3 * noise * math.sqrt(math.pi / 2 * shares) if segment[1] - segment[0] > STALL else 0.0
        return distance <= max(math.log1p(TOLERANCE), chance)

    start = last[0]
    for segment in segments[-2::-1]:
        if equivalent(segment):
            start = segment[0]
        elif start - segment[0] > STALL:
            break
    return start
