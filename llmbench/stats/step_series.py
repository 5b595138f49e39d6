"""The step times of one process: outliers, autocorrelation, trend, modes; and reasons not to rely on them.

Everything is computed for many processes at once, a row each: a report of thousands of cells needs as many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmbench.stats.intervals import Processes, log_samples

#: Standard deviations per median absolute deviation of a normal distribution (1 / 0.6745).
MAD_TO_SD = 1.4826
#: Modified z score beyond which a sample is an outlier (Iglewicz & Hoaglin 1993, "How to detect and handle outliers").
OUTLIER_Z = 3.5
#: Differences below this share are never a finding, however quiet the rest is.
TOLERANCE = 0.02
FEWEST_SAMPLES = 10  # fewer do not describe a process
FEWEST_EFFECTIVE = 5  # independent samples; fewer do not describe a process
MOST_AUTOCORRELATION = 0.5  # beyond it, the coverage of intervals was not simulated
TOO_FEW = 3  # samples: outliers and autocorrelation need more
FEWEST_FOR_SHAPE = 30  # samples that a trend or a second mode needs
TREND_Z = 4.0  # standard errors of a change from the first third to the last, beyond which it is a trend
#: Ashman's D (Ashman, Bird & Zepf 1994) beyond which there are two modes. The two halves of a normal sample have 2.6,
#: those of a uniform one 3.5.
MODES_D = 4.5
MODE_SHARE = 0.2  # of the samples that the smaller mode has at least

Rows = np.ndarray  # of log samples: a row per process


def outliers(samples: Sequence[float]) -> list[int]:
    """Return the indices of outliers, to be marked and never dropped.

    An outlier is further from the median, on the log scale, than 3.5 robust standard deviations (from the median
    absolute deviation), and than 2 %. Fewer than 4 samples have none. Raises ValueError for a sample that is not finite
    and positive.
    """
    return [] if len(samples) <= TOO_FEW else np.flatnonzero(_outliers(log_samples([samples]))[0]).tolist()


def _outliers(logs: Rows) -> np.ndarray:
    """Return which samples of each row are outliers."""
    away = np.abs(logs - _medians(logs)[:, None])
    return away > np.maximum(OUTLIER_Z * MAD_TO_SD * _medians(away), math.log1p(TOLERANCE))[:, None]


def _medians(rows: np.ndarray) -> np.ndarray:
    """Return the median of each row; of short rows in a third of the time of `np.median`."""
    ordered, middle = np.sort(rows, axis=1), rows.shape[1] // 2
    return ordered[:, middle] if rows.shape[1] % 2 else (ordered[:, middle - 1] + ordered[:, middle]) / 2


def autocorrelation(samples: Sequence[float], lag: int = 1) -> float | None:
    """Return the correlation of log step times with those `lag` steps later; None for fewer than lag + 3 samples.

    None as well for samples that are all equal. Raises ValueError for `lag` below 1 or a sample that is no time.
    """
    if lag < 1:
        raise ValueError(f"lag must be at least 1, not {lag}")
    if len(samples) < lag + 3:
        return None
    centred, squares = _centre(log_samples([samples]))
    return float(_correlations(centred, squares, lag)[0]) if squares[0] > 0 else None


def effective_samples(samples: Sequence[float]) -> float:
    """Return the number of independent samples with the same error of the mean: n / (1 + 2 sum of autocorrelations).

    The sum is Geyer's (1992, "Practical Markov chain Monte Carlo") initial monotone positive sequence, up to lag
    n / 3. From 1 to n: negative correlation is not counted as a gain. It is also safe for the median, whose error
    grows less with correlation.
    """
    if len(samples) <= TOO_FEW:
        return float(len(samples))
    return float(_effective(*_centre(log_samples([samples])))[0])


def _effective(centred: Rows, squares: np.ndarray) -> np.ndarray:
    """Return the effective number of samples of each row; correlations of later lags are computed only as needed."""
    count, n = centred.shape
    totals = np.full(count, 0.5)  # what makes 1 independent of those without a spread
    rows = np.flatnonzero(squares > 0) if n > TOO_FEW else np.zeros(0, int)
    totals[rows] = 0.0
    last = np.full(count, np.inf)
    for lag in range(0, max(2, n // 3), 2):
        if not len(rows):
            break
        some, of = centred[rows], squares[rows]
        pairs = (_correlations(some, of, lag) if lag else 1.0) + _correlations(some, of, lag + 1)
        last[rows] = np.minimum(last[rows], pairs)
        rows = rows[last[rows] > 0]
        totals[rows] += last[rows]
    return n / np.clip(2 * totals - 1, 1.0, n)


def _centre(logs: Rows) -> tuple[Rows, np.ndarray]:
    """Return the rows minus their means, and their sums of squares; 0 where all values of a row are equal."""
    equal = logs.max(axis=1) == logs.min(axis=1)
    centred = logs - logs.mean(axis=1, keepdims=True)
    centred[equal] = 0.0
    return centred, (centred * centred).sum(axis=1)


def _correlations(centred: Rows, squares: np.ndarray, lag: int) -> np.ndarray:
    """Return the correlation of each row with itself `lag` later; `squares` are positive."""
    if lag >= centred.shape[1]:
        return np.zeros(len(centred))
    return (centred[:, : centred.shape[1] - lag] * centred[:, lag:]).sum(axis=1) / squares


def reliability(processes: Processes) -> list[str]:
    """Return the reasons not to rely on the step time of a cell, one sentence each; empty where there are none.

    `processes` are the clean step times (seconds) of each process. The reasons are fewer than two processes, fewer than
    10 samples or 5 effective ones in one, autocorrelation above 0.5 (mean over processes), a trend, and two modes.
    """
    return describe(processes).unreliable


@dataclass(frozen=True)
class Description:
    """The step times of a cell's processes: see `outliers`, `autocorrelation` and `reliability`."""

    outliers: int
    autocorrelations: list[float]  # of the processes that have one
    unreliable: list[str]


@dataclass
class _Process:
    """The step times of one process."""

    samples: int
    effective: float
    outliers: int = 0
    autocorrelation: float | None = None
    shape: dict[str, str] = field(default_factory=dict)  # trend and two modes, in words


def describe(processes: Processes) -> Description:
    """Return outliers, autocorrelation, trend and modes of the step times; faster than asking for each.

    They share the logs of the samples.
    """
    return describe_all([processes])[0]


def describe_all(cells: Sequence[Processes]) -> list[Description]:
    """Return `describe` of the processes of each cell. Raises ValueError for a sample that is no time."""
    timed = [[p for p in cell if len(p)] for cell in cells]
    by_length: dict[int, list[Sequence[float]]] = {}
    for cell in timed:
        for process in cell:
            by_length.setdefault(len(process), []).append(process)
    rows = {n: iter(_describe_rows(log_samples(processes))) for n, processes in by_length.items()}
    return [_summarise([next(rows[len(process)]) for process in cell]) for cell in timed]


def _describe_rows(logs: Rows) -> list[_Process]:
    """Return the description of the process of each row."""
    n = logs.shape[1]
    centred, squares = _centre(logs)
    processes = [_Process(n, worth) for worth in _effective(centred, squares).tolist()]
    if n > TOO_FEW:
        with np.errstate(invalid="ignore", divide="ignore"):
            first = np.where(squares > 0, _correlations(centred, squares, 1), np.nan).tolist()
        for one, count, correlation in zip(processes, _outliers(logs).sum(axis=1).tolist(), first, strict=True):
            one.outliers, one.autocorrelation = count, None if math.isnan(correlation) else correlation
    if n >= FEWEST_FOR_SHAPE:
        for name, shapes in (("trend", _trends(logs)), ("two modes", _modes(logs))):
            for row, text in shapes:
                processes[row].shape[name] = text
    return processes


def _summarise(processes: Sequence[_Process]) -> Description:
    correlations = [one.autocorrelation for one in processes if one.autocorrelation is not None]
    outlier_count = sum(one.outliers for one in processes)
    return Description(outlier_count, correlations, _reasons(processes, correlations))


def _reasons(processes: Sequence[_Process], correlations: Sequence[float]) -> list[str]:
    count = len(processes)
    reasons = [] if count > 1 else [f"fewer than 2 processes ({count}): differences between them are unseen"]
    sizes = [(one.samples, one.effective) for one in processes]
    few = [(n, worth) for n, worth in sizes if n < FEWEST_SAMPLES or worth < FEWEST_EFFECTIVE]
    if few:
        steps, worth = min(few)
        reasons.append(f"too few samples in {len(few)} processes: {steps} steps, worth {worth:.0f} independent ones")
    mean = math.fsum(correlations) / len(correlations) if correlations else 0.0
    if mean > MOST_AUTOCORRELATION:
        reasons.append(f"autocorrelation {mean:.2f} of step times is above {MOST_AUTOCORRELATION}")
    for name in ("trend", "two modes"):
        texts = [one.shape[name] for one in processes if name in one.shape]
        if texts:
            reasons.append(f"{name} within {len(texts)} of {count} processes: {texts[0]}")
    return reasons


def _trends(logs: Rows) -> Iterator[tuple[int, str]]:
    """Yield each row whose last third is slower or faster than its first beyond chance, and by how much."""
    third = logs.shape[1] // 3
    change = _medians(logs[:, -third:]) - _medians(logs[:, :third])
    parts = np.array_split(logs, 3, axis=1)
    rest = np.concatenate([part - _medians(part)[:, None] for part in parts], axis=1)
    spread = MAD_TO_SD * _medians(np.abs(rest))
    error = spread * np.sqrt(math.pi / 2 * 2 / (_effective(*_centre(rest)) / 3))
    for row in np.flatnonzero(np.abs(change) > np.maximum(math.log1p(TOLERANCE), TREND_Z * error)).tolist():
        side = "slower" if change[row] > 0 else "faster"
        yield row, f"the last third is {100 * abs(math.expm1(change[row])):.1f} % {side}"


def _modes(logs: Rows) -> Iterator[tuple[int, str]]:
    """Yield each row that falls into two levels, and the levels; they are split where their variances are least."""
    count, n = logs.shape
    ordered, at = np.sort(logs, axis=1), np.arange(count)
    ordered -= ordered[:, :1]  # variances of what is close to 0 lose nothing
    sizes = np.arange(1, n)
    below, squares = np.cumsum(ordered, axis=1), np.cumsum(ordered * ordered, axis=1)
    means = (below[:, :-1] / sizes, (below[:, -1:] - below[:, :-1]) / (n - sizes))
    inside = (squares[:, :-1] - sizes * means[0] ** 2, squares[:, -1:] - squares[:, :-1] - (n - sizes) * means[1] ** 2)
    best = np.argmin(inside[0] + inside[1], axis=1)
    low, high = (side[at, best] for side in means)
    cut = best + 1
    variances = inside[0][at, best] / cut, inside[1][at, best] / (n - cut)
    width = np.sqrt(np.maximum(0.0, variances[0] + variances[1]) / 2)
    enough = np.minimum(cut, n - cut) >= MODE_SHARE * n
    for row in np.flatnonzero(enough & (high - low > np.maximum(math.log1p(TOLERANCE), MODES_D * width))).tolist():
        share, times = 100 * (n - cut[row]) / n, math.exp(high[row] - low[row])
        yield row, f"{share:.0f} % of steps take {times:.2f} times as long as the others"
