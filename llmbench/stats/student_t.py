"""Student's t for real-valued degrees of freedom, without scipy: a machine that only measures need not have it."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

MANY = 1e5  # degrees of freedom: above, the first term of the expansion around the normal is exact to 1e-8
CLOSE = 2.0  # degrees of freedom from which on an expansion around the normal is a good place to start from
TERMS = 24  # coefficients of the polynomial that takes the place of solving: as good to 1e-10
LEAST_TAIL = 1e-6  # of the tails for which that holds
_TINY = 1e-300  # in place of zero, where it would be divided by
_LOW = 1 / MANY


@functools.lru_cache(maxsize=8192)
def t_quantile(probability: float, dof: float) -> float:
    """Return the quantile of Student's t for `probability` in [0.5, 1) and any `dof` > 0.

    Newton's method inside a bracket on the two-sided distribution function, which is an incomplete beta function
    (Abramowitz & Stegun 26.7.1; for very many degrees of freedom 26.7.5). Between 2 and 1e5 degrees of freedom, a
    Chebyshev polynomial in 1 / dof through points that are solved so, once per probability: every cell of a run has
    degrees of freedom of its own. Relative error below 1e-9.

    Raises ValueError outside those ranges, and where the quantile is too large for a float.
    """
    if not 0.5 <= probability < 1.0 or not dof > 0:
        raise ValueError("probability must be in [0.5, 1) and dof positive")
    if probability == 0.5:
        return 0.0
    z = NormalDist().inv_cdf(probability)
    if dof > MANY:
        return z + z * (z * z + 1) / (4 * dof) if math.isfinite(dof) else z
    return _quantile(2.0 * (1.0 - probability), z, dof)


@functools.lru_cache(maxsize=4096)
def _quantile(tail: float, z: float, dof: float) -> float:
    """Return t with P(|T| > t) = tail; `z` is the normal's quantile. Cells of a run ask for the same few again."""
    if dof >= CLOSE:
        if tail < LEAST_TAIL:
            return _solve(tail, dof, 0.0, math.inf, _near(z, dof))
        return _clenshaw(_polynomial(tail, z), _LOW, 1 / CLOSE, 1 / dof)
    low, high = 0.0, z
    while t_tail(high, dof) > tail:
        low, high = high, high * 4
        if high > 1e150:
            raise ValueError("probability is too close to 1")
    return _solve(tail, dof, low, high, high)


@functools.lru_cache(maxsize=64)
def _polynomial(tail: float, z: float) -> tuple[float, ...]:
    """Return the Chebyshev coefficients of the quantile as a function of 1 / dof in [1 / MANY, 1 / CLOSE]."""
    angles = [math.pi * (k + 0.5) / TERMS for k in range(TERMS)]
    middle, half = (1 / CLOSE + _LOW) / 2, (1 / CLOSE - _LOW) / 2
    dofs = [1 / (middle + half * math.cos(angle)) for angle in angles]
    values = [_solve(tail, dof, 0.0, math.inf, _near(z, dof)) for dof in dofs]
    sums = [math.fsum(v * math.cos(j * a) for v, a in zip(values, angles, strict=True)) for j in range(TERMS)]
    return (sums[0] / TERMS, *(2 * total / TERMS for total in sums[1:]))


def _clenshaw(coefficients: tuple[float, ...], low: float, high: float, x: float) -> float:
    """Return the value at `x` of a Chebyshev series on [low, high] (Clenshaw 1955)."""
    y = (2 * x - low - high) / (high - low)
    last = before = 0.0
    for coefficient in coefficients[:0:-1]:
        last, before = 2 * y * last - before + coefficient, last
    return y * last - before + coefficients[0]


def _near(z: float, dof: float) -> float:
    """Return an approximate quantile from the normal's, `z`: the expansion in 1 / dof (Abramowitz & Stegun 26.7.5)."""
    a = z * z
    terms = (
        (a + 1) / 4,
        ((5 * a + 16) * a + 3) / 96,
        (((3 * a + 19) * a + 17) * a - 15) / 384,
        ((((79 * a + 776) * a + 1482) * a - 1920) * a - 945) / 92160,
    )
    return z * (1 + sum(term / dof ** (k + 1) for k, term in enumerate(terms)))


def _solve(tail: float, dof: float, low: float, high: float, t: float) -> float:
    """Return t in [low, high] with P(|T| > t) = tail. The tail falls like a power: Newton on its logarithms."""
    log_scale = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(dof * math.pi)
    for _ in range(200):
        beyond = t_tail(t, dof)
        low, high = (t, high) if beyond > tail else (low, t)
        density = 2 * math.exp(log_scale - (dof + 1) / 2 * math.log1p(t * t / dof))
        slope = t * density / max(beyond, _TINY)
        ahead = t * math.exp((math.log(max(beyond, _TINY)) - math.log(tail)) / slope) if slope > 1e-12 else math.inf
        if not low < ahead < high:
            ahead = (low + high) / 2 if math.isfinite(high) else 2 * t
        if abs(ahead - t) <= 1e-12 * t:
            return ahead
        t = ahead
    return t


def t_tail(t: float, dof: float) -> float:
    """Return P(|T| > t) of Student's t, for t >= 0."""
    if t == 0:
        return 1.0
    x = dof / (dof + t * t)
    return beta_cdf(x, 1.0 - x if x < 0.5 else t * t / (dof + t * t), dof / 2, 0.5)


def beta_cdf(x: float, rest: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22).

    `rest` is 1 - x, given separately since it is lost to rounding where x is close to 1.
    """
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest))
    if x <= (a + 1) / (a + b + 2):
        return front * _beta_fraction(x, a, b) / a
    return 1.0 - front * _beta_fraction(rest, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Return the continued fraction by the modified Lentz method (Thompson & Barnett 1986)."""
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            value *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
