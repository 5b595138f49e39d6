"""How a cost grows: t(x) = a + b x + c x^2 with no negative part, and local exponents d log t / d log x.

A pure power law fits no step: some of it is constant, some linear (tokens), some quadratic (attention, width).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POWERS = (0, 1, 2)


@dataclass(frozen=True)
class Growth:
    """The coefficients of 1, x and x^2, none of them negative."""

    coefficients: tuple[float, float, float]

    def at(self, x: float) -> float:
        """Return t(x)."""
        return sum(c * x**p for c, p in zip(self.coefficients, POWERS, strict=True))

    def exponent(self, x: float) -> float:
        """Return d log t / d log x at `x`: how much of t grows with each power, times that power."""
        return sum(p * c * x**p for c, p in zip(self.coefficients, POWERS, strict=True)) / self.at(x)


def fit(xs: Sequence[float], ts: Sequence[float]) -> Growth:
    """Return the growth with the least squared relative error, (t(x) / t - 1)^2 summed over the points.

    Non-negative least squares, exactly: of all subsets of the three powers, the best whose coefficients are positive.
    Raises ValueError for fewer than two points, or values that are not positive.
    """
    x, t = np.asarray(xs, dtype=float), np.asarray(ts, dtype=float)
    if len(x) < 2 or len(x) != len(t) or not (x > 0).all() or not (t > 0).all():
        raise ValueError("a growth needs at least two points, all positive")
    scale = x.max()  # keeps the powers alike in size
    columns = np.stack([(x / scale) ** p / t for p in POWERS], axis=1)
    best, least = (float(t.mean()), 0.0, 0.0), np.inf
    for size in range(1, 1 + min(len(POWERS), len(x))):
        for subset in itertools.combinations(range(len(POWERS)), size):
            part = columns[:, subset]
            found = np.linalg.lstsq(part, np.ones(len(t)), rcond=None)[0]
            error = float(((part @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < least:
                least = error
                whole = dict(zip(subset, found / scale ** np.array(subset), strict=True))
                best = tuple(float(whole.get(p, 0.0)) for p in POWERS)  # type: ignore[assignment]
    return Growth(best)


def slope(xs: Sequence[float], ts: Sequence[float]) -> float:
    """Return the exponent of the power law through these points: the slope of log t over log x, by least squares."""
    return float(np.polyfit(np.log(xs), np.log(ts), 1)[0])
