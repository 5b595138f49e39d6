"""What changed between two runs of the same cells: per cell, beyond what all cells share. Log scale; pure functions.

Two runs differ in two ways. What all cells share may be the code or the machine (another hour, another clock); it is
one number per round, and rounds are few. What a cell does beyond that is independent of the other cells, and all cells
together say how much processes differ: that is what makes three processes a side worth something.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmbench.stats.intervals import (
    FEWEST_CELLS,
    Estimate,
    Prior,
    Processes,
    fit_prior,
    has_spread,
    likeliest,
    log_medians,
    log_processes,
    process_variance,
    satterthwaite,
    student,
)
from llmbench.stats.ratios import ratio_interval
from llmbench.stats.student_t import t_quantile

#: Of the probability of any false alarm, the part of the change that all cells have in common; cells have the rest.
COMMON_PART = 0.05
#: Of the part of a cell, the part for `slower`: people look for a slowdown, and each side costs the other power.
SLOWER_PART = 0.9
ALIKE = 0.6  # of the cells: a change is common where so many moved alike (their own 95 % intervals hold it)
MOST_REPEATS = 999  # processes a side: more are not asked for
FEWEST_IN_ROUND = 3  # cells of a round: fewer do not show what the round added
TURNS = 10  # in which the additions of rounds, and the levels of cells that lack rounds, are found
#: Kept, because cells with as many processes have the same degrees of freedom.
_quantile = functools.lru_cache(maxsize=4096)(t_quantile)


@dataclass(frozen=True)
class Change:
    """One cell: step time of head over base (above 1: slower), with simultaneous intervals.

    `variance` and `dof` are those of the interval that decides: of `own` where there is one, else of `ratio`.
    """

    ratio: Estimate  # the whole change
    own: Estimate | None = None  # the change beyond the common one; None where no common change is known
    variance: float | None = None  # log scale, of one process, mean of both sides; None without enough processes
    dof: float | None = None


@dataclass(frozen=True)
class Changes:
    """The changes of all cells of two runs."""

    common: Estimate | None  # what all cells have in common; None for fewer than 6 cells, or where they disagree
    cells: tuple[Change, ...]
    each: float  # level of every cell's interval: together they hold at the level that was asked for


def find_changes(base: Sequence[Processes], head: Sequence[Processes], level: float = 0.99) -> Changes:
    """Return the changes of step times from `base` to `head`; base[c] and head[c] are processes of one cell, by rounds.

    A process without samples is one that a round lacks: the cell's others are compared all the same, each without what
    its own round added.

    All intervals hold together with probability `level` (Bonferroni): the common change at 1 - 0.05 (1 - level), each
    of C cells at 1 - 0.95 (1 - level) / C, nine tenths of that below and one above. What the rounds of a run share is
    taken out of its cells first, so that a cell's variance is its own; it comes back in the interval of `ratio`, with
    rounds as units.

    The common change is the mean of the cells that moved alike: those whose own 95 % interval holds the median. It is
    None where they are fewer than 60 %: then there is no telling what the machine did from what the code did, and only
    the whole ratio of each cell is left.
    Raises ValueError as `process_interval` does, and for runs that do not match.
    """
    if len(base) != len(head):
        raise ValueError("both runs need the same cells")
    medians = [_by_rounds(side) for side in (base, head)]
    effects = [_round_effects(side) for side in medians]
    if len(base) < FEWEST_CELLS or any(len(e) < 2 for e in effects):
        return _apart(base, head, level)
    own = [_own(pair, effects) for pair in zip(*medians, strict=True)]
    spreads = _moderate(own)
    middle = float(np.median([one.location for one in own]))
    alike = [one for one, spread in zip(own, spreads, strict=True) if _near(one, spread, middle)]
    if len(alike) < ALIKE * len(own):
        return _apart(base, head, level)
    shift = sum(one.location for one in alike) / len(alike)
    each = 1 - (1 - level) * (1 - COMMON_PART) / len(base)
    dof_s = float(sum(len(e) - 1 for e in effects))
    variance_s = sum(float(e @ e) for e in effects) / dof_s
    cells = []
    for one, (variance, dof) in zip(own, spreads, strict=True):
        mine = _interval(one.location - shift, variance * one.per_process, dof, each)
        whole_dof = satterthwaite([variance, variance_s], [dof, dof_s])
        whole = _interval(one.location, (variance + variance_s) * one.per_process, whole_dof, each)
        cells.append(Change(whole, mine, variance, dof))
    error = variance_s * sum(1 / len(e) for e in effects)
    common = student(shift, error, dof_s, 1 - (1 - level) * COMMON_PART, None)
    return Changes(common, tuple(cells), each)


def repeats_to_decide(change: Change, each: float, margin: float, now: int) -> int | None:
    """Return about how many processes a side would decide a change, whatever it is; None for more than 999.

    An interval that is no wider than log(1 + margin) cannot hold both no change and a change by the margin, so the
    verdict is slower, faster or same. The spread stays what `now` processes a side showed; its degrees of freedom
    grow.
    """
    if change.variance is None or change.dof is None:
        return None
    variance, dof = change.variance, change.dof

    def decides(n: int) -> bool:
        width = sum(_quantiles(dof + 2 * (n - now), each)) * math.sqrt(2 * variance / n)
        return width <= math.log1p(margin)

    counts = range(max(2, now), MOST_REPEATS + 1)
    first = bisect.bisect_left(counts, True, key=decides)
    return counts[first] if first < len(counts) else None


def _apart(base: Sequence[Processes], head: Sequence[Processes], level: float) -> Changes:
    """Return the whole ratio of each cell; what its rounds added is left in."""
    each = 1 - (1 - level) / max(1, len(base))
    priors = [fit_prior(side) for side in (base, head)]
    prior = None if None in priors else fit_prior([*base, *head])
    cells = [
        Change(ratio_interval(h, b, each, prior=prior), None, *_spread(b, h, prior))
        for b, h in zip(base, head, strict=True)
    ]
    return Changes(None, tuple(cells), each)


@dataclass(frozen=True)
class _Own:
    """The change of one cell, without what its rounds added."""

    location: float  # log ratio
    variance: float  # of one process
    dof: int  # of `variance`
    per_process: float  # variance of the log ratio over that of one process: 1 / P of base + 1 / P of head


def _own(medians: tuple[np.ndarray, np.ndarray], effects: Sequence[np.ndarray]) -> _Own:
    """Return a cell's change, each process without what its round added."""
    squares, dof, per_process = 0.0, 0, 0.0
    locations = []
    for side, added in zip(medians, effects, strict=True):
        values = (side - added)[~np.isnan(side)]
        locations.append(float(values.mean()))
        squares += float((values - values.mean()) @ values)
        dof += len(values) - 1
        per_process += 1 / len(values)
    return _Own(locations[1] - locations[0], squares / dof if dof else 0.0, dof, per_process)


def _moderate(own: Sequence[_Own]) -> list[tuple[float, float]]:
    """Return each cell's variance of a process and its degrees of freedom, moderated by all cells (Smyth 2004).

    Both sides of a cell count as one group: a noisy cell is noisy in both runs. The prior is the likeliest one, not the
    cautious one of `fit_prior`: many cells need far quantiles, and there caution costs more power than it is worth
    (see `benchmarks/compare_power.py`). Each side gave up a round effect, which takes 1 / C of the variance.
    """
    known = [one for one in own if one.dof]
    variances = np.array([one.variance for one in known])
    dof_0 = variance_0 = 0.0
    if known and np.median(variances) > 0:
        dof_0, variance_0 = likeliest(variances, np.array([float(one.dof) for one in known]), drop=0.0)
        variance_0 *= len(own) / (len(own) - 1)
    limit = sum(one.dof for one in own)
    return [
        ((dof_0 * variance_0 + one.dof * one.variance) / max(dof_0 + one.dof, 1), min(dof_0 + one.dof, limit))
        for one in own
    ]


def _near(one: _Own, spread: tuple[float, float], middle: float) -> bool:
    variance, dof = spread
    return dof > 0 and abs(one.location - middle) <= _quantile(0.975, dof) * math.sqrt(variance * one.per_process)


def _quantiles(dof: float, level: float) -> tuple[float, float]:
    """Return Student's quantiles for the lower and for the upper end of an interval at `level`."""
    out = 1 - level
    return _quantile(1 - SLOWER_PART * out, dof), _quantile(1 - (1 - SLOWER_PART) * out, dof)


def _interval(location: float, variance: float, dof: float, level: float) -> Estimate:
    """Return exp(location) with Student's interval, nearer below than above; None without a degree of freedom."""
    if dof <= 0:
        return Estimate(math.exp(location), None, None)
    below, above = (quantile * math.sqrt(variance) for quantile in _quantiles(dof, level))
    return Estimate(math.exp(location), math.exp(location - below), math.exp(location + above), "moderated")


def _by_rounds(side: Sequence[Processes]) -> np.ndarray:
    """Return the log medians of each cell's processes, a row per cell and a column per round; nan where one lacks."""
    medians = np.full((len(side), max(map(len, side), default=0)), np.nan)
    for row, cell in zip(medians, side, strict=True):
        there = [i for i, process in enumerate(cell) if len(process)]
        row[there] = log_medians(log_processes(cell))
    return medians


def _round_effects(medians: np.ndarray) -> np.ndarray:
    """Return the log time that each round of a run added to its cells, 0 in the mean; `medians` are of `_by_rounds`.

    The median over cells of how far their processes of that round lie from the cell's level, which is the mean of its
    processes without what their rounds added: where processes are lacking, the two are estimated in turns. A round that
    few cells have is taken to have added nothing. Empty where fewer than 6 cells have two processes.
    """
    several = medians[(~np.isnan(medians)).sum(axis=1) > 1]
    if medians.shape[1] < 2 or len(several) < FEWEST_CELLS:
        return np.zeros(0)
    known = (~np.isnan(several)).sum(axis=0) >= FEWEST_IN_ROUND
    effects = np.zeros(medians.shape[1])
    for _ in range(TURNS if np.isnan(several).any() else 1):
        away = several[:, known] - np.nanmean(several - effects, axis=1, keepdims=True)
        effects[known] = np.nanmedian(away, axis=0)
        effects[known] -= effects[known].mean()
    return effects


def _spread(base: Processes, head: Processes, prior: Prior | None) -> tuple[float | None, float | None]:
    """Return the variance of one process (mean of both sides) and its degrees of freedom; None where unknown."""
    medians = [log_medians(log_processes(side)) for side in (base, head)]
    if not all(has_spread(m, prior) for m in medians):
        return None, None
    variances, dofs = zip(*(process_variance(m, prior) for m in medians), strict=True)
    return sum(variances) / 2, min(sum(dofs), math.inf if prior is None else prior.dof_limit)
