"""The statistics: exact where a formula is known, and with the coverage they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.stats import (
    Paired,
    Prior,
    autocorrelation,
    block_ratios,
    changepoints,
    describe,
    describe_all,
    effective_samples,
    fit_prior,
    is_steady,
    outliers,
    permutation_p,
    process_interval,
    processes_for,
    ratio_interval,
    reliability,
    runs_differ,
    samples_for,
    simultaneous,
    steady_from,
    stein_interval,
    t_quantile,
    without_share,
)
from llmbench.stats.student_t import beta_cdf, t_tail

times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=20)
processes = st.lists(times, min_size=1, max_size=4)


@pytest.mark.parametrize(
    "probability, dof, expected",  # from the tables of Abramowitz & Stegun, 26.10
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 3, 3.18245), (0.995, 5, 4.03214), (0.95, 30, 1.69726)],
)
def test_t_quantile_is_the_tables(probability, dof, expected):
    assert t_quantile(probability, dof) == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=200)
@given(st.floats(0.5001, 0.9999), st.floats(0.3, 3e5))
def test_t_quantile_is_scipys(probability, dof):
    scipy_stats = pytest.importorskip("scipy.stats")
    assert t_quantile(probability, dof) == pytest.approx(float(scipy_stats.t.ppf(probability, dof)), rel=1e-7)


@given(st.floats(0, 1), st.floats(0.05, 500), st.floats(0.05, 500))
def test_beta_is_scipys(x, a, b):
    special = pytest.importorskip("scipy.special")
    assert beta_cdf(x, 1 - x, a, b) == pytest.approx(float(special.betainc(a, b, x)), rel=1e-8, abs=1e-12)


@given(st.floats(0.51, 0.999), st.floats(0.5, 1e4))
def test_the_quantile_is_the_inverse_of_the_tail(probability, dof):
    assert t_tail(t_quantile(probability, dof), dof) == pytest.approx(2 * (1 - probability), rel=1e-9)


@pytest.mark.parametrize("probability, dof", [(0.4, 3), (1.0, 3), (0.9, 0), (0.9, -1), (0.9, float("nan"))])
def test_what_has_no_quantile_is_refused(probability, dof):
    with pytest.raises(ValueError):
        t_quantile(probability, dof)


@settings(deadline=None, max_examples=40)
@given(processes)
def test_the_interval_holds_its_location(runs):
    found = process_interval(runs)
    expected = math.exp(np.mean([np.median(np.log(run)) for run in runs]))
    assert found.value == pytest.approx(expected)
    if found.low is not None and found.high is not None:
        assert found.low <= found.value * (1 + 1e-9) and found.value <= found.high * (1 + 1e-9)


@settings(deadline=None, max_examples=25)
@given(processes, st.floats(0.01, 100))
def test_the_interval_scales_with_the_unit(runs, unit):
    one, other = process_interval(runs), process_interval([[x * unit for x in run] for run in runs])
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
    wide = process_interval([[1.0] * 500, [1.1] * 500])
    assert wide.method == "processes" and wide.half_width_pct > 40
    rng = np.random.default_rng(0)
    narrow = process_interval([list(np.exp(rng.normal(0, 0.05, 500)))])
    assert narrow.method == "within" and narrow.half_width_pct < 2


def test_a_ratio_interval_holds_a_known_ratio():
    rng = np.random.default_rng(2)
    slow = [list(2.0 * np.exp(rng.normal(0, 0.01, 50))) for _ in range(3)]
    fast = [list(np.exp(rng.normal(0, 0.01, 50))) for _ in range(3)]
    found = ratio_interval(slow, fast)
    assert found.method == "processes" and found.low < 2.0 < found.high and found.high / found.low < 1.1
    assert ratio_interval(slow[:1], fast[:1]).method == "within"


def test_one_sample_has_no_interval():
    found = process_interval([[0.5]])
    assert (found.value, found.low, found.high, found.half_width_pct) == (0.5, None, None, None)


@pytest.mark.parametrize("runs", [[], [[]], [[0.0]], [[float("nan")]], [[-1.0, 1.0]]])
def test_what_is_no_time_is_refused(runs):
    with pytest.raises(ValueError):
        process_interval(runs)


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


def noisy(rng, processes, sd, steps=30):
    return [list(np.exp(rng.normal(rng.normal(0, sd), 0.01, steps))) for _ in range(processes)]


def test_correlated_steps_are_worth_fewer():
    rng = np.random.default_rng(5)
    noise, steps = rng.normal(0, 0.05, 2000), [0.0]
    for x in noise:
        steps.append(0.5 * steps[-1] + x)
    assert autocorrelation(np.exp(steps)) == pytest.approx(0.5, abs=0.06)
    assert effective_samples(np.exp(steps)) == pytest.approx(2000 / 3, rel=0.25)  # (1 + rho) / (1 - rho) = 3
    assert effective_samples(np.exp(noise)) > 1500
    independent = samples_for(np.exp(rng.permutation(steps)), 1.0)
    assert samples_for(np.exp(steps), 1.0) > 2 * independent
    assert autocorrelation([1.0, 1.1, 1.2]) is None and autocorrelation([1.0] * 9) is None
    with pytest.raises(ValueError):
        autocorrelation([1.0] * 9, lag=0)


def test_a_prior_lends_degrees_of_freedom():
    rng = np.random.default_rng(6)
    cells = [noisy(rng, 2, 0.05) for _ in range(40)]
    prior = fit_prior(cells)
    assert prior.variance == pytest.approx(0.05**2, rel=0.7) and prior.dof > 1
    own, moderated = (
        np.median([process_interval(cell, prior=p).half_width_pct for cell in cells]) for p in (None, prior)
    )
    assert moderated < own / 2
    assert process_interval(cells[0], prior=prior).method == "moderated"
    assert process_interval(cells[0][:1], prior=prior).method == "moderated"
    assert process_interval(cells[0], prior=prior).value == process_interval(cells[0]).value


def test_a_prior_of_cells_that_differ_says_less():
    rng = np.random.default_rng(7)
    alike = fit_prior([noisy(rng, 3, 0.05) for _ in range(40)])
    differ = fit_prior([noisy(rng, 3, sd) for sd in np.geomspace(0.005, 0.5, 40)])
    assert differ.dof < 2 < alike.dof
    # nine cells that look exactly alike are no proof that they are
    looks = fit_prior(
        [[[math.exp(x)] for x in (0.0, 0.1, -0.1)[i % 3 :] + (0.0, 0.1, -0.1)[: i % 3]] for i in range(9)]
    )
    assert 1 < looks.dof < 20


def test_too_few_cells_are_no_prior():
    rng = np.random.default_rng(8)
    assert fit_prior([]) is None and fit_prior([[[1.0]], [[]]]) is None
    assert fit_prior([noisy(rng, 3, 0.05) for _ in range(5)]) is None
    assert fit_prior([noisy(rng, 2, 0.05) for _ in range(7)]) is None
    assert fit_prior([noisy(rng, 3, 0.05) for _ in range(6)]) is not None
    assert fit_prior([[[1.0], [1.0]]] * 20) is None


def test_what_all_cells_of_a_round_share_is_not_counted_once_per_cell():
    rng = np.random.default_rng(9)
    machine = np.array([0.0, 0.2, 0.1])
    cells = [[[x] for x in np.exp(machine + rng.normal(0, 0.01, 3))] for _ in range(27)]
    prior = fit_prior(cells)
    assert prior.rounds == pytest.approx((-0.1, 0.1, 0.0), abs=0.01)
    assert prior.round_variance == pytest.approx(0.01, rel=0.1) and prior.variance < 0.0002
    assert process_interval(cells[0], prior=prior).half_width_pct > 15


def test_paired_ratios_see_no_drift():
    rng = np.random.default_rng(10)
    drift = np.exp(np.cumsum(rng.normal(0, 0.1, (3, 30)), axis=1))
    a, b = (2.0 * drift).tolist(), drift.tolist()
    assert block_ratios(a, b) == [pytest.approx([2.0] * 30)] * 3
    found = ratio_interval(a, b, paired=True)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0)) and found.method == "processes"
    assert ratio_interval(a[:1], b[:1], paired=True).method == "within"
    assert ratio_interval(a, b).half_width_pct > 5
    for wrong in (b[:2], [p[:-1] for p in b]):
        with pytest.raises(ValueError):
            ratio_interval(a, wrong, paired=True)


@given(st.floats(1.001, 20), st.floats(-3, 3).filter(lambda share: abs(share) > 0.05))
def test_what_a_share_leaves_is_taken_off_by_proportion(gain, share):
    seen = 1 / (1 - share * (1 - 1 / gain)) if share * (1 - 1 / gain) < 1 else None  # clean 1, treated: without a share
    if seen is not None:
        assert without_share(seen, share) == pytest.approx(gain, rel=1e-6)
    assert without_share(gain, 1.0) == pytest.approx(gain) and without_share(1e9, 1.0) == pytest.approx(1000)


def test_a_blown_up_share_has_an_interval_that_covers_and_no_bias():
    """Operators twice over: 64 % of a step are the cause, pairs scatter by 6 %."""
    rng, gain, share = np.random.default_rng(12), 2.8, -1.0
    doubled = 1 - share * (1 - 1 / gain)
    found, each = [], []
    for _ in range(600):
        clean = np.exp(rng.normal(0, 0.04, 12))
        treated = doubled * np.exp(rng.normal(0, 0.045, 12))
        found.append(Paired.of([clean.tolist()], [treated.tolist()], [share]).interval())
        one_by_one = np.maximum(1e-3, 1 - (1 - treated / clean) / share)
        each.append(ratio_interval([[1.0] * 12], [one_by_one.tolist()], paired=True))
    covered = np.mean([e.low <= gain <= e.high for e in found])
    assert 0.92 <= covered <= 0.98
    centre, apart = (np.median([e.value for e in some]) / gain - 1 for some in (found, each))
    assert abs(centre) < 0.012 and abs(centre) < abs(apart)  # pair by pair it is too large
    assert all(e.low < e.value < e.high for e in found)


def test_shares_are_those_of_their_processes():
    clean, shares = [[1.0] * 8] * 3, [1.0, 0.5, -1.0]
    treated = [[0.5 + (1 - share) * 0.5] * 8 for share in shares]
    found = Paired.of(clean, treated, shares)
    assert found.interval().value == found.value == pytest.approx(2.0) and found.interval().method == "processes"
    half = Paired.of([[], clean[0]], [[], treated[2]], [1.0, -1.0]).every_second(1)
    assert (half.value, half.pairs, half.interval().low) == pytest.approx((2.0, 4, None), nan_ok=True)


blocks = st.lists(st.floats(0.5, 2.0), min_size=1, max_size=14)


@settings(deadline=None)
@given(st.lists(st.tuples(blocks, blocks, st.sampled_from([1.0, 0.5, -1.0])), max_size=6))
def test_pairs_are_the_same_together_and_one_by_one(drawn):
    cut = [(a[: len(b)], b[: len(a)], share) for a, b, share in drawn]
    together = Paired.all([([a], [b], [share]) for a, b, share in cut])
    for (a, b, share), found in zip(cut, together, strict=True):
        logs = np.sort(np.log(a) - np.log(b))
        trim = int(0.2 * len(logs))
        mean = float(np.mean(logs[trim : len(logs) - trim]))
        assert found.value == pytest.approx(without_share(math.exp(mean), share), rel=1e-9)
        alone = Paired.of([a], [b], [share])
        assert found.interval() == pytest.approx(alone.interval(), nan_ok=True)
        for start in (0, 1):
            half = found.every_second(start)
            assert (half is None) == (not a[start::2])
            if half is not None:
                assert half.interval() == Paired.of([a[start::2]], [b[start::2]], [share]).interval()
        if share == 1.0 and len(logs) >= 5:
            low, high = logs[trim], logs[len(logs) - trim - 1]
            winsorized = np.clip(logs, low, high)
            error = winsorized.std(ddof=1) / (0.6 * math.sqrt(len(logs)))
            half_width = t_quantile(0.975, len(logs) - 2 * trim - 1) * error
            assert found.interval().high == pytest.approx(math.exp(mean + half_width), rel=1e-9)


def test_simultaneous_bounds_are_bonferronis_and_decisions_holms():
    rng = np.random.default_rng(11)
    base = noisy(rng, 4, 0.01)
    pairs = [([[x * gain for x in p] for p in noisy(rng, 4, 0.01)], base) for gain in (2.0, 1.5, 1.0)]
    found = simultaneous(pairs, threshold=1.1)
    assert [bound.exceeds for bound in found] == [True, True, False]
    alone = ratio_interval(*pairs[0], level=1 - 2 * 0.05 / 3)
    assert (found[0].value, found[0].low) == pytest.approx((alone.value, alone.low))
    # Holm can say yes where Bonferroni's bound does not: the other one is out of the way
    between = (found[1].low + ratio_interval(*pairs[1], level=1 - 2 * 0.05 / 2).low) / 2
    assert found[1].low < between and simultaneous(pairs, threshold=between)[1].exceeds
    assert simultaneous([]) == []
    with pytest.raises(ValueError):
        simultaneous(pairs, level=0.4)


def test_permutation_of_labels_is_exact():
    low, high = [[1.0], [1.1], [1.2]], [[2.0], [2.1], [2.2]]
    assert permutation_p(low, high) == pytest.approx(2 / 20)  # the smallest with three a side
    assert permutation_p([*low, [1.15]], [*high, [2.15]]) == pytest.approx(2 / 70)
    assert permutation_p(low, low) == 1.0
    many = [[x] for x in np.linspace(1, 2, 12)]
    assert permutation_p(many, [[3 * x[0]] for x in many]) <= 0.001
    assert permutation_p([[1.0], [3.0]], [[2.0], [4.0]]) == pytest.approx(4 / 6)


def test_runs_must_match():
    cells = [[[1.0], [1.1]]] * 3
    assert runs_differ(cells, cells).p_cells is None and runs_differ(cells, cells).p == 1.0
    assert runs_differ([*cells, [[1.0]]], [*cells, [[1.0], [2.0]]]).cells == 3
    for base, head in (([], []), (cells, cells[:2]), ([[[1.0]]], [[[1.0]]])):
        with pytest.raises(ValueError):
            runs_differ(base, head)


def test_processes_by_steins_rule():
    first = [[1.00], [1.05], [1.10]]
    variance = np.var(np.log([1.0, 1.05, 1.1]), ddof=1)
    wanted = math.ceil(4.302653**2 * variance / math.log(1.05) ** 2)
    plan = processes_for(first, 5.0, most=50)
    assert (plan.first, plan.target, plan.count, plan.enough) == (3, wanted, wanted, True)
    assert processes_for(first, 5.0, most=4).count == 4 and not processes_for(first, 5.0, most=4).enough
    assert processes_for(first, 50.0).count == 3
    prior = Prior(dof=8.0, variance=variance, dof_limit=40.0)
    assert processes_for(first, 5.0, most=50, prior=prior).target < wanted
    rest = [[1.04], [1.06], [1.05]]
    found = stein_interval([*first, *rest], 3, 5.0)
    half = 4.302653 * math.sqrt(variance / 6)
    assert (found.processes, found.target_processes, found.target_pct) == (6, wanted, 5.0)
    assert math.log(found.estimate.high / found.estimate.value) == pytest.approx(half, rel=1e-5)
    assert not found.enough and stein_interval([*first, *rest], 3, 9.0).enough
    for wrong in (lambda: processes_for(first[:1], 5.0), lambda: stein_interval(first, 4, 5.0)):
        with pytest.raises(ValueError):
            wrong()


def test_steady_is_a_level_and_stalls_are_not():
    rng = np.random.default_rng(12)
    steady = np.exp(rng.normal(0, 0.02, 100))
    assert changepoints(steady) == [] and is_steady(steady)
    stalled = steady.copy()
    stalled[20] *= 8
    assert changepoints(stalled) == []
    stalled[40:43] *= 3
    assert changepoints(stalled) == [40, 43] and steady_from(stalled) == 0
    steps = np.concatenate([3 * steady[:20], 1.5 * steady[20:35], steady[35:]])
    assert changepoints(steps) == [20, 35] and steady_from(steps) == 35
    late = np.concatenate([steady[:70], 1.5 * steady[70:]])
    assert steady_from(late) == 50 and not is_steady(late)
    decay = steady * np.exp(0.8 * np.exp(-np.arange(100) / 6))
    assert 8 <= steady_from(decay) <= 30
    assert not is_steady([1.0] * 5)


def test_warm_up_of_many_steps_is_found_in_time():
    steady = np.exp(np.random.default_rng(13).normal(0, 0.02, 2000))
    steady[:7] *= 2
    assert steady_from(steady) == 7


def test_outliers_are_marked():
    times = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 3.0, 1.0, 0.2]
    assert outliers(times) == [6, 8]
    assert outliers([1.0] * 9 + [1.01]) == [] and outliers([1.0] * 9 + [1.05]) == [9]
    assert outliers([1.0, 9.0]) == []


@settings(deadline=None)
@given(st.lists(st.lists(st.lists(st.floats(0.5, 2.0), max_size=40), max_size=3), max_size=5))
def test_cells_are_described_at_once_as_each_alone(cells):
    """Rows of one length are looked at together: none must see its neighbours."""
    together = describe_all(cells)
    assert len(together) == len(cells)
    for cell, found in zip(cells, together, strict=True):
        alone = describe(cell)
        assert (found.outliers, found.unreliable) == (alone.outliers, alone.unreliable)
        assert found.outliers == sum(len(outliers(process)) for process in cell)
        assert found.autocorrelations == pytest.approx(alone.autocorrelations)
        known = [autocorrelation(process) for process in cell if len(process) > 3]
        assert found.autocorrelations == pytest.approx([one for one in known if one is not None])


@settings(deadline=None)
@given(st.lists(st.floats(0.5, 2.0), min_size=4, max_size=60))
def test_effective_samples_are_geyers(samples):
    logs = np.log(samples) - np.mean(np.log(samples))
    if max(samples) == min(samples):
        assert effective_samples(samples) == len(samples)
        return
    n, square, total, last = len(logs), float(logs @ logs), 0.0, math.inf
    for k in range(0, max(2, n // 3), 2):
        pair = sum(float(logs[: n - lag] @ logs[lag:]) / square for lag in (k, k + 1))
        last = min(last, pair)
        if last <= 1e-12:
            break
        total += last
    assert effective_samples(samples) == pytest.approx(n / min(max(2 * total - 1, 1.0), n), rel=1e-6)


def test_reliability_says_why():
    rng = np.random.default_rng(14)

    def process(n=200, rho=0.0, extra=0.0):
        x = rng.normal(0, 0.02, n)
        for i in range(1, n):
            x[i] += rho * x[i - 1]
        return list(np.exp(x + extra))

    assert reliability([process(), process()]) == []
    assert sum("trend" in " ".join(reliability([process(60, 0.3), process(60, 0.3)])) for _ in range(50)) <= 2
    (one,) = reliability([process()])
    assert "fewer than 2 processes" in one
    (few,) = reliability([process(), process(6)])
    assert "too few samples in 1 processes: 6 steps" in few
    assert any("autocorrelation 0.8" in r for r in reliability([process(2000, rho=0.8) for _ in range(2)]))
    (trend,) = reliability([process(), process(extra=np.linspace(0, 0.05, 200))])
    assert "trend within 1 of 2 processes: the last third is 3." in trend and "slower" in trend
    (modes,) = reliability([process(extra=0.3 * (rng.random(200) < 0.4)) for _ in range(2)])
    assert "two modes within 2 of 2" in modes and "1.3" in modes
    assert reliability([]) != []


@pytest.mark.parametrize("n", [6, 9, 12, 18, 27, 40])
def test_a_ramp_is_not_steady_however_short(n):
    assert not is_steady([1.0 + 0.05 * (n - i) for i in range(n)])
    assert not is_steady([1.2**i for i in range(n)])
    assert is_steady([1.0 + 1e-4 * i for i in range(n)])  # a drift that no table would show
