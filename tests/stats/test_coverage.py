"""The intervals hold the truth as often as they say. `benchmarks/coverage.py` has the simulation and prints it all."""

from __future__ import annotations

import functools
import importlib.util
import math

import numpy as np
import pytest
from support.paths import ROOT

from llmbench import stats
from llmbench.stats import intervals

_SPEC = importlib.util.spec_from_file_location("coverage_bench", ROOT / "benchmarks" / "coverage.py")
bench = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(bench)

FEW, MANY = 400, 2000
#: What a correct 95 % interval misses by in one of 1,000 tests of FEW runs.
SLACK = 3.3 * math.sqrt(0.05 * 0.95 / FEW)
METHODS = {"student": bench.student, "moderated": bench.moderated, "stein": bench.stein}


@functools.cache
def medians(kind, runs):
    return bench.medians(kind, runs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind, count", [("log-normal", 2), ("bimodal", 3), ("ar(0.5)", 5)])
def test_coverage(method, kind, count):
    held, _ = METHODS[method](medians(kind, FEW), count)
    assert abs(held - 0.95) <= SLACK


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", bench.KINDS)
def test_coverage_of_2000_runs(method, kind, count):
    held, _ = METHODS[method](medians(kind, MANY), count)
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize("cells", ["alike", "rounds"])
def test_coverage_with_a_prior(cells):
    """Also where all cells of a round share half of the variance, and one accident is seen in all of them."""
    held, width = bench.moderated(medians("log-normal", FEW), 3, cells)
    assert abs(held - 0.95) <= SLACK
    assert width < 0.8 * bench.student(medians("log-normal", FEW), 3)[1]


def test_a_normal_quantile_would_be_seen(monkeypatch):
    monkeypatch.setattr(intervals, "t_quantile", lambda probability, dof: 1.96)
    assert bench.student(medians("log-normal", FEW), 3)[0] < 0.95 - SLACK


def test_counting_shared_rounds_as_cells_would_be_seen(monkeypatch):
    def careless(found):
        return np.zeros(max(map(len, found)))

    monkeypatch.setattr(intervals, "_round_effects", careless)
    assert bench.moderated(medians("log-normal", FEW), 2, "rounds", 0.9)[0] < 0.95 - SLACK


def test_stopping_on_the_interval_would_be_seen():
    """What Stein's rule is for: going on until Student's interval is narrow enough stops on lucky spreads."""
    held = 0
    for run in bench.BETWEEN_SD * np.random.default_rng(4).standard_normal((FEW, 30)):
        tried = (stats.process_interval(bench.one_step(run[:count])) for count in range(2, 31))
        held += bench.holds(next(e for i, e in enumerate(tried, 2) if i == 30 or narrow(e)))
    assert held / FEW < 0.95 - SLACK


def narrow(estimate):
    return estimate.half_width_pct is not None and estimate.half_width_pct <= 2.5


def test_only_the_medians_of_processes_count():
    """What lets the simulation keep one number per process."""
    times = np.exp(bench.steps("ar(0.3)", np.random.default_rng(5), (3, 201)))
    short = bench.one_step(np.median(np.log(times), axis=1))
    assert stats.process_interval(times.tolist()).low == pytest.approx(stats.process_interval(short).low)


@pytest.mark.parametrize("kind", ["log-normal", "ar(0.5)"])
def test_coverage_within_one_process(kind):
    """The bootstrap's label says that it covers the process only; blocks of n^(1/3) would do worse, so 4 points."""
    times = np.exp(bench.steps(kind, np.random.default_rng(6), (FEW, 200)))
    held = sum(bench.holds(stats.process_interval([run])) for run in times) / FEW
    assert 0.95 - 0.04 - SLACK <= held <= 0.95 + SLACK


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("prior", [False, True])
def test_coverage_of_ratios(count, prior):
    """Welch's interval is known to be wide where both sides have two processes: the upper limit is 1."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(FEW):
        logs = rng.standard_normal((12, 2 * count)) * np.array([0.03] * count + [0.06] * count)
        sides = [[bench.one_step(cell[:count]) for cell in logs], [bench.one_step(cell[count:]) for cell in logs]]
        found = stats.fit_prior([*sides[0], *sides[1]]) if prior else None
        held += bench.holds(stats.ratio_interval(sides[0][0], sides[1][0], prior=found))
    assert held / FEW >= 0.95 - SLACK
    assert held / FEW <= (1.0 if count == 2 and not prior else 0.95 + SLACK)


def test_coverage_of_paired_ratios_in_spite_of_drift():
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(FEW):
        drift = np.cumsum(rng.normal(0, 0.05, (3, 20)), axis=1)
        own = rng.normal(0, 0.01, (3, 1))
        a, b = (np.exp(drift + sign * own / 2 + rng.normal(0, 0.02, (3, 20))) for sign in (1, -1))
        held += bench.holds(stats.ratio_interval(a.tolist(), b.tolist(), paired=True))
    assert abs(held / FEW - 0.95) <= SLACK


def test_simultaneous_bounds_are_wrong_together_in_one_of_twenty():
    rng = np.random.default_rng(9)
    wrong = called = 0
    for _ in range(FEW):
        pairs = [tuple(bench.one_step(rng.normal(0, 0.05, 4)) for _ in "ab") for _ in range(5)]
        found = stats.simultaneous(pairs)
        wrong += any(bound.low > 1 for bound in found)
        called += any(bound.exceeds for bound in found)
    assert wrong / FEW <= 0.05 + SLACK and called / FEW <= 0.05 + SLACK
    assert wrong > 0


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_equal_runs_are_told_apart_in_one_of_twenty(shared):
    """12 cells of their own spread, 3 rounds a side, half of the variance shared by the cells of a round."""
    rng = np.random.default_rng(10)
    apart = sum(stats.runs_differ(*two_runs(rng, shared)).p <= 0.05 for _ in range(FEW))
    assert 0 < apart / FEW <= 0.05 + SLACK


@pytest.mark.parametrize("shift", [0.2 * np.ones(12), np.where(np.arange(12) < 4, 0.2, 0.0)], ids=["all", "some"])
def test_runs_that_differ_are_told_apart(shift):
    rng = np.random.default_rng(11)
    assert sum(stats.runs_differ(*two_runs(rng, 0.0, shift)).p <= 0.05 for _ in range(40)) >= 20


def two_runs(rng, shared, shift=0.0):
    sds = np.exp(rng.uniform(math.log(0.02), math.log(0.1), 12))[:, None]
    noise = math.sqrt(1 - shared) * rng.standard_normal((12, 6)) + math.sqrt(shared) * rng.standard_normal(6)
    logs = sds * noise
    logs[:, 3:] += np.reshape(shift, (-1, 1))
    return [bench.one_step(cell[:3]) for cell in logs], [bench.one_step(cell[3:]) for cell in logs]
