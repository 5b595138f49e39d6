"""How cost grows: fits of known growths, and curves from records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.powers import Growth, fit, slope
from llmbench.report.scaling import changes_table, scaling_table
from llmbench.scaling import growth, scaling
from llmbench.schema import Budget, Cell, Job, new_record

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


def records(times, sizes=None, repeats=3, verdicts=None):
    """Cells along `seq_len` (or with other sizes); times: class -> seconds at x."""
    out = []
    for i, x in enumerate(XS):
        cell = Cell("m", sizes[i] if sizes else "tiny", "t", "made@1", "pretrain", seq_len=64 if sizes else x)
        for repeat in range(repeats):
            seconds = {name: at(x) * (1 + 0.01 * repeat) for name, at in times.items()}
            traced = [{"phase": "forward", "operator_class": n, "name": n, "seconds": s} for n, s in seconds.items()]
            whole = sum(seconds.values())
            job = Job(cell, repeat, 0, repeats, Budget(), "run", {}, trace="all")
            out.append(
                new_record(
                    job,
                    "ok",
                    samples={"step_s": [whole] * 3},
                    phases={"forward_s": [whole] * 3},
                    operators={"times": traced, "phases_s": {"forward": whole}},
                    interventions=verdicts[i] if verdicts and repeat == 0 else {},
                )
            )
    return out


TIMES = {"attention": lambda x: 1e-8 * x**2, "recurrent": lambda x: 4e-6 * x, "host": lambda x: 2e-3}


def test_each_class_of_operators_has_its_own_exponent():
    found = {row["part"]: row for row in scaling(records(TIMES))}
    assert set(found) == {"step", "attention", "recurrent", "host"} or set(found) == {"step", "attention", "recurrent"}
    assert found["attention"]["exponent"] == pytest.approx(2) and found["attention"]["limit"] == 2
    assert found["recurrent"]["exponent"] == pytest.approx(1) and found["recurrent"]["limit"] == 1
    assert 1 < found["step"]["exponent"] < 2 and found["step"]["axis"] == "seq_len"
    assert found["step"]["exponent_small"] < found["step"]["exponent"]
    assert abs(found["step"]["error_pct"]) < 1e-6


def test_the_place_where_another_class_leads_is_between_the_points():
    row = scaling(records(TIMES))[0]
    (first,) = [c for c in row["changes"] if c["from"] == "host"]
    assert first["to"] in ("recurrent", "attention") and first["between"][0] < first["at"] <= first["between"][1]
    assert first["at"] == pytest.approx(447, rel=0.01)  # 1e-8 x^2 = 2e-3, by powers between 256 and 512


def test_a_change_of_the_verdict_is_reported():
    def of(name):
        trial = {"axis": "where", "class": "algorithm", "outcome": "measured", "predicted_x": 2.0, "advice": ""}
        return {name: trial | {"clean_s": [2.0, 2.01] * 5, "treated_s": [1.0, 1.01] * 5, "share": 1.0}}

    row = scaling(records(TIMES, verdicts=[of("input")] * 3 + [of("attention")] * 3))[0]
    (change,) = [c for c in row["changes"] if c["kind"] == "verdict"]
    assert (change["from"], change["to"], change["between"]) == ("input", "attention", [256, 512])


def test_keys_of_sizes_are_axes():
    rows = scaling(records(TIMES, sizes=[f"tiny:hidden={x},layers=2" for x in XS]))
    assert {row["axis"] for row in rows} == {"hidden"} and rows[0]["points"] == XS


def test_few_points_have_no_fit_but_a_row():
    (row, *_) = scaling([r for r in records(TIMES) if r["cell"]["seq_len"] <= 256])
    assert row["exponent"] is None and "needs 4 points" in row["reason"]
    assert scaling([r for r in records(TIMES) if r["cell"]["seq_len"] <= 128]) == []


def test_tables():
    found = records(TIMES)
    assert len(scaling_table(found).rows) == len(scaling(found)) and changes_table(found).rows
    assert not scaling_table(found[:3]).rows
