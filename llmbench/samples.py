"""What one process's step times look like: outliers, autocorrelation, trend, modes; and why not to rely on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

import numpy as np

from llmbench.intervals import Processes, log_samples

#: Standard deviations per median absolute deviation of a normal distribution (1 / 0.6745).
MAD_TO_SD = 1.4826
#: Modified z score beyond which a sample is an outlier (Iglewicz & Hoaglin 1993, "How to detect and handle outliers").
OUTLIER_Z = 3.5
#: Differences below this share are never a finding, however quiet the rest is.
TOLERANCE = 0.02
#: Fewer samples, or fewer effective ones, do not describe a process.
FEWEST_SAMPLES, FEWEST_EFFECTIVE = 10, 5
#: Beyond this the coverage of intervals was not simulated.
MOST_AUTOCORRELATION = 0.5
#: A trend or a second mode is sought in this many samples at least.
FEWEST_FOR_SHAPE = 30
TREND_Z = 4.0
#: Ashman's D (Ashman, Bird & Zepf 1994) of the two halves: 2.6 for a normal sample, 3.5 for a uniform one.
MODES_D, MODE_SHARE = 4.5, 0.2


def outliers(samples: Sequence[float]) -> list[int]:
    """Return the indices of outliers, to be marked and never dropped.

    On the log scale, further from the median than 3.5 robust standard deviations (median absolute deviation), and
    than 2 %. Fewer than 4 samples have none. Raises ValueError for a sample that is not finite and positive.
    """
    return [] if len(samples) < 4 else _outliers(_logs(samples))


def _outliers(logs: Sequence[float]) -> list[int]:
    middle = _median(logs)
    away = [abs(value - middle) for value in logs]
    furthest, least = max(away), math.log1p(TOLERANCE)
    if furthest <= least or furthest <= (limit := max(OUTLIER_Z * MAD_TO_SD * _median(away), least)):
        return []
    return [i for i, distance in enumerate(away) if distance > limit]


def _median(values: Sequence[float]) -> float:
    """Return what `statistics.median` does, for half of the time that it takes for few values."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def autocorrelation(samples: Sequence[float], lag: int = 1) -> float | None:
    """Return the correlation of log step times with those `lag` steps later; None for fewer than lag + 3 samples.

    None as well for samples that are all equal. Raises ValueError for `lag` below 1 or a sample that is no time.
    """
    if lag < 1:
        raise ValueError(f"lag must be at least 1, not {lag}")
    if len(samples) < lag + 3:
        return None
    centred, total = _centred(_logs(samples))
    return _correlation(centred, total, lag) if total > 0 else None


def effective_samples(samples: Sequence[float]) -> float:
    """Return how many independent samples have the same error of the mean: n / (1 + 2 sum of autocorrelations).

    The sum is Geyer's (1992, "Practical Markov chain Monte Carlo") initial monotone positive sequence, up to lag
    n / 3. From 1 to n: negative correlation is not counted as a gain. It is also safe for the median, whose error
    grows less with correlation.
    """
    if len(samples) <= 3:
        return float(len(samples))
    centred, square = _centred(_logs(samples))
    return _effective(centred, square, _correlation(centred, square, 1) if square > 0 else 0.0)


def _effective(centred: Sequence[float], square: float, first: float) -> float:
    """Return the effective number of samples; `first` is their correlation at lag 1."""
    n = len(centred)
    if n <= 3 or not square > 0:
        return float(n)
    total, last = 0.0, math.inf
    for k in range(0, max(2, n // 3), 2):
        pair = _correlation(centred, square, k) + _correlation(centred, square, k + 1) if k else 1.0 + first
        last = min(last, pair)
        if last <= 0:
            break
        total += last
    return n / min(max(2 * total - 1, 1.0), n)


def _logs(samples: Sequence[float]) -> list[float]:
    """Return the logs of `samples`, in plain Python: they are few, and numpy would take longer to begin."""
    if not (min(samples) > 0 and math.isfinite(sum(samples))):
        raise ValueError("samples must be finite and positive")
    return list(map(math.log, samples))


def _centred(values: Sequence[float]) -> tuple[list[float], float]:
    """Return `values` less their mean, and the sum of squares; 0 where they are all equal."""
    if max(values) == min(values):
        return [0.0] * len(values), 0.0
    mean = math.fsum(values) / len(values)
    centred = [value - mean for value in values]
    return centred, sum(map(mul, centred, centred))


def _correlation(centred: Sequence[float], square: float, lag: int) -> float:
    return sum(map(mul, centred, centred[lag:])) / square if lag < len(centred) else 0.0


def reliability(processes: Processes) -> list[str]:
    """Return why the step time of a cell should not be relied on, one sentence each; empty where nothing was found.

    `processes` are the clean step times (seconds) of each process. Looks for fewer than two processes, fewer than 10
    samples or 5 effective ones in one, autocorrelation above 0.5 (mean over processes), a trend, and two modes.
    """
    return describe(processes).unreliable


@dataclass(frozen=True)
class Description:
    """What the step times of a cell's processes look like: see `outliers`, `autocorrelation` and `reliability`."""

    outliers: int
    autocorrelations: list[float]  # of the processes that have one
    unreliable: list[str]


def describe(processes: Processes) -> Description:
    """Return what all of this module say of `processes`, for less than one after the other: they share the logs."""
    kept = [list(p) for p in processes if len(p)]
    marked, worths, seen = 0, [], []
    for process in kept:
        logs = _logs(process)
        centred, square = _centred(logs)
        first = _correlation(centred, square, 1) if square > 0 else 0.0
        worths.append(_effective(centred, square, first))
        if len(process) > 3:
            marked += len(_outliers(logs))
            seen += [first] if square > 0 else []
    return Description(marked, seen, _unreliable(kept, worths, seen))


def _unreliable(kept: Sequence[list[float]], worths: Sequence[float], seen: Sequence[float]) -> list[str]:
    found = [] if len(kept) > 1 else [f"fewer than 2 processes ({len(kept)}): differences between them are unseen"]
    sizes = [(len(p), worth) for p, worth in zip(kept, worths, strict=True)]
    few = [(n, worth) for n, worth in sizes if n < FEWEST_SAMPLES or worth < FEWEST_EFFECTIVE]
    if few:
        steps, worth = min(few)
        found.append(f"too few samples in {len(few)} processes: {steps} steps, worth {worth:.0f} independent ones")
    if seen and math.fsum(seen) / len(seen) > MOST_AUTOCORRELATION:
        found.append(f"autocorrelation {math.fsum(seen) / len(seen):.2f} of step times is above {MOST_AUTOCORRELATION}")
    for name, test in (("trend", _trend), ("two modes", _modes)):
        said = [text for text in map(test, kept) if text]
        if said:
            found.append(f"{name} within {len(said)} of {len(kept)} processes: {said[0]}")
    return found


def _trend(samples: Sequence[float]) -> str | None:
    """Return by how much the last third is slower or faster than the first; None where that may be chance."""
    if len(samples) < FEWEST_FOR_SHAPE:
        return None
    logs = log_samples(samples)
    third = len(logs) // 3
    change = float(np.median(logs[-third:]) - np.median(logs[:third]))
    rest = np.concatenate([part - np.median(part) for part in np.array_split(logs, 3)])
    spread = MAD_TO_SD * float(np.median(np.abs(rest)))
    worth = effective_samples(list(np.exp(rest))) / 3
    error = spread * math.sqrt(math.pi / 2 * 2 / worth)
    if abs(change) <= max(math.log1p(TOLERANCE), TREND_Z * error):
        return None
    return f"the last third is {100 * abs(math.expm1(change)):.1f} % {'slower' if change > 0 else 'faster'}"


def _modes(samples: Sequence[float]) -> str | None:
    """Return the two levels that the samples fall into, when they do; the split has the least variance within."""
    n = len(samples)
    if n < FEWEST_FOR_SHAPE:
        return None
    logs = np.sort(log_samples(samples))
    sizes = np.arange(1, n)
    below, squares = np.cumsum(logs)[:-1], np.cumsum(logs**2)
    within = squares[-1] - below**2 / sizes - (logs.sum() - below) ** 2 / (n - sizes)
    cut = int(np.argmin(within)) + 1
    low, high = logs[:cut], logs[cut:]
    apart = float(high.mean() - low.mean())
    width = math.sqrt((float(low.var()) + float(high.var())) / 2)
    if min(cut, n - cut) < MODE_SHARE * n or apart <= max(math.log1p(TOLERANCE), MODES_D * width):
        return None
    return f"{100 * (n - cut) / n:.0f} % of steps take {math.exp(apart):.2f} times as long as the others"
