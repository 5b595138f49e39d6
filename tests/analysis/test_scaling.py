"""How cost grows: fits of known growths, and curves from records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.analysis.studies.operator_laws import fit_laws, start_of_law, tokens, work_by_class, work_of
from llmbench.analysis.studies.scaling import growth, limit_power, scaling_rows
from llmbench.contract.cell import Cell
from llmbench.contract.job import Job, new_record
from llmbench.report.tables.scaling import changes_table, scaling_table
from llmbench.stats.growth import LINEAR, ONE, SQUARE, Growth, fit, power, slope, total

XS = [64, 128, 256, 512, 1024, 2048]
PART = st.one_of(st.just(0.0), st.floats(0.01, 100))


@given(PART, PART, PART)
def test_a_growth_is_found_again(a, b, c):
    truth = Growth((a, b / 512, c / 512**2))
    if truth.at(1) == 0:
        return
    found = fit(XS, [truth.at(x) for x in XS])
    for x in (*XS, 4096):
        assert found.at(x) == pytest.approx(truth.at(x), rel=1e-6)
        assert found.exponent(x) == pytest.approx(truth.exponent(x), abs=1e-5)
    assert min(found.coefficients) >= 0


@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=8))
def test_no_times_give_a_negative_part(ts):
    found = fit(XS[:1] * 0 + [2**i for i in range(len(ts))], ts)
    assert min(found.coefficients) >= 0 and found.at(10) >= 0


def test_the_fit_is_the_least_squares_of_a_solver():
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    for _ in range(50):
        t = rng.lognormal(0, 1, len(XS))
        columns = np.stack([(np.array(XS) / 2048) ** p / t for p in (0, 1, 2)], axis=1)
        _, residual = optimize.nnls(columns, np.ones(len(t)))
        found = fit(XS, t)
        own = np.sqrt(sum((found.at(x) / v - 1) ** 2 for x, v in zip(XS, t, strict=True)))
        assert own == pytest.approx(residual, rel=1e-6)


@pytest.mark.parametrize("power", [1, 2])
def test_a_power_is_recovered_under_noise_with_an_interval_that_covers(power):
    rng = np.random.default_rng(power)
    held, rounds = 0, 200
    for _ in range(rounds):
        times = [[1e-6 * x**power * np.exp(rng.normal(0, 0.02)) for x in XS] for _ in range(4)]
        found = growth(XS, times)
        held += found["exponent_ci"][0] <= power <= found["exponent_ci"][1]
        assert found["exponent"] == pytest.approx(power, abs=0.08)
    assert 0.9 <= held / rounds <= 0.99


def test_the_largest_point_is_predicted_from_the_others():
    truth = Growth((5e-3, 2e-5, 3e-8))
    rng = np.random.default_rng(3)
    times = [[truth.at(x) * np.exp(rng.normal(0, 0.01)) for x in XS] for _ in range(4)]
    found = growth(XS, times)
    assert found["held_out"] == 2048 and abs(found["error_pct"]) < 5 and found["limit"] == 2
    assert growth(XS, [[t * (1 + (x == 2048)) for t, x in zip(ts, XS, strict=True)] for ts in times])[
        "error_pct"
    ] == pytest.approx(-50, abs=3)  # the held-out point is not in the fit


def test_slopes_are_those_of_power_laws():
    assert slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


LONG = [1024, 1536, 2048, 3072, 4096]


@given(st.sampled_from([1, 2]), st.floats(0, 0.3), st.floats(1e-9, 1e3))
def test_the_exponent_in_the_limit_is_found_where_lower_powers_still_count(p, lower, scale):
    """t = x^p + b x^(p-1), of which the second makes up to 30 % of the smallest point: a causal attention's, say."""
    times = [scale * (x**p + lower * LONG[0] * x ** (p - 1)) for x in LONG]
    assert power(LONG, times) == pytest.approx(p, abs=0.04)
    assert slope(LONG, times) <= p + 1e-9 and (lower < 0.2 or slope(LONG, times) < p - 0.05)
    with pytest.raises(ValueError, match="three points"):
        power(LONG[:2], times[:2])


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("missed", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("points", [LONG, [1024, 1280, 1536, 2048, 2560, 3072, 3584, 4096]])
def test_the_interval_of_the_exponent_in_the_limit_covers_it(p, missed, points):
    """`missed`: by how much the kernel of each length deviates from the law, in every process alike."""
    rng = np.random.default_rng([p, int(100 * missed), len(points)])
    xs, runs, held, over_rounds = np.array(points), 400, 0, 0
    for _ in range(runs):
        law = (xs**p + 100 * xs ** (p - 1)) * np.exp(rng.normal(0, missed, len(xs)))
        times = law * np.exp(rng.normal(0, 0.02, (6, len(xs))))
        low, high = limit_power(points, times)[1]
        held += low <= p <= high
        each = [power(points, ts) for ts in times]
        over_rounds += abs(np.mean(each) - p) <= 2.571 * np.std(each, ddof=1) / 6**0.5
    assert held / runs >= 0.92
    if missed:
        assert over_rounds / runs < 0.75  # what it was before


def test_the_interval_of_the_exponent_in_the_limit_needs_four_points():
    times = [[f * 1e-8 * x**2 for x in (1024, 2048, 4096)] for f in (1.0, 1.01)]
    assert limit_power([1024, 2048, 4096], times) == (pytest.approx(2), None)
    xs = [1024, 2048, 3072, 4096]
    bent = [[f * 1e-8 * x**2 * (1.05 if x == 2048 else 1) for x in xs] for f in (1.0, 1.01)]
    _, (low, high) = limit_power(xs, bent)
    assert low < 2 < high and high - low > 0.2  # rounds agree to the last digit, and yet the exponent is not known
    assert limit_power(xs, bent[:1])[1] == pytest.approx([low, high], rel=0.01)
    assert growth([256, *xs], [[1e-3, *ts] for ts in bent])["power_ci"] == pytest.approx([low, high])


# --- laws of counted work -------------------------------------------------------------------------------


@given(st.lists(PART, min_size=3, max_size=3), st.sampled_from([(ONE, LINEAR), (ONE, SQUARE), (ONE, LINEAR, SQUARE)]))
def test_a_law_is_the_work_at_rates_that_are_found_again(rates, work):
    truth = total(
        [Growth(tuple(r * c / 512**p for p, c in enumerate(g.coefficients))) for r, g in zip(rates, work, strict=False)]
    )
    if truth.at(1) == 0:
        return
    found = fit(XS, [truth.at(x) for x in XS], work)
    assert found.at(4096) == pytest.approx(truth.at(4096), rel=1e-6)


@given(st.lists(st.floats(1e-6, 1e3), min_size=4, max_size=8))
def test_a_law_has_no_power_that_its_work_has_not(ts):
    xs = [2**i for i in range(len(ts))]
    assert fit(xs, ts, (ONE, LINEAR)).coefficients[2] == 0
    assert all(law.coefficients[2] == 0 for law in fit_laws(xs, [ts, ts], (ONE, LINEAR)))


def test_a_law_is_fitted_behind_the_point_where_a_rate_changes():
    xs = [128, 256, 512, 768, 1024, 1536, 2048]
    switched = [1e-8 * x**2 * (1.5 if x < 700 else 1.0) for x in xs]
    assert start_of_law(xs, [switched] * 3, (ONE, SQUARE)) == 3
    (found,) = fit_laws(xs, [switched], (ONE, SQUARE))
    assert found.at(4096) == pytest.approx(1e-8 * 4096**2)
    assert start_of_law(xs, [[1e-8 * x**2 for x in xs]] * 3, (ONE, SQUARE)) == 0
    ragged = [t * (1.3 if i % 2 else 1.0) for i, t in enumerate(switched)]
    assert start_of_law(xs, [ragged] * 3, (ONE, SQUARE)) == len(xs) - 3  # no run is described: the nearest points
    wide = [[t * (0.7, 1.0, 1.3)[(i + r) % 3] for i, t in enumerate(switched)] for r in range(3)]
    assert start_of_law(xs, wide, (ONE, SQUARE)) == 0  # within what processes differ by


def operators(x):
    """Counted rows of one step at length x."""
    rows = [("attention", 4, 2 * x * x, 8 * x), ("recurrent", 2, 5 * x, 64 + 12 * x), ("loss", 3, 0, 100 * x)]
    return [{"operator_class": n, "calls": c, "flops": f, "bytes": b} for n, c, f, b in rows]


def test_work_is_what_was_counted_as_it_grows():
    counted_ = [
        {"operators": {"rows": operators(x)}, "samples": {"step_tokens": [x, x], "step_padding_tokens": [1, 1]}}
        for x in XS
    ]
    assert work_by_class(counted_[0])[""] == {"calls": 9.0, "flops": 2 * 64 * 64 + 320.0, "bytes": 64 + 120 * 64.0}
    assert tokens(counted_[1]) == 129

    def powers_of(part):
        found = work_of(part, XS, counted_)
        return [[p for p, c in enumerate(g.coefficients) if c * 2048**p > 1e-6 * g.at(2048)] for g in found]

    assert powers_of("attention") == [[0], [2], [1]] and powers_of("recurrent") == [[0], [1], [0, 1]]
    assert (
        powers_of("loss") == [[0], [1]] and powers_of("host") == [[0], [0, 1]] and powers_of("input") == [[0], [0, 1]]
    )
    assert work_of("elsewhere", XS, counted_) == [ONE, LINEAR, SQUARE]
    bare = [{"samples": {}} for _ in XS]
    assert work_of("attention", XS, bare) == work_of("host", XS, bare) == [ONE, LINEAR, SQUARE]
    assert powers_of("input") and len(work_of("input", XS, bare)) == 1


def records(times, sizes=None, repeats=3, verdicts=None, rows=None, noise=None):
    """Cells along `seq_len` (or with other sizes); times: class -> seconds at x; rows: x -> counted operators."""
    out = []
    for i, x in enumerate(XS):
        cell = Cell("m", sizes[i] if sizes else "tiny", "t", "made@1", "pretrain", seq_len=64 if sizes else x)
        for repeat in range(repeats):
            factor = noise() if noise else 1 + 0.01 * repeat
            seconds = {name: at(x) * factor for name, at in times.items()}
            traced = [{"phase": "forward", "operator_class": n, "name": n, "seconds": s} for n, s in seconds.items()]
            whole = sum(seconds.values())
            job = Job.single(cell, repeat=repeat, repeats=repeats, trace="all")
            out.append(
                new_record(
                    job,
                    "ok",
                    samples={"step_s": [whole] * 3},
                    phases={"forward_s": [whole] * 3},
                    operators={"times": traced, "phases_s": {"forward": whole}, "rows": rows(x) if rows else []},
                    interventions=verdicts[i] if verdicts and repeat == 0 else {},
                )
            )
    return out


TIMES = {"attention": lambda x: 1e-8 * x**2, "recurrent": lambda x: 4e-6 * x, "host": lambda x: 2e-3}


def test_each_class_of_operators_has_its_own_exponent():
    found = {row["part"]: row for row in scaling_rows(records(TIMES))}
    assert set(found) == {"step", "attention", "recurrent", "host"} or set(found) == {"step", "attention", "recurrent"}
    assert found["attention"]["exponent"] == pytest.approx(2) and found["attention"]["limit"] == 2
    assert found["recurrent"]["exponent"] == pytest.approx(1) and found["recurrent"]["limit"] == 1
    assert 1 < found["step"]["exponent"] < 2 and found["step"]["axis"] == "seq_len"
    assert found["step"]["exponent_small"] < found["step"]["exponent"]
    assert abs(found["step"]["error_pct"]) < 1e-6


def test_a_step_is_predicted_as_the_sum_of_its_parts():
    """Noise gives a + b x + c x^2 a square where the work has none; counted work does not."""
    times = {"attention": lambda x: 1e-9 * x**2, "recurrent": lambda x: 1e-3 + 4e-6 * x, "host": lambda x: 2e-3}
    errors = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = records(times, repeats=5, rows=operators, noise=lambda: np.exp(rng.normal(0, 0.03)))
        step, *_ = scaling_rows(found)
        errors.append(abs(step["error_pct"]))
        assert step["part"] == "step" and step["predicted_ms_ci"][0] < step["predicted_ms"] < step["predicted_ms_ci"][1]
    assert np.median(errors) < 3 and max(errors) < 10


def test_the_held_out_point_has_no_say_in_its_prediction():
    found = records(TIMES, rows=operators)
    before = {r["part"]: (r["predicted_ms"], r["limit"]) for r in scaling_rows(found)}
    for one in found:
        if one["cell"]["seq_len"] == XS[-1]:
            one["samples"]["step_s"] = [7 * s for s in one["samples"]["step_s"]]
            one["operators"]["rows"] = operators(5)
    assert {r["part"]: (r["predicted_ms"], r["limit"]) for r in scaling_rows(found)} == before


def test_a_process_that_others_kept_waiting_does_not_count():
    found = records(TIMES)
    one = next(r for r in found if r["cell"]["seq_len"] == 512 and r["repeat"] == 1)
    one["samples"]["step_s"] = [9.0] * 3
    one["health"] = {"wall_s": 1.0, "cores": 2, "other_cpu_s": 1.0, "run_wait_longest_s": 0.4, "steal_s": 0.0}
    step, *_ = scaling_rows(found)
    assert step["rounds"] == 2 and max(step["ms"]) < 1000
    one["health"]["run_wait_longest_s"] = 0.01  # others had a core of their own
    step, *_ = scaling_rows(found)
    assert step["rounds"] == 3 and max(step["ms"]) > 1000


def test_the_place_where_another_class_leads_is_between_the_points():
    row = scaling_rows(records(TIMES))[0]
    (first,) = [c for c in row["changes"] if c["from"] == "host"]
    assert first["to"] in ("recurrent", "attention") and first["between"][0] < first["at"] <= first["between"][1]
    assert first["at"] == pytest.approx(447, rel=0.01)  # 1e-8 x^2 = 2e-3, by powers between 256 and 512


def test_a_change_of_the_verdict_is_reported():
    def of(name):
        trial = {"axis": "where", "class": "algorithm", "outcome": "measured", "predicted_x": 2.0, "advice": ""}
        return {name: trial | {"clean_s": [2.0, 2.01] * 5, "treated_s": [1.0, 1.01] * 5, "share": 1.0}}

    row = scaling_rows(records(TIMES, verdicts=[of("input")] * 3 + [of("attention")] * 3))[0]
    (change,) = [c for c in row["changes"] if c["kind"] == "verdict"]
    assert (change["from"], change["to"], change["between"]) == ("input", "attention", [256, 512])


def test_keys_of_sizes_are_axes():
    rows = scaling_rows(records(TIMES, sizes=[f"tiny:hidden={x},layers=2" for x in XS]))
    assert {row["axis"] for row in rows} == {"hidden"} and rows[0]["points"] == XS


def test_few_points_have_no_fit_but_a_row():
    (row, *_) = scaling_rows([r for r in records(TIMES) if r["cell"]["seq_len"] <= 256])
    assert row["exponent"] is None and "needs 4 points" in row["reason"]
    assert scaling_rows([r for r in records(TIMES) if r["cell"]["seq_len"] <= 128]) == []


def test_tables():
    found = records(TIMES)
    assert len(scaling_table(found).rows) == len(scaling_rows(found)) and changes_table(found).rows
    assert not scaling_table(found[:3]).rows
