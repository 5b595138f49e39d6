"""The statistics: exact where a formula is known, and with the coverage they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.stats import pooled_interval, ratio_interval, samples_for, steady_from, t_quantile

times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=20)
processes = st.lists(times, min_size=1, max_size=4)


@pytest.mark.parametrize(
    "probability, dof, expected",  # from the tables of Abramowitz & Stegun, 26.10
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 3, 3.18245), (0.995, 5, 4.03214), (0.95, 30, 1.69726)],
)
def test_t_quantile_is_the_tables(probability, dof, expected):
    assert t_quantile(probability, dof) == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(processes)
def test_the_interval_holds_its_location(runs):
    found = pooled_interval(runs)
    expected = math.exp(np.mean([np.median(np.log(run)) for run in runs]))
    assert found.value == pytest.approx(expected)
    if found.low is not None and found.high is not None:
        assert found.low <= found.value * (1 + 1e-9) and found.value <= found.high * (1 + 1e-9)


@settings(deadline=None, max_examples=25)
@given(processes, st.floats(0.01, 100))
def test_the_interval_scales_with_the_unit(runs, unit):
    one, other = pooled_interval(runs), pooled_interval([[x * unit for x in run] for run in runs])
    for name in ("value", "low", "high"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None) or math.isinf(a or b)
        if a is not None and b is not None:
            assert b == pytest.approx(a * unit, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(processes, processes)
def test_ratio_of_exchanged_sides_is_inverse(a, b):
    assert ratio_interval(a, b).value == pytest.approx(1 / ratio_interval(b, a).value)


def test_processes_are_what_is_replicated():
    """Two processes that disagree make a wide interval, however many equal steps each of them has."""
    wide = pooled_interval([[1.0] * 500, [1.1] * 500])
    assert wide.method == "processes" and wide.half_width_pct > 40
    rng = np.random.default_rng(0)
    narrow = pooled_interval([list(np.exp(rng.normal(0, 0.05, 500)))])
    assert narrow.method == "within" and narrow.half_width_pct < 2


def test_the_interval_covers_what_it_says():
    """95 % of intervals over 4 processes hold the truth (binomial bounds of 400 draws: 0.92 to 0.98)."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        runs = [list(np.exp(rng.normal(rng.normal(0, 0.05), 0.03, 15))) for _ in range(4)]
        found = pooled_interval(runs)
        held += found.low <= 1.0 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_ratio_interval_holds_a_known_ratio():
    rng = np.random.default_rng(2)
    slow = [list(2.0 * np.exp(rng.normal(0, 0.01, 50))) for _ in range(3)]
    fast = [list(np.exp(rng.normal(0, 0.01, 50))) for _ in range(3)]
    found = ratio_interval(slow, fast)
    assert found.method == "processes" and found.low < 2.0 < found.high and found.high / found.low < 1.1
    assert ratio_interval(slow[:1], fast[:1]).method == "within"


def test_one_sample_has_no_interval():
    found = pooled_interval([[0.5]])
    assert (found.value, found.low, found.high, found.half_width_pct) == (0.5, None, None, None)


@pytest.mark.parametrize("runs", [[], [[]], [[0.0]], [[float("nan")]], [[-1.0, 1.0]]])
def test_what_is_no_time_is_refused(runs):
    with pytest.raises(ValueError):
        pooled_interval(runs)


def test_warm_up_ends_where_the_level_changes():
    rng = np.random.default_rng(3)
    steady = list(np.exp(rng.normal(0, 0.02, 40)))
    assert steady_from([5.0, 3.0, 2.0, 1.5, *steady]) == 4
    assert steady_from(steady) <= 2
    assert steady_from([0.5, 0.5, *steady]) == 2


def test_one_slow_step_is_not_warm_up():
    assert steady_from([1.0] * 10 + [9.0] + [1.0] * 20) == 0


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1e3), max_size=40))
def test_warm_up_is_at_most_half(samples):
    assert 0 <= steady_from(samples) <= len(samples) // 2


def test_samples_for_reach_the_width():
    rng = np.random.default_rng(4)
    pilot = list(np.exp(rng.normal(0, 0.1, 2000)))
    count = samples_for(pilot, 2.0)
    medians = [np.median(np.exp(rng.normal(0, 0.1, count))) for _ in range(400)]
    assert 1.96 * np.std(medians) == pytest.approx(0.02, rel=0.2)
    assert samples_for([1.0, 1.0, 1.0], 2.0) == 2
