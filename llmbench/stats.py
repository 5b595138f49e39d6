"""Statistics of step times: where warm-up ends, and intervals that count whole processes, not only steps.

Two processes of one cell differ by more than the steps inside either of them say, so the unit of replication is
the process. Everything is on the log scale: a step time is positive, and what is compared is a ratio.
Samples are seconds (any positive unit works). Pure functions of lists; no clock, no global random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Samples that a running median looks at when warm-up is searched for.
WINDOW = 5
#: A step is still warm-up only when it is off by more than this share, however quiet the rest is.
TOLERANCE = 0.02
#: Standard deviations per median absolute deviation of a normal distribution (1 / 0.6745).
MAD_TO_SD = 1.4826
BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A location and its interval; `low` and `high` are None where one sample is all there is.

    `method` says what the interval covers: `processes` (differences between processes too), `within` (one process
    only: too narrow for a comparison with another run) or `none`.
    """

    value: float
    low: float | None
    high: float | None
    method: str = "none"

    @property
    def half_width_pct(self) -> float | None:
        """Half of the interval's width, in percent of the value; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return 50.0 * (self.high - self.low) / self.value


def steady_from(samples: Sequence[float]) -> int:
    """Return how many leading samples are warm-up: the index of the changepoint to the steady level.

    The steady level is the median of the second half. Warm-up ends at the first step that lies within 3 standard
    deviations (from the median absolute deviation, at least 2 %) of it and whose running median of 5 does, too: a
    single slow step later on is noise and not warm-up. At most half of the samples are warm-up; fewer than 4
    samples have none.
    """
    n = len(samples)
    if n < 4:
        return 0
    logs = _logs(samples)
    level, spread = _level_and_spread(logs[n // 2 :])
    band = max(3.0 * spread, math.log1p(TOLERANCE))
    for k in range(n // 2):
        inside = abs(logs[k] - level) <= band
        if inside and abs(float(np.median(logs[k : k + WINDOW])) - level) <= band:
            return k
    return n // 2


def pooled_interval(processes: Sequence[Sequence[float]], level: float = 0.95) -> Estimate:
    """Return the step time over several processes, and its `level` interval.

    The location is exp(mean over processes of log(median of the process)). With P >= 2 processes the interval is
    Student's on the P log medians (P - 1 degrees of freedom); with one it is a moving-block bootstrap of its median,
    which sees neither start-up nor memory layout of another process. Processes without samples are left out.

    Raises ValueError without samples, for a sample that is not finite and positive, and for a level outside (0, 1).
    """
    _check_level(level)
    logs = [_logs(p) for p in processes if len(p)]
    if not logs:
        raise ValueError("no samples")
    medians = np.array([np.median(p) for p in logs])
    location = float(medians.mean())
    if len(logs) > 1:
        half = t_quantile(0.5 + level / 2, len(logs) - 1) * float(medians.std(ddof=1)) / math.sqrt(len(logs))
        return _estimate(location, location - half, location + half, "processes")
    if len(logs[0]) < 2:
        return Estimate(math.exp(location), None, None)
    draws = _bootstrap_medians(logs[0], np.random.default_rng(0))
    return _percentiles(location, draws, level)


def ratio_interval(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], level: float = 0.95) -> Estimate:
    """Return the step time of `a` over that of `b` (above 1: `b` is faster), and its `level` interval.

    Both are lists of processes, unpaired. With two or more processes on both sides the interval is Welch's on the
    log medians (degrees of freedom rounded down); else it is bootstrapped within the processes. Raises ValueError
    as `pooled_interval` does.
    """
    _check_level(level)
    sides = [[_logs(p) for p in side if len(p)] for side in (a, b)]
    if not all(sides):
        raise ValueError("no samples")
    medians = [np.array([np.median(p) for p in side]) for side in sides]
    location = float(medians[0].mean() - medians[1].mean())
    if all(len(m) > 1 for m in medians):
        errors = [float(m.var(ddof=1)) / len(m) for m in medians]
        half = t_quantile(0.5 + level / 2, _welch_dof(errors, medians)) * math.sqrt(sum(errors))
        return _estimate(location, location - half, location + half, "processes")
    if any(len(p) < 2 for side in sides for p in side):
        return Estimate(math.exp(location), None, None)
    rng = np.random.default_rng(0)
    means = [np.mean([_bootstrap_medians(p, rng) for p in side], axis=0) for side in sides]
    return _percentiles(location, means[0] - means[1], level)


def samples_for(pilot: Sequence[float], ci_pct: float, level: float = 0.95) -> int:
    """Return how many steps make the interval of their median `ci_pct` percent wide to either side.

    From the spread of `pilot`, with the normal approximation (the median's standard error is sqrt(pi / 2) times the
    mean's), so it is a plan and not a promise. At least 2. Raises ValueError for `ci_pct` that is not positive.
    """
    _check_level(level)
    if not ci_pct > 0:
        raise ValueError(f"ci_pct must be positive, not {ci_pct}")
    if not len(pilot):
        raise ValueError("no samples")
    _, spread = _level_and_spread(_logs(pilot))
    normal = t_quantile(0.5 + level / 2, 1000)
    return max(2, math.ceil((normal * math.sqrt(math.pi / 2) * spread / math.log1p(ci_pct / 100)) ** 2))


def t_quantile(probability: float, dof: int) -> float:
    """Return the quantile of Student's t, by bisection of its closed-form distribution function.

    The form for whole degrees of freedom is Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    if not 0.5 <= probability < 1.0 or dof < 1:
        raise ValueError("probability must be in [0.5, 1) and dof at least 1")
    low, high = 0.0, 1.0
    while _t_two_sided(high, dof) < 2 * probability - 1:
        low, high = high, high * 2
        if math.isinf(high):
            raise ValueError("probability is too close to 1")
    for _ in range(200):
        middle = (low + high) / 2
        if _t_two_sided(middle, dof) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_two_sided(t: float, dof: int) -> float:
    """Return P(|T| <= t)."""
    angle = math.atan2(t, math.sqrt(dof))
    cos2 = math.cos(angle) ** 2
    odd = dof % 2 == 1
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(1 if odd else 0, dof - 1, 2):
        total += term
        term *= cos2 * (k + 1) / (k + 2)
    value = math.sin(angle) * total
    return 2 / math.pi * (angle + value) if odd else value


def _logs(samples: Sequence[float]) -> np.ndarray:
    values = np.asarray(samples, dtype=float)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("samples must be finite and positive")
    return np.log(values)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")


def _level_and_spread(logs: np.ndarray) -> tuple[float, float]:
    level = float(np.median(logs))
    return level, MAD_TO_SD * float(np.median(np.abs(logs - level)))


def _welch_dof(errors: list[float], medians: list[np.ndarray]) -> int:
    """Return Satterthwaite's degrees of freedom, rounded down; `errors` are squared standard errors."""
    below = sum(e * e / (len(m) - 1) for e, m in zip(errors, medians, strict=True))
    fewest = min(len(m) for m in medians) - 1
    return max(fewest, math.floor(sum(errors) ** 2 / below)) if below > 0 else fewest


def _bootstrap_medians(logs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return medians of resamples made of blocks of n^(1/3) neighbours, since consecutive steps resemble each other."""
    n = len(logs)
    block = min(n, math.ceil(n ** (1 / 3)))
    offsets = np.arange(block)
    medians = np.empty(BOOTSTRAP_DRAWS)
    for i in range(BOOTSTRAP_DRAWS):
        starts = rng.integers(0, n - block + 1, size=math.ceil(n / block))
        medians[i] = np.median(logs[(starts[:, None] + offsets).ravel()[:n]])
    return medians


def _percentiles(location: float, draws: np.ndarray, level: float) -> Estimate:
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return _estimate(location, min(float(low), location), max(float(high), location), "within")


def _estimate(location: float, low: float, high: float, method: str) -> Estimate:
    return Estimate(math.exp(location), math.exp(low), _exp(high), method)


def _exp(value: float) -> float | None:
    """Return e to the `value`, or None (unknown, never infinity) where that overflows."""
    try:
        return math.exp(value)
    except OverflowError:
        return None
