"""One estimator of a ratio for comparisons, interventions and remedies; and tests that permute process labels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from operator import sub
from typing import NamedTuple

import numpy as np

from llmbench.stats.intervals import (
    Estimate,
    Prior,
    Processes,
    bootstrap_medians,
    check_level,
    has_spread,
    log_medians,
    log_processes,
    log_samples,
    mean_variance,
    percentiles,
    process_interval,
    satterthwaite,
    student,
)
from llmbench.stats.student_t import t_quantile

EXACT = 10_000  # relabellings: up to so many, all are tried
DRAWS = 9_999  # relabellings that are drawn where there are more; with the observed one they are 10,000
TRIMMED = 0.2  # share that is cut off at each end of the pairs of one process, as Wilcox (2012) recommends
FEWEST_PAIRS = 5  # with an interval: of fewer, 20 % is less than one, so that nothing would be trimmed
LEAST_REST = 1e-3  # of the step: what removing a cause leaves at least, so that a ratio stays finite


Trimmed = tuple[float, float, int]  # mean, standard error, degrees of freedom


class Bound(NamedTuple):
    """A ratio and its simultaneous lower bound; `exceeds` is Holm's decision that it is above the threshold."""

    value: float
    low: float | None
    exceeds: bool
    method: str


def ratio_interval(
    a: Processes, b: Processes, level: float = 0.95, paired: bool = False, prior: Prior | None = None
) -> Estimate:
    """Return the step time of `a` over that of `b` (above 1: `b` is faster), and its `level` interval.

    Unpaired, `a` and `b` are lists of processes of their own. With two or more processes on both sides the interval
    is Welch's on the log medians (Welch 1947), with moderated variances where a prior is given; else it is
    bootstrapped within the processes and labelled `within`.

    Paired, a[i][j] and b[i][j] are the step times of block pair j of process i, measured next to each other
    (A B A B) so that drift cancels. It is the pooled interval of the ratios of pairs: per process the median log
    ratio, processes as units. With one process it is the trimmed mean of its log ratios (see
    `interval_of_trimmed_mean`), labelled `within`. A prior must then come from ratios, too: `fit_prior([block_ratios(a,
    b), ...])`.

    Raises ValueError as `process_interval` does, and for paired sides that do not match.
    """
    if paired:
        return Paired.of(a, b).interval(level, prior)
    check_level(level)
    sides = [log_processes(side) for side in (a, b)]
    medians = [log_medians(side) for side in sides]
    location = float(medians[0].mean() - medians[1].mean())
    if all(has_spread(m, prior) for m in medians):
        errors, dofs = zip(*(mean_variance(m, prior) for m in medians), strict=True)
        dof = satterthwaite(errors, dofs)
        return student(location, sum(errors), dof if prior is None else min(dof, prior.dof_limit), level, prior)
    if any(len(p) < 2 for side in sides for p in side):
        return Estimate(math.exp(location), None, None)
    rng = np.random.default_rng(0)
    means = [np.mean([bootstrap_medians(p, rng) for p in side], axis=0) for side in sides]
    return percentiles(location, means[0] - means[1], level)


class Paired:
    """The log ratios of pairs of blocks, process by process, and their interval at any level: see `ratio_interval`.

    Where several intervals of the same pairs are wanted, this does the work once. Where b is without only a `share` of
    what is asked about, the ratio without all of it is derived from that of the pairs together, see `without_share`,
    and not pair by pair: the smaller what is left, the more a single pair's noise would be blown up, and upwards.
    """

    def __init__(
        self,
        logs: Sequence[Sequence[float]],
        shares: Sequence[float] | None = None,
        trimmed: Trimmed | None = None,
        halves: Sequence[Trimmed] | None = None,
    ) -> None:
        self.logs, self.shares, self._halves = logs, shares, halves
        self._trimmed = trimmed or (_trim(logs[0]) if len(logs) == 1 else None)

    @classmethod
    def of(cls, a: Processes, b: Processes, shares: Sequence[float] | None = None) -> Paired:
        """Return the pairs of `a` over `b`, `shares`: one per process. Raises ValueError as `ratio_interval` does."""
        return cls.all([(a, b, shares)])[0]

    @classmethod
    def all(cls, sides: Sequence[tuple[Processes, Processes, Sequence[float] | None]]) -> list[Paired]:
        """Return `of` each, faster than one by one: those of one process with as many pairs are rows of an array."""
        paired: list[Paired | None] = [None] * len(sides)
        alike: dict[int, list[int]] = {}
        for i, (a, b, shares) in enumerate(sides):
            if len(a) == len(b) == 1 and len(a[0]) == len(b[0]) > 1:
                alike.setdefault(len(a[0]), []).append(i)
            else:
                known = None if shares is None else [share for share, p in zip(shares, a, strict=True) if len(p)]
                paired[i] = cls(_log_ratios(a, b), _parts(known))
        for rows in alike.values():
            logs = log_samples([sides[i][0][0] for i in rows]) - log_samples([sides[i][1][0] for i in rows])
            trimmed = [_trim_rows(pairs) for pairs in (logs, logs[:, ::2], logs[:, 1::2])]
            for i, own, whole, *halves in zip(rows, logs.tolist(), *trimmed, strict=True):
                paired[i] = cls([own], _parts(sides[i][2]), whole, tuple(halves))
        return paired  # type: ignore[return-value]  # none is None any more

    @property
    def pairs(self) -> int:
        """The number of pairs of all processes."""
        return sum(map(len, self.logs))

    def every_second(self, start: int) -> Paired | None:
        """Return every second pair of each process, from its first (0) or second (1); None if a process has none."""
        logs = [process[start::2] for process in self.logs]
        return Paired(logs, self.shares, self._halves[start] if self._halves else None) if all(logs) else None

    @property
    def value(self) -> float:
        """The ratio that `interval` returns, without the work for its ends."""
        if self._trimmed is None:
            return self.interval().value
        value = math.exp(self._trimmed[0])
        return value if self.shares is None else without_share(value, self.shares[0])

    def interval(self, level: float = 0.95, prior: Prior | None = None) -> Estimate:
        """Return the ratio and its `level` interval."""
        if self._trimmed is not None and prior is None:
            estimate = _interval_of_trimmed(*self._trimmed, level)
            return estimate if self.shares is None else _estimate_without(estimate, self.shares[0])
        if self.shares is None:
            return process_interval(_exp(self.logs), level, prior)
        medians = [math.exp(statistics.median(process)) for process in self.logs]
        whole = [[without_share(m, share)] for m, share in zip(medians, self.shares, strict=True)]
        return process_interval(whole, level, prior)


def without_share(ratio: float, share: float) -> float:
    """Return the ratio without all of a cause, from one whose denominator is without only `share` of it.

    A share of -1: the denominator has the cause twice. What is left of the cause is taken off by proportion: 1 / (1 -
    (1 - 1 / ratio) / share). At least `LEAST_REST` is left.
    """
    return 1 / max(LEAST_REST, 1 - (1 - 1 / ratio) / share)


def _estimate_without(estimate: Estimate, share: float) -> Estimate:
    """Return `without_share` of an estimate and its ends, which change places where the share is negative."""
    value = without_share(estimate.value, share)
    if estimate.low is None or estimate.high is None:
        return Estimate(value, None, None, estimate.method)
    ends = (without_share(estimate.low, share), without_share(estimate.high, share))
    return Estimate(value, min(ends), max(ends), estimate.method)


def interval_of_trimmed_mean(logs: Sequence[float], level: float) -> Estimate:
    """Return exp of the 20 % trimmed mean of independent `logs`, with the interval of Tukey and McLaughlin (1963).

    Student's with the winsorized variance and h - 1 degrees of freedom, h the values that are not trimmed: a stall in
    one pair of blocks neither moves nor widens it much, and eight pairs have the coverage they claim, which a bootstrap
    of their median has not. Fewer than 5 values have no interval.
    """
    return _interval_of_trimmed(*_trim(logs), level)


def _parts(shares: Sequence[float] | None) -> Sequence[float] | None:
    """Return `shares`; None where each is the whole cause."""
    return shares if shares is not None and any(share != 1.0 for share in shares) else None


def _trim(logs: Sequence[float]) -> Trimmed:
    return _trim_rows(np.array([logs]))[0]


def _trim_rows(logs: np.ndarray) -> list[Trimmed]:
    """Return the trimmed mean of each row, its standard error and degrees of freedom (0: too few values)."""
    n = logs.shape[1]
    cut = int(TRIMMED * n)
    middle = np.sort(logs, axis=1)[:, cut : n - cut]
    locations = middle.mean(axis=1)
    if n < FEWEST_PAIRS:
        return [(location, 0.0, 0) for location in locations.tolist()]
    least, most = middle[:, 0], middle[:, -1]
    means = (middle.sum(axis=1) + cut * (least + most)) / n
    squares = ((middle - means[:, None]) ** 2).sum(axis=1) + cut * ((least - means) ** 2 + (most - means) ** 2)
    errors = np.sqrt(squares / (n - 1)) / ((1 - 2 * TRIMMED) * math.sqrt(n))
    return [(*one, n - 2 * cut - 1) for one in zip(locations.tolist(), errors.tolist(), strict=True)]


def _interval_of_trimmed(location: float, error: float, dof: int, level: float) -> Estimate:
    check_level(level)
    if not dof:
        return Estimate(math.exp(location), None, None)
    half = t_quantile((1 + level) / 2, dof) * error
    return Estimate(math.exp(location), math.exp(location - half), math.exp(location + half), "within")


def block_ratios(a: Processes, b: Processes) -> list[list[float]]:
    """Return a[i][j] / b[i][j]: per process the ratio of each pair of blocks. ValueError where they do not match."""
    return _exp(_log_ratios(a, b))


def _log_ratios(a: Processes, b: Processes) -> list[list[float]]:
    """Return the logs of `block_ratios`. In plain Python: for a few of them numpy would take longer to begin."""
    if len(a) != len(b) or any(len(p) != len(q) for p, q in zip(a, b, strict=False)):
        raise ValueError("paired sides need the same processes with the same number of blocks")
    for process in (*a, *b):
        if len(process) and not (min(process) > 0 and math.isfinite(sum(process))):
            raise ValueError("samples must be finite and positive")
    logs = [list(map(sub, map(math.log, p), map(math.log, q))) for p, q in zip(a, b, strict=True) if len(p)]
    if not logs:
        raise ValueError("no samples")
    return logs


def _exp(logs: Sequence[Sequence[float]]) -> list[list[float]]:
    return [list(map(math.exp, process)) for process in logs]


def simultaneous(
    pairs: Sequence[tuple[Processes, Processes]],
    level: float = 0.95,
    *,
    threshold: float = 1.0,
    paired: bool = False,
    prior: Prior | None = None,
) -> list[Bound]:
    """Return a lower bound for the ratio of every pair (a, b), and which ratios exceed `threshold`.

    All bounds hold together with probability `level` (Bonferroni: each at 1 - (1 - level) / m, one-sided). `exceeds`
    is Holm's (1979) step-down decision: no ratio at or below the threshold is called above it, with probability
    `level`; it can say yes where Bonferroni's bound just does not. Each of the two guarantees holds on its own.
    Raises ValueError as `ratio_interval` does, and for a level up to 0.5.
    """
    if paired:
        return simultaneous_paired([Paired.of(a, b) for a, b in pairs], level, threshold=threshold, prior=prior)
    return _bounds(lambda i, at: ratio_interval(*pairs[i], at, prior=prior), len(pairs), level, threshold)


def simultaneous_paired(
    pairs: Sequence[Paired], level: float = 0.95, *, threshold: float = 1.0, prior: Prior | None = None
) -> list[Bound]:
    """Return the bounds and decisions of `simultaneous` for pairs of blocks."""
    return _bounds(lambda i, at: pairs[i].interval(at, prior), len(pairs), level, threshold)


def _bounds(interval: Callable[[int, float], Estimate], count: int, level: float, threshold: float) -> list[Bound]:
    """Return the bounds and decisions of `simultaneous`; `interval` gives that of one of `count` ratios at a level."""
    if not 0.5 < level < 1:
        raise ValueError(f"level must be between 0.5 and 1, not {level}")

    def interval_among(index: int, among: int) -> Estimate:
        return interval(index, 1 - 2 * (1 - level) / among)

    estimates = [interval_among(i, count) for i in range(count)]
    above = {i for i, e in enumerate(estimates) if e.low is not None and e.low > threshold}
    new = above
    while new and len(above) < count:
        left = [i for i in range(count) if i not in above]
        new = {i for i in left if (low := interval_among(i, len(left)).low) is not None and low > threshold}
        above = above | new
    return [Bound(e.value, e.low, i in above, e.method) for i, e in enumerate(estimates)]
