"""How a cost grows: t(x) = a + b x + c x^2 with no negative part, and the exponents of measured costs.

A pure power law fits no step: some of it is constant, some linear (tokens), some quadratic (attention, width). Where
the work behind a cost is known, its law is a sum of that work's growths, each at a rate of its own.
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


ONE = Growth((1.0, 0.0, 0.0))
LINEAR = Growth((0.0, 1.0, 0.0))
SQUARE = Growth((0.0, 0.0, 1.0))


def total(growths: Sequence[Growth]) -> Growth:
    """Return the sum of growths."""
    a, b, c = (float(sum(one.coefficients[p] for one in growths)) for p in POWERS)
    return Growth((a, b, c))


def fit(xs: Sequence[float], ts: Sequence[float], work: Sequence[Growth] = (ONE, LINEAR, SQUARE)) -> Growth:
    """Return the sum of `work`, each times a rate of at least 0, with the least squared error of t(x) / t.

    Raises ValueError for fewer than two points, no work, or values that are not positive.
    """
    x, t = np.asarray(xs, dtype=float), np.asarray(ts, dtype=float)
    if len(x) < 2 or len(x) != len(t) or not (x > 0).all() or not (t > 0).all():
        raise ValueError("a growth needs at least two points, all positive")
    rows = np.array([[growth.at(value) for growth in work] for value in x])
    scale = rows.max(axis=0, initial=0.0)  # keeps the terms alike in size
    if not len(work) or not (scale > 0).all():
        raise ValueError("a growth needs work that is not zero")
    rates = nonnegative(rows / scale / t[:, None], np.ones(len(t))) / scale
    a, b, c = (float(sum(r * g.coefficients[p] for r, g in zip(rates, work, strict=True))) for p in POWERS)
    return Growth((a, b, c))


def nonnegative(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the coefficients of at least 0 with the least squares of `columns @ coefficients - target`.

    Exactly: of all subsets of the columns (there are few), the best whose coefficients are not negative.
    """
    best, least = np.zeros(columns.shape[1]), np.inf
    for size in range(1, 1 + min(columns.shape)):
        for subset in itertools.combinations(range(columns.shape[1]), size):
            part = columns[:, subset]
            coefficients = np.linalg.lstsq(part, target, rcond=None)[0]
            error = float(((part @ coefficients - target) ** 2).sum())
            if (coefficients >= 0).all() and error < least:
                least, best = error, np.zeros(columns.shape[1])
                best[list(subset)] = coefficients
    return best


def slope(xs: Sequence[float], ts: Sequence[float]) -> float:
    """Return the exponent of the power law through these points: the slope of log t over log x, by least squares."""
    return float(np.polyfit(np.log(xs), np.log(ts), 1)[0])


def power(xs: Sequence[float], ts: Sequence[float]) -> float:
    """Return the exponent that the slope of log t over log x tends to for large x.

    A cost that has lower powers as well as its highest has log t = a + p log x + b / x + terms in 1 / x^2: p of that,
    by least squares. A slope alone stays below p while the lower powers count. Raises ValueError for fewer than three
    points.
    """
    return float((_limit_solver(xs) @ np.log(np.asarray(ts, dtype=float)))[1])


def power_misfit(xs: Sequence[float], ts: Sequence[float]) -> tuple[float, int] | None:
    """Return the variance of `power` from the deviations of the points from its law, and its degrees of freedom.

    No kernel follows a law to the last percent: another block size at another length, a cache that is outgrown. These
    deviations are the same in every repeat, so repeats do not show them; they are taken for independent from point to
    point, and estimated from the residuals (n points, n - 3 degrees of freedom). None for three points: they have none.
    """
    solver, y = _limit_solver(xs), np.log(np.asarray(ts, dtype=float))
    free = len(y) - 3
    if free < 1:
        return None
    left = y - _limit_terms(xs) @ (solver @ y)
    return float(left @ left) / free * float(solver[1] @ solver[1]), free


def _limit_terms(xs: Sequence[float]) -> np.ndarray:
    x = np.asarray(xs, dtype=float)
    return np.stack([np.ones(len(x)), np.log(x), x.max() / x], axis=1)


def _limit_solver(xs: Sequence[float]) -> np.ndarray:
    if len(xs) < 3:
        raise ValueError("an exponent in the limit needs at least three points")
    return np.linalg.pinv(_limit_terms(xs))
