"""Estimating a ceiling from short timed samples. Nothing here knows torch, and the clock is an argument.

A stall (another process, a page fault, a paused virtual machine) only ever makes a sample slower, so a ceiling is read
from the fast end: the 95th percentile of the rates of many short samples. Samples are about a millisecond long, so that
quiet moments exist even on a busy machine, and are taken in rounds over all quantities, so that a stall of seconds
spoils a round and not a quantity. STREAM reports the fastest run for the same reason.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, cast

if TYPE_CHECKING:
    from llmbench.contract.record import CeilingEstimate

#: Which sample speaks for a ceiling: nearly the fastest, so that one odd sample does not decide.
QUANTILE = 0.95
CONFIDENCE = 0.95
#: A sweep has saturated when the next `PATIENCE` scales gain no more than this share.
GAIN = 0.02
PATIENCE = 2
ROUNDS = 6
#: Work per scale of a sweep over cubes grows by at most this factor.
GROWTH = 8.0
MAX_CALLS = 1 << 16
#: Samples of a candidate in a sweep.
LOOK_SAMPLES = 24
ESTIMATOR = (
    "value: 95th percentile of the sample rates (5th of times) of the best candidate; low (high of times): its 95 % "
    "order-statistic bound; high (low of times): the fastest sample of all candidates"
)

TimeCalls = Callable[[int], float]  # do it that many times, return the seconds it took
Clock = Callable[[], float]


class Way(TypedDict, total=False):
    """How a candidate is run."""

    shape: list[int]  # of a matmul: m, n, k
    threads: int
    independent: bool  # each thread works on arrays of its own


@dataclass(frozen=True)
class Candidate:
    """One way to reach a ceiling: `time_s(calls)` runs it, each call does `work` (FLOP, bytes), `facts` describe it."""

    facts: Way
    work: float
    time_s: TimeCalls

    def meter(self, sample_s: float) -> Meter:
        """Return a meter of it, whose samples take about `sample_s`."""
        return Meter(self, sample_s)


class Metered(Protocol):
    """A candidate of any kind: alone, or a team of threads."""

    @property
    def facts(self) -> Way:
        """Return the way it is run."""

    def meter(self, sample_s: float) -> Sampler:
        """Return a meter of it, whose samples take about `sample_s`."""


class Sampler(Protocol):
    """A meter of a candidate of any kind. All samples so far are in `rates`."""

    rates: list[float]

    def burst(self, for_s: float, clock: Clock, least: int = 2) -> list[float]:
        """Take samples for `for_s`, at least `least`, and return their rates."""


@dataclass(frozen=True)
class Sweep:
    """The result of a sweep over scales."""

    fastest: tuple[Candidate, ...]  # best first
    ending: str  # why it ended: `saturated`, `budget` or `largest`


def estimate(samples: Sequence[float], *, of_times: bool = False, **facts: Any) -> CeilingEstimate:
    """Return the estimate from positive samples, with `facts`; see `ESTIMATOR`.

    `low` and `high` are None where one sample is all there is. Raises ValueError without samples, and for one that is
    not finite and positive: a ceiling is never zero and never infinite.
    """
    if not samples:
        raise ValueError("no samples")
    if not all(math.isfinite(s) and s > 0 for s in samples):
        raise ValueError("samples must be finite and positive")
    ordered = sorted((1 / s for s in samples) if of_times else samples)
    value, median = _quantile(ordered, QUANTILE), _quantile(ordered, 0.5)
    low: float | None = min(value, ordered[lower_rank(len(ordered)) - 1])
    high: float | None = ordered[-1]
    if len(ordered) == 1:
        low = high = None
    if of_times:
        value, median = 1 / value, 1 / median
        low, high = (None if high is None else 1 / high), (None if low is None else 1 / low)
    numbers = {"value": value, "low": low, "high": high, "median": median, "samples": len(ordered)}
    return cast("CeilingEstimate", numbers | facts)


def best_estimate(candidates: Sequence[Metered], rates: Sequence[Sequence[float]], **facts: Any) -> CeilingEstimate:
    """Return the estimate of the candidate that is fastest; its `high` is the fastest sample of all of them."""
    estimates = [estimate(r, **c.facts, **facts) for c, r in zip(candidates, rates, strict=True)]
    best = max(estimates, key=lambda e: e["value"])
    if best["high"] is not None:
        best["high"] = max(max(r) for r in rates)
    return best


def lower_rank(n: int) -> int:
    """Return the rank (from 1) of the sample that is a lower confidence bound of the 95th percentile of n samples.

    The largest l with P(fewer than l of n samples lie below the percentile) <= 2.5 %: the distribution-free interval
    of a quantile (Conover, Practical Nonparametric Statistics, section 3.2). At least 1, which is the smallest sample.
    """
    below, rank = 0.0, 1
    for k in range(n + 1):
        log_p = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        below += math.exp(log_p + k * math.log(QUANTILE) + (n - k) * math.log1p(-QUANTILE))
        if below > (1 - CONFIDENCE) / 2:
            break
        rank = k + 1
    return min(rank, n)


class Meter:
    """Takes samples of a candidate, and learns how many calls one needs: `rates` holds work per second, oldest first.

    A call that was stalled looks long, and one call then makes a sample; the next quiet one is shorter than half of
    `sample_s`, is left out, and raises the number of calls.
    """

    def __init__(self, candidate: Candidate, sample_s: float) -> None:
        self.candidate = candidate
        self.sample_s = sample_s
        self.calls = 1
        self.rates: list[float] = []

    def burst(self, for_s: float, clock: Clock, least: int = 2) -> list[float]:
        """Take samples for `for_s`, at least `least`, and return their rates.

        One sample before them, which finds the caches as others left them, is dropped.
        """
        end_s = clock() + for_s
        rates: list[float] = []
        self.candidate.time_s(self.calls)
        while len(rates) < least or clock() < end_s:
            took_s = self.candidate.time_s(self.calls)
            if took_s < self.sample_s / 2 and self.calls < MAX_CALLS:
                self.calls = more_calls(self.calls, took_s, self.sample_s)
            elif took_s > 0:
                rates.append(self.calls * self.candidate.work / took_s)
            else:
                raise ValueError("the clock does not move")
        self.rates += rates
        return rates


def more_calls(calls: int, took_s: float, sample_s: float) -> int:
    """Return the number of calls to try next, where `calls` took too short: two to eight times as many."""
    more = math.ceil(calls * sample_s / took_s) if took_s > 0 else MAX_CALLS
    return min(MAX_CALLS, 8 * calls, max(2 * calls, more))


def sweep(scales: Iterable[Sequence[Candidate]], budget_s: float, clock: Clock, sample_s: float) -> Sweep:
    """Try growing scales until the rate saturates, the budget is spent or the scales end.

    It has saturated after `PATIENCE` scales in a row that gain no more than 2 % over the best before. A scale whose
    calls would not fit what is left of the budget is not started; the first scale always is.
    """
    end_s = clock() + budget_s
    tried: list[tuple[float, Candidate]] = []
    best, without_gain, call_s = 0.0, 0, 0.0
    for candidates in scales:
        if tried and clock() + 3 * GROWTH * call_s * len(candidates) > end_s:
            return _end_sweep(tried, "budget")
        rates = [max(Meter(c, sample_s).burst(LOOK_SAMPLES * sample_s, clock)) for c in candidates]
        tried = _fastest([*tried, *zip(rates, candidates, strict=True)])
        call_s = min(c.work / r for r, c in zip(rates, candidates, strict=True))
        without_gain = without_gain + 1 if max(rates) <= best * (1 + GAIN) else 0
        best = max(best, *rates)
        if without_gain >= PATIENCE:
            return _end_sweep(tried, "saturated")
    return _end_sweep(tried, "largest")


def rounds(
    quantities: Mapping[str, Sequence[Metered]], budget_s: float, clock: Clock, sample_s: float, count: int = ROUNDS
) -> dict[str, list[list[float]]]:
    """Return the rates of each candidate of each quantity, taken in `count` rounds over all of them.

    Every candidate gets at least one round, whatever the budget.
    """
    meters = {name: [c.meter(sample_s) for c in candidates] for name, candidates in quantities.items()}
    slots = [meter for of_one in meters.values() for meter in of_one]
    end_s, left = clock() + budget_s, count * len(slots)
    for turn, meter in itertools.product(range(count), slots):
        remaining_s = end_s - clock()
        if turn and remaining_s <= 0:
            break
        meter.burst(max(0.0, remaining_s / left), clock)
        left -= 1
    return {name: [meter.rates for meter in of_one] for name, of_one in meters.items()}


def _fastest(tried: list[tuple[float, Candidate]], keep: int = 2) -> list[tuple[float, Candidate]]:
    return sorted(tried, key=lambda pair: -pair[0])[:keep]


def _end_sweep(tried: list[tuple[float, Candidate]], stopped: str) -> Sweep:
    return Sweep(tuple(candidate for _, candidate in tried), stopped)


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    # the form that stays within [ordered[low], ordered[high]] whatever the rounding
    return min(ordered[high], ordered[low] + (place - low) * (ordered[high] - ordered[low]))
