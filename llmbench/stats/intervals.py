"""The interval of a step time over several processes, moderated by what all cells of a run say about processes.

Notation: y[c, r] is the log of the median step time of cell c's process in round r (repeat r of every cell runs
in round r), P the processes of a cell. The unit of replication is the process: two processes of one cell differ by
more than the steps inside either of them say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from llmbench.stats.student_t import t_quantile

BOOTSTRAP_DRAWS = 1000  # the ends of a 95 % interval rest on 25 draws each
FEWEST_CELLS = 6  # fewer say too little about a variance to be a prior
FEWEST_DOF = 8  # degrees of freedom of all cells together; fewer say too little, too
MOST_CELLS = 2000  # that a prior is made of: of more, every so many-th; it is then as sure as it needs to be
#: Half of the 95 % quantile of chi-squared with one degree of freedom: a one-sided 97.5 % profile likelihood limit.
LIKELIHOOD_DROP = 1.921
#: Degrees of freedom that a prior may have.
_DOFS = np.geomspace(0.25, 200.0, 24)
#: Log variances that a prior may have, relative to the median of the cells'.
_LOG_VARIANCES = np.linspace(-5.0, 5.0, 101)

T = TypeVar("T")
Processes = Sequence[Sequence[float]]
Values = Sequence[float] | np.ndarray


class Estimate(NamedTuple):
    """A location and its interval; `low` and `high` are None where one sample is all there is.

    `method` says what the interval covers: `processes` (differences between processes, from this cell alone),
    `moderated` (the same, with the variance moderated by the other cells of the run), `within` (one process only:
    too narrow for a comparison with another run) or `none`.
    """

    value: float
    low: float | None
    high: float | None
    method: str = "none"

    @property
    def ends(self) -> list[float] | None:
        """The low and the high end; None without an interval."""
        return None if self.low is None or self.high is None else [self.low, self.high]

    @property
    def half_width_pct(self) -> float | None:
        """Half of the interval's width, in percent of the value; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return 50.0 * (self.high - self.low) / self.value


@dataclass(frozen=True)
class Prior:
    """The variance (log scale) between processes of one cell, as all cells of a run show it.

    `variance` and `dof` are those of a scaled inverse chi-squared distribution over cells.
    """

    dof: float
    variance: float
    dof_limit: float  # degrees of freedom of all cells together
    rounds: tuple[float, ...] = ()  # log time that the machine added to every cell in each round
    round_variance: float = 0.0  # of `rounds`, with len(rounds) - 1 degrees of freedom
    residual_scale: float = 1.0  # makes up for the variance that cells lose when their rounds are taken out


def process_interval(processes: Processes, level: float = 0.95, prior: Prior | None = None) -> Estimate:
    """Return the step time over several processes (seconds, or the unit of the samples), and its `level` interval.

    The location is exp(mean over processes of log(median of the process)). With P >= 2 processes the interval is
    Student's on the P log medians. The error of each process's own median (few or correlated steps) needs no term
    of its own: it moves the log medians apart, so their variance holds it already, whatever n and the
    autocorrelation are; n only decides how large that part is.

    With `prior` (see `fit_prior`) the variance is the moderated one of Smyth (2004), which makes two or three
    processes useful; one process has an interval then, too. Without a prior, one process gets a moving-block
    bootstrap of its median, which sees neither start-up nor memory layout of another process. Processes without
    samples are left out.

    Raises ValueError without samples, for a sample that is not finite and positive, and for a level outside (0, 1).
    """
    check_level(level)
    medians = _medians(processes)
    location = math.fsum(medians) / len(medians)
    if has_spread(medians, prior):
        variance, dof = mean_variance(medians, prior)
        return student(location, variance, dof, level, prior)
    logs = log_processes(processes)
    if len(logs[0]) < 2:
        return Estimate(math.exp(location), None, None)
    return percentiles(location, bootstrap_medians(logs[0], np.random.default_rng(0)), level)


def fit_prior(cells: Sequence[Processes]) -> Prior | None:
    """Return the variance between processes that the cells of a run have in common, as a prior for each of them.

    Each of `cells` is a list of processes, in the order of rounds. Their variances are taken to follow a scaled inverse
    chi-squared distribution, as in Smyth (2004), "Linear models and empirical Bayes methods", SAGMB 3(1). Three things
    differ from it, each since simulation asked for it:

    - The two parameters come from the marginal likelihood (s^2 / variance is F distributed) and not from moments of
      log variances: with two processes those are dominated by variances that are close to zero by chance.
    - `dof` is its one-sided 97.5 % lower profile limit: cells that differ in variance and happen to look alike would
      otherwise be given intervals that are too narrow.
    - What all cells of one round share (a machine that is slow for a minute) is taken out first and comes back as
      `round_variance`: else 27 cells would count the same accident 27 times.

    The coverage is right on average over the cells of a run; a cell that is far noisier than its peers gets less.
    None for fewer than 6 cells that have two processes or 8 degrees of freedom in all, or without any spread: use
    Student's t then. Raises ValueError as `process_interval` does.
    """
    several = [timed for cell in cells if len(timed := [process for process in cell if len(process)]) > 1]
    all_medians = [process_medians(cell) for cell in enough_cells(several)]
    dofs = np.array([len(medians) - 1 for medians in all_medians], dtype=float)
    if len(all_medians) < FEWEST_CELLS or dofs.sum() < FEWEST_DOF:
        return None
    rounds = _round_effects(all_medians)
    whole = sum(len(medians) == len(rounds) for medians in all_medians)
    scale = whole / (whole - 1) if whole > 1 else 1.0
    variances = np.array([_own_variance(medians, rounds, scale) for medians in all_medians])
    if not np.median(variances) > 0:
        return None
    dof, variance = likeliest(variances, dofs)
    return Prior(dof, variance, float(dofs.sum()), tuple(rounds.tolist()), float(rounds.var(ddof=1)), scale)


def enough_cells(cells: Sequence[T]) -> Sequence[T]:
    """Return the cells that `fit_prior` looks at: all of them, or about 2000 at even distances."""
    return cells[:: -(-len(cells) // MOST_CELLS) or 1]


def _round_effects(all_medians: Sequence[np.ndarray]) -> np.ndarray:
    """Return the log time that each round added: a median over the cells that have all rounds.

    The median lets one wild cell count once.
    """
    most = max(map(len, all_medians))
    whole = np.array([medians - medians.mean() for medians in all_medians if len(medians) == most])
    effects = np.median(whole, axis=0)
    return effects - effects.mean()


def _own_variance(medians: Values, rounds: Values, scale: float) -> float:
    """Return the variance of `medians` without what rounds added; a cell that lacks rounds keeps that in."""
    if len(rounds) != len(medians):
        return _variance(medians)
    return scale * _variance([one - added for one, added in zip(medians, rounds, strict=True)])


def _variance(values: Values) -> float:
    """Return the variance of a sample. In plain Python: for a few values numpy would take longer to begin."""
    mean = math.fsum(values) / len(values)
    return math.fsum([(value - mean) ** 2 for value in values]) / (len(values) - 1)


def likeliest(variances: np.ndarray, dofs: np.ndarray, drop: float = LIKELIHOOD_DROP) -> tuple[float, float]:
    """Return the lower limit of the prior's degrees of freedom, and the likeliest variance that goes with it.

    The limit is where the profile of the log likelihood is `drop` below its maximum; 0: the likeliest itself.

    The likelihood is that of s^2 / variance ~ F(dofs, dof). Variances below 1e-5 of the median are raised to it.
    """
    centre = float(np.median(variances))
    levels = np.log(centre) + _LOG_VARIANCES
    ratios = np.maximum(variances, 1e-5 * centre)[:, None] / np.exp(levels)
    total = np.empty((len(_DOFS), len(levels)))
    for i, dof in enumerate(_DOFS):
        constant = sum(math.lgamma((d + dof) / 2) - math.lgamma(d / 2) - math.lgamma(dof / 2) for d in dofs)
        scaled = dofs[:, None] * ratios / dof
        total[i] = constant + np.sum(
            dofs[:, None] / 2 * np.log(scaled) - (dofs[:, None] + dof) / 2 * np.log1p(scaled), axis=0
        )
    profile = total.max(axis=1)
    lowest = int(np.argmax(profile >= profile.max() - drop))
    return float(_DOFS[lowest]), float(np.exp(levels[total[lowest].argmax()]))


def has_spread(medians: Values, prior: Prior | None) -> bool:
    """Return whether `medians` have a variance between processes, their own or the prior's."""
    return len(medians) > 1 or (prior is not None and prior.dof >= 1)


def process_variance(medians: Values, prior: Prior | None) -> tuple[float, float]:
    """Return the variance between processes (log scale) and its degrees of freedom.

    With a prior: (dof0 variance0 + d s^2) / (dof0 + d), at most as certain as all cells together (the limit of
    limma's eBayes), plus the variance of rounds; the degrees of freedom of the sum are Satterthwaite's (1946).
    """
    d = len(medians) - 1
    if prior is None:
        return _variance(medians), float(d)
    own = _own_variance(medians, prior.rounds, prior.residual_scale) if d else 0.0
    dof = min(prior.dof + d, prior.dof_limit)
    variance = (prior.dof * prior.variance + d * own) / (prior.dof + d)
    shared = prior.round_variance
    if shared <= 0:
        return variance, dof
    return variance + shared, satterthwaite([variance, shared], [dof, len(prior.rounds) - 1.0])


def mean_variance(medians: Values, prior: Prior | None) -> tuple[float, float]:
    """Return the squared standard error of the mean of `medians` (log scale), and its degrees of freedom."""
    variance, dof = process_variance(medians, prior)
    return variance / len(medians), dof


def satterthwaite(variances: Sequence[float], dofs: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of independent variances (Satterthwaite 1946); the fewest if all are 0."""
    below = sum(v * v / d for v, d in zip(variances, dofs, strict=True))
    return max(sum(variances) ** 2 / below, min(dofs)) if below > 0 else min(dofs)


def student(location: float, variance: float, dof: float, level: float, prior: Prior | None) -> Estimate:
    """Return exp(location) with Student's interval; `variance` is that of `location`, on the log scale."""
    half = t_quantile(0.5 + level / 2, dof) * math.sqrt(variance)
    return _estimate(location, location - half, location + half, "processes" if prior is None else "moderated")


def percentiles(location: float, draws: np.ndarray, level: float) -> Estimate:
    """Return exp(location) with the interval between percentiles of `draws` (log scale), labelled `within`."""
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return _estimate(location, min(float(low), location), max(float(high), location), "within")


def bootstrap_medians(logs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return medians of resamples made of blocks of neighbours (Künsch 1989), since consecutive steps resemble.

    The block length is (1.5 n)^(1/3) (2 rho / (1 - rho^2))^(2/3), best for AR(1) (Carlstein 1986), with rho between
    0.3 and 0.9 whatever was seen. Blocks wrap around the end (Politis & Romano 1992), so that every step counts alike.
    """
    n = len(logs)
    rho = min(0.9, max(0.3, lag_correlation(logs, 1)))
    block = min(n, math.ceil((1.5 * n) ** (1 / 3) * (2 * rho / (1 - rho**2)) ** (2 / 3)))
    starts = rng.integers(0, n, size=(BOOTSTRAP_DRAWS, math.ceil(n / block)))
    index = (starts[:, :, None] + np.arange(block)).reshape(BOOTSTRAP_DRAWS, -1)[:, :n] % n
    return np.median(logs[index], axis=1)


def lag_correlation(values: np.ndarray, lag: int) -> float:
    """Return the correlation of `values` with themselves `lag` later; 0 where it is not defined."""
    centred = values - values.mean()
    total = float(centred @ centred)
    return float(centred[:-lag] @ centred[lag:]) / total if total > 0 and 0 < lag < len(values) else 0.0


def log_processes(processes: Processes) -> list[np.ndarray]:
    """Return the log samples of each process that has some. Raises ValueError without any."""
    logs = [log_samples(p) for p in processes if len(p)]
    if not logs:
        raise ValueError("no samples")
    return logs


def log_medians(logs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the median of each process's log samples."""
    return np.array([np.median(p) for p in logs])


def process_medians(processes: Processes) -> np.ndarray:
    """Return log_medians(log_processes(processes)); only the samples in the middle are taken the log of."""
    return np.array(_medians(processes))


def _medians(processes: Processes) -> list[float]:
    medians = [_log_median(process) for process in processes if len(process)]
    if not medians:
        raise ValueError("no samples")
    return medians


def _log_median(samples: Sequence[float]) -> float:
    """Return the median of the logs of `samples`."""
    if not (min(samples) > 0 and math.isfinite(sum(samples))):
        raise ValueError("samples must be finite and positive")
    ordered, n = sorted(samples), len(samples)
    high = math.log(ordered[n // 2])
    return high if n % 2 else (math.log(ordered[n // 2 - 1]) + high) / 2


def log_samples(samples: Sequence[float] | Sequence[Sequence[float]]) -> np.ndarray:
    """Return the logs of `samples`, or of rows of equal length. ValueError for one that is not finite and positive."""
    values = np.asarray(samples, dtype=float)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("samples must be finite and positive")
    return np.log(values)


def check_level(level: float) -> None:
    """Raise ValueError for a level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")


def _estimate(location: float, low: float, high: float, method: str) -> Estimate:
    return Estimate(math.exp(location), math.exp(low), _exp(high), method)


def _exp(value: float) -> float | None:
    """Return e to the `value`, or None (unknown, never infinity) where that overflows."""
    try:
        return math.exp(value)
    except OverflowError:
        return None
