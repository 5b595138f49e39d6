"""The roofline: by hand, and what holds for any work on any machine."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.analysis import roofline
from llmbench.analysis.roofline import Range, bandwidth_at, bandwidth_pct, positions

UNKNOWN = [None, 0.0, -1.0, math.inf, math.nan]
LEVELS = [
    {"level": "memory", "capacity_bytes": None, "triad_bytes_per_s": {"value": 25e9, "low": 20e9, "high": 28e9}},
    {"level": "L2", "capacity_bytes": 1e6, "triad_bytes_per_s": {"value": 100e9, "low": 90e9, "high": 110e9}},
    {"level": "L3", "capacity_bytes": 10e6, "triad_bytes_per_s": {"value": 50e9, "low": 45e9, "high": 55e9}},
]
PEAKS = {"fp32": {"value": 1e11, "low": 0.9e11, "high": 1.1e11}}

amounts = st.floats(0, 1e18)
rates = st.floats(1e3, 1e18)
times = st.floats(1e-9, 1e6)


def row(flops=0, bytes_=8e5, calls=1, phase="forward", kind="matmul", dtype="float32"):
    return {
        "phase": phase,
        "operator_class": kind,
        "name": "aten::mm",
        "dtype": dtype if flops else "",
        "calls": calls,
        "flops": flops,
        "recomputed_flops": 0,
        "bytes": bytes_,
    }


# --- by hand --------------------------------------------------------------------------------------------


def test_one_piece_of_work():
    assert roofline.arithmetic_intensity(100, 50) == 2
    assert roofline.attainable_flops_per_s(2, 1000, 100) == 200
    assert roofline.attainable_flops_per_s(20, 1000, 100) == 1000
    assert (
        roofline.roofline_s(1000, 50, 1000, 100) == 1.0 and roofline.limiting_resource(1000, 50, 1000, 100) == "compute"
    )
    assert roofline.roofline_s(100, 50, 1000, 100) == 0.5 and roofline.limiting_resource(100, 50, 1000, 100) == "memory"
    assert roofline.mfu_pct(300, 2.0, 1000) == 15.0
    assert roofline.hfu_pct(400, 2.0, {"value": 1000}) == 20.0
    assert roofline.ceiling_pct(90, 1.0, {"value": 100, "low": 90, "high": 120}) == Range(90.0, 75.0, 100.0)


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_unknown_ceilings_give_none(unknown):
    assert roofline.mfu_pct(1.0, 1.0, unknown) is None
    assert roofline.mfu_pct(None, 1.0, 1.0) is None
    assert roofline.mfu_pct(1.0, unknown, 1.0) is None
    assert roofline.ceiling_pct(1.0, 1.0, {"value": unknown, "low": 1, "high": 1}) is None
    assert roofline.attainable_flops_per_s(1.0, unknown, 1.0) is None
    assert roofline.attainable_flops_per_s(1.0, 1.0, unknown) is None
    assert roofline.roofline_s(1.0, 1.0, unknown, 1.0) is None
    assert roofline.limiting_resource(1.0, 1.0, 1.0, unknown) is None
    assert roofline.arithmetic_intensity(1.0, unknown) is None
    assert bandwidth_pct(1.0, 1.0, 1.0, [{"level": "memory", "capacity_bytes": None, "x_bytes_per_s": unknown}]) is None
    assert bandwidth_pct(1.0, 1.0, 1.0, []) is None


def test_no_work_has_no_bound():
    assert roofline.limiting_resource(0, 0, 1.0, 1.0) is None


@pytest.mark.parametrize(
    ("size", "level", "gigabytes_per_s"),
    [
        (0, "L2", 100),
        (1e6, "L2", 100),
        (2e6, "L3", 2e6 / (1e6 / 100 + 1e6 / 50)),  # half of it may be in L2
        (10e6, "L3", 10e6 / (1e6 / 100 + 9e6 / 50)),
        (1e12, "memory", 25),
    ],
)
def test_the_level_that_a_working_set_fits(size, level, gigabytes_per_s):
    assert roofline.memory_level(size, LEVELS) == level
    assert bandwidth_at(size, LEVELS).value == pytest.approx(gigabytes_per_s * 1e9, rel=1e-3)


def test_a_level_is_as_fast_as_its_best_kernel_and_as_any_level_behind_it():
    levels = [
        {"level": "L2", "capacity_bytes": 100, "triad_bytes_per_s": 10.0, "copy_bytes_per_s": None},
        {"level": "memory", "capacity_bytes": None, "triad_bytes_per_s": 5.0, "read_bytes_per_s": 20.0},
    ]
    assert bandwidth_at(50, levels).value == 20.0
    assert bandwidth_at(50, levels[:1]).value == 10.0
    assert bandwidth_at(5000, levels[:1]).value == 10.0  # nothing is known beyond


def test_positions_of_classes_and_phases():
    rows = [row(flops=1e9), row(bytes_=8e6, calls=10, kind="elementwise"), row(flops=3e9, phase="backward")]
    spent = [
        {"phase": "forward", "operator_class": "matmul", "name": "aten::mm", "seconds": 0.02},
        {"phase": "forward", "operator_class": "elementwise", "name": "aten::add", "seconds": 0.01},
        {"phase": "forward", "operator_class": "host", "name": "host", "seconds": 0.01},
    ]
    found = {(p.phase, p.operator_class): p for p in positions(rows, spent, PEAKS, LEVELS)}
    assert set(found) == {
        *((("forward", k)) for k in ("matmul", "elementwise", "all")),
        *((("backward", k)) for k in ("matmul", "all")),
    }
    matmul, small, whole = (found["forward", kind] for kind in ("matmul", "elementwise", "all"))
    assert (matmul.bound, small.bound, whole.bound) == ("compute", "memory", "compute")
    assert matmul.roofline_s == pytest.approx(0.01) and matmul.ceiling_pct.value == pytest.approx(50)
    assert matmul.intensity == 1250 and matmul.attainable_flops_per_s == pytest.approx(1e11)
    assert small.bandwidth_pct.value == pytest.approx(100 * 8e6 / 100e9 / 0.01)  # a call moves 0.8 MB: L2
    assert whole.seconds == pytest.approx(0.04) and whole.roofline_s == pytest.approx(0.01 + 8e-5)
    assert whole.ceiling_pct.value == pytest.approx(25)
    backward = found["backward", "matmul"]
    assert backward.seconds is None and backward.ceiling_pct is None and backward.roofline_s == pytest.approx(0.03)


def test_position_of_a_whole_step():
    rows = [row(flops=1e9), row(flops=3e9, phase="backward")]
    step = roofline.step_position(rows, 0.08, PEAKS, LEVELS)
    assert (step.phase, step.operator_class, step.flops) == ("all", "all", 4e9)
    assert step.ceiling_pct == Range(*(pytest.approx(v) for v in (50, 100 * 4e9 / 1.1e11 / 0.08, 100 / 1.8)))
    assert step.bandwidth_pct.value == pytest.approx(100 * 1.6e6 / 100e9 / 0.08)
    assert roofline.step_position(rows, None, PEAKS, LEVELS).ceiling_pct is None


def test_positions_without_ceilings_are_none_but_keep_counts():
    (matmul, whole) = positions([row(flops=10, bytes_=5)], None, {}, [])
    assert (matmul.flops, matmul.bytes, matmul.intensity) == (10, 5, 2)
    assert all(
        getattr(p, name) is None
        for p in (matmul, whole)
        for name in ("bound", "roofline_s", "attainable_flops_per_s", "ceiling_pct", "bandwidth_pct", "seconds")
    )


def test_each_precision_has_its_own_peak():
    rows = [row(flops=1e9), row(flops=1e9, dtype="bfloat16")]
    peaks = {"fp32": 1e9, "tf32": 2e9, "bf16": 4e9}
    memory = [{"level": "memory", "capacity_bytes": None, "triad_bytes_per_s": 1e12}]
    assert positions(rows, None, peaks, memory)[0].roofline_s == pytest.approx(1.25)
    assert positions(rows, None, peaks, memory, float32_as="tf32")[0].roofline_s == pytest.approx(0.75)
    assert positions([row(flops=1, dtype="int4")], None, peaks, memory)[0].roofline_s is None


# --- for any work on any machine ------------------------------------------------------------------------

ceilings = st.one_of(
    st.none(),
    rates,
    st.tuples(rates, st.floats(0.5, 1), st.floats(1, 2)).map(
        lambda t: {"value": t[0], "low": t[0] * t[1], "high": t[0] * t[2]}
    ),
)
levels = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(1e3, 1e12)), ceilings, ceilings), min_size=0, max_size=4
).map(
    lambda found: [
        {"level": f"M{i}", "capacity_bytes": c, "triad_bytes_per_s": t, "copy_bytes_per_s": u}
        for i, (c, t, u) in enumerate(found)
    ]
)
works = st.lists(
    st.builds(
        row,
        flops=st.integers(0, 10**15),
        bytes_=st.integers(1, 10**12),
        calls=st.integers(1, 1000),
        phase=st.sampled_from(["forward", "backward"]),
        kind=st.sampled_from(["matmul", "copy"]),
        dtype=st.sampled_from(["float32", "bfloat16"]),
    ),
    min_size=1,
    max_size=6,
)


@given(amounts, amounts, rates, rates)
def test_the_roofline_is_one_line(flops, bytes_, peak, bandwidth):
    least_s = roofline.roofline_s(flops, bytes_, peak, bandwidth)
    assert least_s >= flops / peak and least_s >= bytes_ / bandwidth
    intensity = roofline.arithmetic_intensity(flops, bytes_)
    if intensity is not None and min(flops, bytes_) >= 1 and 1e-100 < intensity < 1e100:
        roof = roofline.attainable_flops_per_s(intensity, peak, bandwidth)
        assert flops / least_s == pytest.approx(roof) and roof <= peak
        assert roofline.mfu_pct(flops, least_s, peak) <= 100 * (1 + 1e-9)
        assert (roofline.limiting_resource(flops, bytes_, peak, bandwidth) == "compute") == (
            flops / peak >= bytes_ / bandwidth
        )


@given(amounts, times, ceilings)
def test_percentages_are_finite_ordered_and_proportional(amount, seconds, ceiling):
    share = roofline.percent_of(amount, seconds, ceiling)
    assert (share is None) == (ceiling is None)
    if share is not None:
        assert 0 <= share.low <= share.value <= share.high < math.inf
        assert roofline.percent_of(amount, 2 * seconds, ceiling).value == pytest.approx(share.value / 2)


@given(st.floats(1, 1e13), st.floats(1, 1e13), levels)
def test_bandwidth_falls_with_the_working_set_and_stays_between_the_levels(a, b, found):
    near, far = bandwidth_at(min(a, b), found), bandwidth_at(max(a, b), found)
    if near is None or far is None:
        assert near is far is None
        return
    assert near.value >= far.value * (1 - 1e-9)
    assert near.low <= near.value * (1 + 1e-9) and near.value <= near.high * (1 + 1e-9)
    speeds = [
        estimate.value
        for level in found
        for key in ("triad_bytes_per_s", "copy_bytes_per_s")
        if (estimate := roofline.range_of(level[key])) is not None
    ]
    assert far.value >= min(speeds) * (1 - 1e-9) and near.value <= max(speeds) * (1 + 1e-9)


@given(works, levels, st.fixed_dictionaries({"fp32": ceilings, "bf16": ceilings}), st.floats(1, 10))
def test_what_runs_no_faster_than_the_machine_never_exceeds_100_per_cent(rows, found, peaks, slower):
    bare = positions(rows, None, peaks, found)
    spent = [
        {"phase": p.phase, "operator_class": p.operator_class, "name": "x", "seconds": p.roofline_s * slower}
        for p in bare
        if p.roofline_s and p.operator_class != roofline.ALL
    ]
    for p in positions(rows, spent, peaks, found):
        complete = all(
            q.roofline_s for q in bare if q.phase == p.phase and p.operator_class in (q.operator_class, roofline.ALL)
        )
        for share in (p.ceiling_pct, p.bandwidth_pct):
            assert share is None or not complete or share.value <= 100 * (1 + 1e-9)
        numbers = [v for v in dataclasses.astuple(p) if isinstance(v, float)]
        assert all(math.isfinite(v) for v in numbers)
