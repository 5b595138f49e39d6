"""The interval of a mean over two crossed samples: runs (seeds) and the examples that each of them is scored on.

Shapes: `S` runs, `N` examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmbench.stats.intervals import Estimate, satterthwaite
from llmbench.stats.student_t import t_quantile


@dataclass(frozen=True)
class TwoWayMean:
    """A mean over runs and over examples, which holds for other runs and other examples."""

    value: float
    variance: float | None  # squared standard error of the mean; None where there is but one run
    dof: float | None  # of `variance`

    def bounds(self, tail: float) -> tuple[float, float] | None:
        """Return the ends of Student's interval that leaves `tail` (one-sided) outside at each end."""
        if self.variance is None or self.dof is None:
            return None
        half = t_quantile(1 - tail, self.dof) * math.sqrt(self.variance)
        return self.value - half, self.value + half

    def interval(self, tail: float) -> Estimate:
        """Return the mean with the interval of `bounds`."""
        low, high = self.bounds(tail) or (None, None)
        return Estimate(self.value, low, high, "none" if low is None else "processes")

    def plus(self, variance: float, dof: float) -> TwoWayMean:
        """Return the same mean with another, independent error, whose variance is known with `dof` degrees of freedom.

        Where there is but one run, that is all there is.
        """
        if self.variance is None or self.dof is None:
            return TwoWayMean(self.value, variance, dof)
        parts = [self.variance, variance]
        return TwoWayMean(self.value, sum(parts), satterthwaite(parts, [self.dof, dof]))


def two_way_mean(scores: Sequence[Sequence[float]] | np.ndarray) -> TwoWayMean:
    """Return the mean of `scores` (S, N), with an error that holds for other runs and for other examples.

    With both effects random the mean has the variance a / S + b / N + c / (S N) (a of runs, b of examples, c of what is
    left). That of the S means over examples estimates a + c / N, that of the N means over runs b + c / S; each over its
    number, they add up to the truth plus c / (S N): a little wide and never narrow (as the pigeonhole bootstrap of Owen
    2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2)). Degrees of freedom are Satterthwaite's. With
    one example (N = 1: only totals are known) only runs vary. Raises ValueError without scores.
    """
    values = np.asarray(scores, dtype=float)
    if values.ndim != 2 or not values.size:
        raise ValueError("scores need at least one run and one example each")
    runs, examples = values.shape
    mean = float(values.mean())
    if runs < 2:
        return TwoWayMean(mean, None, None)
    variances = [float(values.mean(axis=1).var(ddof=1)) / runs]
    dofs = [runs - 1.0]
    if examples > 1:
        variances.append(float(values.mean(axis=0).var(ddof=1)) / examples)
        dofs.append(examples - 1.0)
    return TwoWayMean(mean, sum(variances), satterthwaite(variances, dofs))
