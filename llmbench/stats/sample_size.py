"""How much to measure: samples from a pilot, processes by Stein's two-stage rule; and the interval that this gives.

Whoever stops when the interval is narrow enough stops at lucky spreads: the coverage is 88 % for a nominal 95 %.
Here the first stage alone decides the counts, and the interval keeps the first stage's variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmbench.stats.intervals import (
    Estimate,
    Prior,
    Processes,
    check_level,
    has_spread,
    log_medians,
    log_processes,
    log_samples,
    process_variance,
    student,
)
from llmbench.stats.step_series import MAD_TO_SD, effective_samples
from llmbench.stats.student_t import t_quantile


@dataclass(frozen=True)
class ProcessPlan:
    """How many processes make the interval `ci_pct` wide to either side, and how many there will be.

    `count` depends on the spread of the first stage only.
    """

    first: int  # processes of the first stage
    target: int  # Stein's number of processes
    count: int  # at least `first`, at most as many as the budget allows
    ci_pct: float

    @property
    def enough(self) -> bool:
        """Whether `count` gives the interval that was asked for."""
        return self.count >= self.target


@dataclass(frozen=True)
class TwoStageInterval:
    """A step time with Stein's interval: half of its width in percent, and how wide it was meant to be."""

    estimate: Estimate
    target_pct: float
    half_width_pct: float | None
    target_processes: int  # Stein's number
    processes: int

    @property
    def enough(self) -> bool:
        """Whether the interval is as narrow as it was meant to be."""
        return self.half_width_pct is not None and self.half_width_pct <= self.target_pct * (1 + 1e-9)


def samples_for(pilot: Sequence[float], ci_pct: float, level: float = 0.95) -> int:
    """Return the number of steps, at least 2, that make the interval of their median `ci_pct` wide to either side.

    It follows from the spread and the autocorrelation of `pilot`: correlated steps are worth fewer (see
    `effective_samples`). It uses the normal approximation, in which the median's standard error is sqrt(pi / 2) times
    the mean's, so it is a plan and not a promise. Raises ValueError for `ci_pct` that is not positive and for an empty
    pilot.
    """
    check_level(level)
    _check_width(ci_pct)
    if not len(pilot):
        raise ValueError("no samples")
    logs = log_samples(pilot)
    spread = MAD_TO_SD * float(np.median(np.abs(logs - np.median(logs))))
    normal = t_quantile(0.5 + level / 2, math.inf)
    independent = (normal * math.sqrt(math.pi / 2) * spread / math.log1p(ci_pct / 100)) ** 2
    return max(2, math.ceil(independent * len(pilot) / effective_samples(pilot)))


def processes_for(
    pilot: Processes, ci_pct: float, level: float = 0.95, most: int = 10, prior: Prior | None = None
) -> ProcessPlan:
    """Return the number of processes that are needed, from the first ones, by the rule of Stein (1945).

    N = max(first, ceil(t^2 s^2 / h^2)), with s^2 and its degrees of freedom from the pilot alone (moderated where a
    prior is given; fit it on the same first rounds of all cells) and h = log(1 + ci_pct / 100). Two first processes
    without a prior ask for hundreds, since t is 12.7: take three, or a prior. Raises ValueError for a pilot that has
    no variance between processes (one process and no prior), and as `process_interval` does.
    """
    check_level(level)
    _check_width(ci_pct)
    medians = log_medians(log_processes(pilot))
    if not has_spread(medians, prior):
        raise ValueError("the first stage needs two processes, or a prior")
    variance, dof = process_variance(medians, prior)
    needed = t_quantile(0.5 + level / 2, dof) ** 2 * variance / math.log1p(ci_pct / 100) ** 2
    target = max(len(medians), math.ceil(needed * (1 - 1e-12)))
    return ProcessPlan(len(medians), target, max(len(medians), min(target, most)), ci_pct)


def stein_interval(
    processes: Processes, first: int, ci_pct: float, level: float = 0.95, prior: Prior | None = None
) -> TwoStageInterval:
    """Return the step time over all `processes` with Stein's interval: mean of all, variance of the `first` ones.

    The mean of N processes is independent of the first stage's variance, and N depends on nothing but that variance,
    so the interval is exactly Student's, also where N was cut by a budget. Raises ValueError as `processes_for`
    does, and for fewer processes than `first`.
    """
    logs = log_processes(processes)
    if not 1 <= first <= len(logs):
        raise ValueError(f"{len(logs)} processes, and {first} of them the first stage")
    plan = processes_for(processes[:first], ci_pct, level, len(logs), prior)
    medians = log_medians(logs)
    variance, dof = process_variance(medians[:first], prior)
    estimate = student(float(medians.mean()), variance / len(medians), dof, level, prior)
    return TwoStageInterval(estimate, ci_pct, estimate.half_width_pct, plan.target, len(medians))


def _check_width(ci_pct: float) -> None:
    if not ci_pct > 0:
        raise ValueError(f"ci_pct must be positive, not {ci_pct}")
