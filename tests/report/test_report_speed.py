"""What a report derives from traces, ceilings, phases and meters, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import record

from llmbench.records.read import Run
from llmbench.report.cells import speed, trust
from llmbench.report.cells.summary import summarise
from llmbench.report.tables.overview import capacity_table, hardware_table, inference_table, limits_table
from llmbench.report.tables.roofline import roofline_table

PEAK, BANDWIDTH = 1e9, 1e8


def estimate(value):
    return {"value": value, "low": 0.9 * value, "high": 1.1 * value, "samples": 5}


def ceilings(sheet=None):
    levels = [{"level": "dram", "capacity_bytes": 1 << 40, "triad_bytes_per_s": estimate(BANDWIDTH)}]
    return {
        "c1": {
            "device": "cpu",
            "matmul": {"fp32": estimate(PEAK), "bf16": None},
            "memory_levels": levels,
            "precisions": {"fp32": "fp32"},
            "datasheet": sheet,
            "reasons": {"datasheet": "none is printed"},
        }
    }


def row(phase, kind, flops, moved, name="op"):
    same = {"name": name, "dtype": "float32", "calls": 1, "recomputed_flops": 0}
    return {"phase": phase, "operator_class": kind, "flops": flops, "bytes": moved, **same}


def traced(**fields):
    """A step of 0.1 s: the traced batch has 2e7 FLOPs and 1e6 bytes, the mean one half as much again."""
    rows = [row("forward", "matmul", 2e7, 6e5), row("backward", "elementwise", 0, 4e5)]
    times = [
        {"phase": "forward", "operator_class": "matmul", "name": "op", "seconds": 0.03},
        {"phase": "forward", "operator_class": "host", "name": "host", "seconds": 0.01},
        {"phase": "backward", "operator_class": "elementwise", "name": "op", "seconds": 0.02},
    ]
    operators = {
        **{"rows": rows, "times": times, "phases_s": {"forward": 0.04, "backward": 0.02}, "shapes": {}, "notes": []},
        "totals": {"flops": 2e7, "recomputed_flops": 0, "bytes": 1e6, "kernels": 2},
    }
    counts = {"tokens": 50.0, "padding_tokens": 0.0, "flops": 3e7, "model_flops": 2.4e7, "bytes": 1.5e6, "kernels": 2}
    made = record(operators=operators, counts=counts, **fields)
    return {**made, "ceilings_id": "c1"}


def test_utilisation_is_the_mean_steps_flops_over_its_seconds_over_the_measured_peak():
    (cell,) = summarise([traced()], ceilings=ceilings())
    assert cell["ceiling_pct"] == pytest.approx(100 * 3e7 / 0.1 / PEAK)
    low, high = cell["ceiling_pct_range"]
    assert low == pytest.approx(cell["ceiling_pct"] / 1.1) and high == pytest.approx(cell["ceiling_pct"] / 0.9)
    assert cell["bandwidth_pct"] == pytest.approx(100 * 1.5e6 / 0.1 / BANDWIDTH)
    assert cell["flops_per_step"] == 3e7 and cell["arithmetic_intensity"] == pytest.approx(20.0)
    assert cell["roofline_bound"] == "compute"


def test_mfu_is_null_with_the_reason_where_no_datasheet_is_known():
    (cell,) = summarise([traced()], ceilings=ceilings())
    assert cell["mfu_pct"] is None and cell["reasons"]["mfu_pct"] == "none is printed"
    sheet = {"name": "G", "flops_per_s": {"fp32": 2 * PEAK}, "source": "s"}
    (cell,) = summarise([traced()], ceilings=ceilings(sheet))
    assert cell["mfu_pct"] == pytest.approx(100 * 2.4e7 / 0.1 / (2 * PEAK))
    assert cell["hfu_pct"] == pytest.approx(100 * 3e7 / 0.1 / (2 * PEAK))


def test_without_ceilings_counts_stay_and_utilisation_is_null():
    (cell,) = summarise([traced()])
    assert cell["ceiling_pct"] is None and "not measured" in cell["reasons"]["ceiling_pct"]
    assert cell["flops_per_step"] == 3e7


def test_a_repeat_that_was_not_traced_counts_into_the_seconds():
    slow = {**record(repeat=1, step_s=(0.3,) * 4), "ceilings_id": "c1"}
    (cell,) = summarise([traced(), slow], ceilings=ceilings())
    assert cell["ceiling_pct"] == pytest.approx(100 * 3e7 / 0.2 / PEAK)


def test_operator_classes_share_phases_as_profiled_and_the_step_as_the_phase_pass_did():
    found = speed.operator_shares(traced()["operators"], [traced()])  # phases: input 0.06, forward 0.02, backward 0.02
    assert found == pytest.approx({"input": 0.6, "elementwise": 0.2, "matmul": 0.15, "host": 0.05})


def test_each_phase_and_class_has_a_place_under_the_roofline():
    (cell,) = summarise([traced()], ceilings=ceilings())
    positions = {(p["phase"], p["operator_class"]): p for p in cell["positions"]}
    matmul = positions["forward", "matmul"]  # 0.015 s of the mean step, which is 1.5 times the traced one
    assert matmul["seconds"] == pytest.approx(0.01) and matmul["roofline_s"] == pytest.approx(2e7 / PEAK)
    assert positions["backward", "all"]["bound"] == "memory" and matmul["bound"] == "compute"
    (row,) = roofline_table([cell]).rows
    assert row[-4:] == (
        "compute 150 %",
        "memory 30 %",
        "elementwise (backward)",
        pytest.approx(100 * 0.0093333 / 0.0266667, rel=1e-3),
    )
    (cell,) = summarise([traced()])
    assert cell["positions"] is None and "not measured" in cell["reasons"]["positions"]
    assert roofline_table([cell]).rows == ()


@pytest.mark.parametrize("parts, residual", [((0.06, 0.03), 10.0), ((0.06, 0.04), 0.0), ((0.1, 0.02), -20.0)])
def test_the_residual_is_what_phases_leave_of_the_clean_step_on_the_same_batch(parts, residual):
    phases = {"input_s": [parts[0]] * 3, "forward_s": [parts[1]] * 3}
    made = record(phases=phases)
    made["samples"]["paired_step_s"] = [0.1, 0.1, 0.1]
    (cell,) = summarise([made])
    assert cell["phase_residual_pct"] == pytest.approx(residual, abs=1e-9)
    assert any("unexplained" in w for w in cell["warnings"]) == (abs(residual) > trust.RESIDUAL_LIMIT_PCT)


def test_the_residual_says_how_sure_it_is():
    def summary(parts):
        made = record(phases={"forward_s": parts})
        made["samples"]["paired_step_s"] = [0.1] * len(parts)
        return summarise([made])[0]

    some = summary([0.09, 0.05, 0.13, 0.088, 0.092, 0.2, 0.085])  # 7 pairs: from the first to the last
    assert some["phase_residual_ci"] == [pytest.approx(-100.0), pytest.approx(50.0)]
    assert any("10.0 % of the step" in w and "may be chance" in w for w in some["warnings"])
    sure = summary([0.09] * 30)
    assert sure["phase_residual_ci"] == [pytest.approx(10.0)] * 2
    assert any("unexplained" in w and "chance" not in w for w in sure["warnings"])
    few = summary([0.09] * 5)
    assert few["phase_residual_ci"] is None and "fewer than 6" in few["reasons"]["phase_residual_ci"]
    assert any("too few pairs" in w for w in few["warnings"])


@settings(deadline=None)
@given(n=st.integers(1, 400))
def test_the_interval_of_a_median_holds_it_in_95_of_100(n):
    from scipy.stats import binom

    rank = trust._median_rank(n)
    assert (rank is None) == (n < trust.LEAST_PAIRS)
    if rank is not None:
        assert 2 * binom.cdf(rank, n, 0.5) <= 0.05 < 2 * binom.cdf(rank + 1, n, 0.5)


def test_the_first_token_and_the_others():
    made = record(stage="eval", phases={"input_s": [0.0] * 2, "prefill_s": [0.02, 0.04], "decode_s": [0.1, 0.2]})
    made["samples"] |= {"paired_decode_steps": [5, 10], "step_generated_tokens": [40] * 4}
    (cell,) = summarise([made])
    assert cell["ttft_ms"] == pytest.approx(30.0) and cell["tpot_ms"] == pytest.approx(20.0)
    assert cell["generated_tokens_per_s"] == pytest.approx(400.0)
    assert inference_table([cell]).rows[0][-3:] == (cell["ttft_ms"], cell["tpot_ms"], cell["generated_tokens_per_s"])
    (other,) = summarise([record()])
    assert other["ttft_ms"] is None and other["reasons"]["ttft_ms"] and inference_table([other]).rows == ()


def test_the_cache_of_a_generation_is_shown_or_says_why_not():
    def eval_record(**memory):
        phases = {"input_s": [0.0], "prefill_s": [0.02], "decode_s": [0.1]}
        return record(stage="eval", phases=phases, memory={"peak_mib": 1.0, **memory})

    cells = summarise([eval_record(kv_cache_mib=3.0), eval_record(kv_cache_mib=3.0) | {"repeat": 1}])
    table = inference_table(cells)
    assert dict(zip([c.name for c in table.columns], table.rows[0], strict=True))["KV cache"] == 3.0
    (cell,) = summarise([eval_record(kv_cache_mib=None)])
    assert cell["kv_cache_mib"] is None and "does not say" in cell["reasons"]["kv_cache_mib"]
    (cell,) = summarise([record()])
    assert cell["kv_cache_mib"] is None and cell["reasons"]["kv_cache_mib"] == "not a cell that generates"


def test_what_tokens_and_training_cost():
    training = {"steps": 10, "seconds": 1800.0, "tokens": 5, "loss": []}
    made = record(training=training) | {"budget": {"ci_pct": 2.0, "price_per_hour": 3.6}}
    (cell,) = summarise([made])
    assert cell["tokens_per_s"] == pytest.approx(500.0)
    assert cell["cost_per_million_tokens"] == pytest.approx(1e6 / 500 / 3600 * 3.6)
    assert cell["cost_of_training"] == pytest.approx(1.8) and cell["price_per_hour"] == 3.6
    assert cell["reasons"]["cost_per_million_generated_tokens"] == "not a cell that generates"
    row = capacity_table([cell]).rows[0]
    assert row[-4:-1] == (3.6, cell["cost_per_million_tokens"], cell["cost_of_training"])
    (cell,) = summarise([record(stage="eval") | {"budget": made["budget"]}])
    assert cell["cost_of_training"] is None and cell["reasons"]["cost_of_training"] == "the cell does not train"


def test_without_a_price_nothing_costs_anything_known():
    (cell,) = summarise([record(training={"seconds": 9.0})])
    for name in ("price_per_hour", "cost_per_million_tokens", "cost_of_training"):
        assert cell[name] is None and "price_per_hour" in cell["reasons"][name]
    assert capacity_table([cell]).rows == ()


def test_the_largest_batch_and_why_it_is_not_known():
    found = {"largest_batch": 12, "largest_batch_tried": [[8, True], [16, False], [12, True]]}
    (cell,) = summarise([record(memory=found), record(repeat=1)])
    assert cell["largest_batch"] == 12 and cell["largest_batch_tried"][1] == [16, False]
    assert capacity_table([cell]).rows[0][-6:-4] == (16, 12)
    stopped = {"largest_batch": None, "largest_batch_tried": [[8, True]], "largest_batch_reason": "stopped"}
    (cell,) = summarise([record(memory=stopped)])
    assert cell["reasons"]["largest_batch"] == "stopped" and capacity_table([cell]).rows[0][-1] == "stopped"
    (cell,) = summarise([record()])
    assert "not searched" in cell["reasons"]["largest_batch"] and "largest_batch_tried" in cell["reasons"]


def test_energy_is_of_the_clean_pass_and_null_says_why():
    metered = record(energy={"joules": 8.0, "seconds": 0.4, "source": "RAPL", "reason": None})
    (cell,) = summarise([metered])
    assert cell["energy_j_per_step"] == 2.0 and cell["tokens_per_joule"] == 200 / 8 and cell["energy_source"] == "RAPL"
    (cell,) = summarise([record(energy={"joules": None, "source": None, "reason": "no counter"})])
    assert cell["energy_j_per_step"] is None and cell["reasons"]["energy_j_per_step"] == "no counter"


def test_compiling_pays_off_against_the_same_cell_not_compiled():
    eager, made = record(), record(step_s=(0.05,) * 4, compilation={"compile_s": 10.0})
    made = {**made, "cell": {**made["cell"], "compile": True}, "cell_id": "compiled"}
    cells = summarise([eager, made])
    assert cells[1]["compile_pays_off_steps"] == pytest.approx(200.0)
    assert cells[0]["compile_pays_off_steps"] is None and cells[0]["reasons"]["compilation"]
    other = {**eager, "cell": {**eager["cell"], "workers": 2}, "cell_id": "other"}
    assert summarise([eager, made, other])[1]["compile_pays_off_steps"] == pytest.approx(200.0)
    (_, alone) = summarise([other, made])
    assert "not in this run" in alone["reasons"]["compile_pays_off_steps"]
    (alone,) = summarise([made])
    assert "not in this run" in alone["reasons"]["compile_pays_off_steps"]


def test_the_tables_show_them():
    run = Run("demo", [traced()], {}, ceilings())
    cells = summarise(run.records, None, run.ceilings)
    table = hardware_table(cells)
    values = dict(zip([c.name for c in table.columns], table.rows[0], strict=True))
    assert values["of peak"] == pytest.approx(30.0) and values["MFU"] is None
    assert values["time by operator class"].startswith("input 60, elementwise 20")
    limits = limits_table(run).rows
    assert limits[0] == ("cpu", "matmul fp32", pytest.approx(1.0), pytest.approx(10.0), "GFLOP/s", None)
    assert [r[1] for r in limits] == ["matmul fp32", "memory, dram"]
