"""Sampling with a made-up clock, the operations with torch, and one short calibration of this machine's CPU."""

from __future__ import annotations

import json
import math
import os
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmbench.analysis.roofline import bandwidth_at
from llmbench.contract.ceilings import MODES as NAMED_MODES
from llmbench.contract.ceilings import OPERATIONS, matmul_peak
from llmbench.contract.errors import SuiteError, Unsupported
from llmbench.records.json_lines import dump_json
from llmbench.worker.ceilings import all_cores, bandwidth, calibrate, matmul, timing, transfers
from llmbench.worker.ceilings.all_cores import joint_rates
from llmbench.worker.ceilings.sampling import Candidate, best_estimate, estimate, lower_rank, rounds, sweep

CPU = torch.device("cpu")
RATES = st.lists(st.floats(1e-3, 1e15), min_size=1, max_size=60)


class Clock:
    """A clock that only moves when something is done."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def candidate(self, rate, work=1e6, stalls=(), name=None):
        """Return what does `work` at `rate` per second; `stalls` are (from, to) in which nothing is done."""

        def time_s(calls):
            start_s = self.now_s
            if not stalls:
                self.now_s += calls * work / rate
                return self.now_s - start_s
            for _ in range(calls):
                self.now_s += work / rate
                for begin, end in stalls:
                    if begin <= self.now_s < end:
                        self.now_s = end
            return self.now_s - start_s

        return Candidate({"name": name}, work, time_s)


# --- estimates ---


@given(RATES)
def test_an_estimate_lies_within_its_interval_and_the_samples(rates):
    for of_times in (False, True):
        found = estimate(rates, of_times=of_times)
        assert min(rates) * (1 - 1e-9) <= found["value"] <= max(rates) * (1 + 1e-9)
        assert found["samples"] == len(rates)
        if len(rates) == 1:
            assert found["low"] is found["high"] is None
        else:
            assert found["low"] <= found["value"] * (1 + 1e-9) and found["value"] <= found["high"] * (1 + 1e-9)


@given(st.lists(st.floats(1.0, 2.0), min_size=10, max_size=60), st.floats(10.0, 1000.0), st.data())
def test_stalls_lower_no_ceiling_while_some_samples_are_clean(clean, slowdown, data):
    """However long the slow samples took, with a tenth of clean ones on top the value does not leave their range."""
    stalled = data.draw(st.lists(st.floats(1e-3, 1.0), max_size=5 * len(clean)))
    assert estimate([*clean, *(rate / slowdown for rate in stalled)])["value"] >= min(clean)


def test_the_fast_end_is_high_for_rates_and_low_for_times():
    values = [float(v) for v in range(1, 101)]
    rates, times = estimate(values), estimate(values, of_times=True)
    assert rates["value"] == pytest.approx(95.05) and rates["high"] == 100.0 and 85 <= rates["low"] < 95
    assert times["low"] == 1.0 < times["value"] < times["high"] < 20
    assert rates["median"] == pytest.approx(50.5)


def test_the_lower_rank_covers_the_percentile():
    """By definition: P(at least rank of n samples below the percentile) >= 97.5 %, and the next rank is too much."""
    for n in (60, 100, 200):
        tail = [sum(math.comb(n, k) * 0.95**k * 0.05 ** (n - k) for k in range(r, n + 1)) for r in range(n + 1)]
        rank = lower_rank(n)
        assert tail[rank] >= 0.975 > tail[rank + 1]
    assert lower_rank(1) == 1


@pytest.mark.parametrize("bad", [[], [0.0], [1.0, -1.0], [math.inf], [math.nan]])
def test_no_ceiling_is_zero_or_infinite(bad):
    with pytest.raises(ValueError, match="samples"):
        estimate(bad)


def test_the_fastest_candidate_speaks_and_the_fastest_sample_bounds():
    clock = Clock()
    slow, fast = clock.candidate(1.0, name="slow"), clock.candidate(1.0, name="fast")
    found = best_estimate([slow, fast], [[1.0] * 99 + [9.0], [5.0] * 100], mode="m")
    assert (found["name"], found["value"], found["high"], found["mode"]) == ("fast", 5.0, 9.0, "m")


# --- taking samples ---


@given(st.floats(1e3, 1e12), st.floats(1e-7, 1.0))
def test_a_meter_measures_the_rate_in_samples_of_the_right_length(rate, call_s):
    clock, work = Clock(), rate * call_s
    meter = clock.candidate(rate, work).meter(0.001)
    found = meter.burst(0.02, clock)
    assert len(found) >= 2 and found == pytest.approx([rate] * len(found), rel=1e-6)
    length_s = meter.calls * call_s
    assert length_s >= 0.00049
    assert length_s <= 0.0021 or meter.calls == 1


def test_a_stall_at_the_start_does_not_fix_the_number_of_calls():
    clock = Clock()
    meter = clock.candidate(1e9, work=1e3, stalls=[(0.0, 0.5)]).meter(0.001)
    meter.burst(0.01, clock)
    assert meter.calls > 100
    assert estimate(meter.rates)["value"] == pytest.approx(1e9)


def test_a_clock_that_stands_still_is_an_error():
    with pytest.raises(ValueError, match="clock"):
        Candidate({}, 1.0, lambda calls: 0.0).meter(0.001).burst(0.01, lambda: 0.0)


def scales_of(clock, rate_of, edges):
    for edge in edges:
        yield [clock.candidate(rate_of(edge), work=2.0 * edge**3, name=edge)]


def test_a_sweep_ends_when_the_rate_saturates():
    clock, tried = Clock(), []

    def rate_of(edge):
        tried.append(edge)
        return 1e12 * min(1.0, edge / 1024)

    swept = sweep(scales_of(clock, rate_of, [256, 512, 1024, 2048, 4096, 8192]), 100.0, clock, 0.001)
    assert swept.ending == "saturated"
    assert tried == [256, 512, 1024, 2048, 4096]  # two scales in a row without gain, and no more
    assert swept.fastest[0].facts["name"] >= 1024


@pytest.mark.parametrize("budget_s, ending", [(0.2, "budget"), (1e6, "largest")])
def test_a_sweep_ends_with_its_budget_or_its_scales(budget_s, ending):
    clock = Clock()
    swept = sweep(scales_of(clock, lambda edge: 1e6 * edge, [256, 512, 1024, 2048]), budget_s, clock, 0.001)
    assert swept.ending == ending
    assert swept.fastest and swept.fastest[0].facts["name"] == (2048 if ending == "largest" else 256)
    assert clock() < 2 * budget_s + 1.0


def test_one_bad_scale_is_not_saturation():
    clock = Clock()
    rates = {256: 1e9, 512: 0.5e9, 1024: 4e9, 2048: 4e9, 4096: 4e9}
    swept = sweep(scales_of(clock, rates.get, rates), 1e6, clock, 0.001)
    assert swept.fastest[0].facts["name"] >= 1024 and swept.ending == "saturated"


def test_a_sweep_keeps_the_two_fastest_of_all_shapes():
    clock = Clock()
    shapes = [[clock.candidate(rate, name=rate) for rate in (1e9, 3e9, 2e9)]]
    assert [c.facts["name"] for c in sweep(shapes, 1.0, clock, 0.001).fastest] == [3e9, 2e9]
    assert sweep([], 1.0, clock, 0.001).fastest == ()


def test_a_stall_of_seconds_spoils_a_round_and_no_quantity():
    clock = Clock()
    stall = [(1.0, 4.0)]
    found = rounds(
        {name: [clock.candidate(rate, stalls=stall)] for name, rate in (("a", 1e9), ("b", 2e9))}, 6.0, clock, 0.001
    )
    assert estimate(found["a"][0])["value"] == pytest.approx(1e9)
    assert estimate(found["b"][0])["value"] == pytest.approx(2e9)
    assert 5.0 <= clock() <= 7.0


def test_every_candidate_gets_a_round_without_any_time():
    clock = Clock()
    found = rounds({"a": [clock.candidate(1e9), clock.candidate(2e9)]}, 0.0, clock, 0.001)
    assert all(len(rates) >= 2 for rates in found["a"])


# --- teams ---


def test_joint_rates_add_what_happens_at_the_same_moment():
    first = [(0.0, 1.0, 10.0), (1.0, 2.0, 10.0), (5.0, 6.0, 10.0)]
    second = [(0.4, 1.2, 7.0), (1.2, 3.0, 1.0)]
    assert joint_rates([first, second]) == [17.0, 11.0, 10.0]  # at 0.5, 1.5 and 5.5
    assert joint_rates([first]) == [10.0, 10.0, 10.0]
    assert joint_rates([[], second]) == []


@given(st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(0.1, 9.0)), max_size=20), st.integers(1, 4))
def test_a_team_is_never_faster_than_its_members_together(lengths, members):
    spans, now_s = [], 0.0
    for length_s, rate in lengths:
        spans.append((now_s, now_s + length_s, rate))
        now_s += length_s
    peak = max((rate for _, rate in lengths), default=0.0)
    assert all(rate <= members * peak * (1 + 1e-9) for rate in joint_rates([spans] * members))


def test_a_team_reports_what_goes_wrong_in_a_thread():
    def fails():
        raise RuntimeError("no kernel")

    team = all_cores.Team({}, 1.0, (fails, lambda: None), lambda i: None)
    with pytest.raises(RuntimeError, match="no kernel"):
        team.meter(0.001).burst(0.01, time.perf_counter)


def test_members_have_cores_of_their_own(tmp_path):
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(siblings + "\n")
    assert timing.separate_cpus(tmp_path, [0, 1, 2, 3]) == [0, 1, 2, 3]
    assert timing.separate_cpus(tmp_path, [0, 2, 3]) == [0, 3, 2]
    assert timing.separate_cpus(tmp_path / "none", [5, 4]) == [4, 5]


def test_a_team_leaves_the_process_as_it_was():
    before = torch.get_num_threads(), os.sched_getaffinity(0)
    timing.team({}, 1.0, [lambda: torch.ones(1000)] * 2).meter(0.0005).burst(0.01, time.perf_counter)
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == before


# --- memory ---


def cache_tree(root, cpus):
    for cpu in range(cpus):
        rows = [
            (0, "1", "Data", "32K", str(cpu)),
            (1, "1", "Instruction", "32K", str(cpu)),
            (2, "2", "Unified", "1024K", str(cpu)),
            (3, "3", "Unified", "32M", f"0-{cpus - 1}"),
        ]
        for index, *values in rows:
            folder = root / f"cpu{cpu}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
                (folder / name).write_text(value + "\n")


def test_caches_count_once_per_core_that_has_one(tmp_path):
    cache_tree(tmp_path, 4)
    found = bandwidth.cpu_caches(4, tmp_path, range(4))
    assert found == [("L1", 4 * 32 << 10), ("L2", 4 << 20), ("L3", 32 << 20)]
    assert bandwidth.cpu_caches(2, tmp_path, range(4))[1] == ("L2", 2 << 20)
    assert bandwidth.cpu_caches(2, tmp_path / "none", range(4)) == []


@given(
    st.lists(st.integers(10, 30), min_size=0, max_size=4, unique=True).map(sorted),
    st.floats(1e9, 1e12),
)
def test_a_working_set_fits_its_level_and_not_the_one_before(exponents, available):
    caches = [(f"L{i}", 1 << e) for i, e in enumerate(exponents)]
    *inner, main = bandwidth.levels(caches, 1e12, available)
    before = 0
    for one in inner:
        assert before < one.working_set_bytes <= 0.75 * one.capacity_bytes
        before = one.capacity_bytes
    assert main.name == "dram"
    assert main.working_set_bytes <= 0.2 * available
    assert main.working_set_bytes >= min(12 * before, 0.19 * available, 3 << 30)


@pytest.mark.parametrize("operation, arrays", bandwidth.ARRAYS.items())
def test_bytes_are_counted_as_stream_counts_them(operation, arrays):
    elements = 3000 // 16 * 16
    _, work = bandwidth._contiguous(4 * arrays * elements, operation, CPU)
    assert work == {"triad": 12, "copy": 8, "read": 4}[operation] * elements


@pytest.mark.parametrize("operation", bandwidth.ARRAYS)
@pytest.mark.parametrize("size", [16 << 10, 512 << 10])
def test_a_cached_pass_touches_no_more_than_its_working_set(operation, size, monkeypatch):
    seen = {}
    monkeypatch.setattr(bandwidth, "perform", lambda op, arrays: seen.update(arrays=arrays))
    _, work = bandwidth._repeat_in_cache(size, operation)
    arrays = seen["arrays"]
    assert len(arrays) == bandwidth.ARRAYS[operation]
    assert 0.9 * size <= sum(a.untyped_storage().nbytes() for a in arrays) <= size
    assert work == 4 * sum(a.numel() for a in arrays) >= 0.5 * bandwidth.CALL_BYTES["cpu"]


def test_the_operations_compute_what_they_say():
    a, b, c = torch.zeros(5), torch.arange(5.0), torch.ones(5)
    bandwidth.perform("triad", [a, b, c])()
    assert a.tolist() == [3.0, 4.0, 5.0, 6.0, 7.0]
    bandwidth.perform("copy", [a, b])()
    assert a.tolist() == b.tolist()
    assert float(bandwidth.perform("read", [b])()) == 10.0


def test_main_memory_is_read_piece_after_piece(monkeypatch):
    places = []
    monkeypatch.setattr(bandwidth, "perform", lambda op, arrays: lambda: places.append(arrays[0].storage_offset()))
    op, work = bandwidth._take_pieces([torch.empty(50 << 20)], "read", 64 << 20)
    for _ in range(4):
        op()
    assert work == 64 << 20
    assert places == [0, (64 << 20) // 4, 2 * (64 << 20) // 4, 0]


# --- matmuls, transfers ---


def test_modes_that_the_device_lacks_have_a_reason():
    assert set(matmul.MODES) == set(NAMED_MODES)
    assert {mode for mode in matmul.MODES if matmul.missing(mode, CPU)} == {"tf32", "fp8", "int8"}


@pytest.mark.parametrize(
    "capability, lacking", [((7, 0), {"tf32", "fp8", "int8"}), ((8, 0), {"fp8"}), ((8, 9), set()), ((9, 0), set())]
)
def test_cuda_capability_decides_the_modes(monkeypatch, capability, lacking):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda:0")
    assert {mode for mode in matmul.MODES if matmul.missing(mode, device)} == lacking


@given(st.sampled_from([256, 1024, 4096]))
def test_all_shapes_of_a_scale_are_the_same_work(scale):
    assert {m * n * k for m, n, k in matmul.shapes(scale)} == {scale**3}


def test_a_sweep_stops_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(matmul, "free_bytes", lambda device: 56 * 512**2)
    assert [one[0].facts["shape"] for one in matmul.scales("fp32", CPU)] == [[256] * 3, [512] * 3]
    monkeypatch.setattr(matmul, "free_bytes", lambda device: 0.0)
    assert list(matmul.scales("fp32", CPU)) == []


def test_a_matmul_is_its_operands_product():
    assert matmul.candidate("bf16", (8, 4, 16), CPU).work == 2 * 8 * 4 * 16
    assert matmul.operation("bf16", (8, 4, 16), CPU)().shape == (8, 4)
    assert matmul.operation("bf16", (8, 4, 16), CPU)().dtype == torch.bfloat16


@pytest.mark.parametrize("on", [True, False])
def test_tf32_is_on_for_its_matmuls_alone(on):
    seen = []
    before = torch.backends.cuda.matmul.allow_tf32
    matmul._with_tf32(lambda calls: seen.append(torch.backends.cuda.matmul.allow_tf32) or 1.0, on)(1)
    assert seen == [on] and torch.backends.cuda.matmul.allow_tf32 == before


def test_threads_are_put_back():
    before, seen = torch.get_num_threads(), []
    timing.with_threads(lambda calls: seen.append(torch.get_num_threads()) or 1.0, 1)(1)
    assert seen == [1] and torch.get_num_threads() == before


def test_a_cpu_copies_nothing_and_says_so():
    found, reasons = transfers.copies(CPU, 0.01, lambda: 0.0)
    paths = {f"{outer}.{inner}" for outer, kinds in found.items() for inner, value in kinds.items() if value is None}
    assert len(paths) == 4 and paths == set(reasons)


def test_storage_is_read_and_nothing_is_left(tmp_path):
    found, why_not = transfers.storage(str(tmp_path / "new"), size=1 << 23)
    assert why_not is None and found["samples"] == transfers.FILE_PASSES and found["bytes"] == 1 << 23
    assert found["value"] > 0
    assert (found["cache_dropped"] is True) == ("note" not in found)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_system_in_memory_is_seen():
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no file system in memory here")
    assert transfers.storage("/dev/shm", size=1 << 23)[0]["cache_dropped"] is not True


def test_storage_that_cannot_be_written_has_a_reason():
    found, why_not = transfers.storage("/proc/llmbench")
    assert found is None and why_not


# --- all of it ---


@pytest.fixture(scope="module")
def ceilings(tmp_path_factory):
    return calibrate.measure_ceilings(
        "cpu", [{"name": "mine", "autocast": "bfloat16"}], 0.3, str(tmp_path_factory.mktemp("c"))
    )


def quantities(doc):
    flat = {f"matmul.{mode}": doc["matmul"][mode] for mode in doc["matmul"]}
    flat |= {
        f"{level['level']}.{op}": level[f"{op}_bytes_per_s"] for level in doc["memory_levels"] for op in OPERATIONS
    }
    flat |= {f"{way}.{kind}": e for way in ("host_to_device", "device_to_host") for kind, e in doc[way].items()}
    names = ("launch_latency_s", "round_trip_s", "storage_read_bytes_per_s", "allreduce_bytes_per_s")
    return flat | {name: doc[name] for name in names}


def test_every_quantity_is_an_interval_or_has_a_reason(ceilings):
    found = quantities(ceilings)
    for name, one in found.items():
        if one is None:
            assert ceilings["reasons"][name]
        else:
            assert 0 < one["low"] <= one["value"] <= one["high"] < math.inf and one["samples"] >= 2, name
            assert name not in ceilings["reasons"]
    assert json.loads(dump_json(ceilings)) == ceilings  # nothing that JSON would change
    assert {"matmul.fp32", "matmul.bf16", "dram.triad", "dram.copy", "dram.read"} <= {n for n, e in found.items() if e}


def test_the_numbers_belong_together(ceilings):
    assert matmul_peak(ceilings, "mine") == matmul_peak(ceilings, "bf16")
    assert torch.get_num_threads() == ceilings["threads"]


@pytest.mark.timed
def test_the_numbers_are_of_this_world(tmp_path):
    ceilings = calibrate.measure_ceilings("cpu", [], 0.3, str(tmp_path))
    assert 1e8 < matmul_peak(ceilings, "fp32")["value"] < 1e14
    main = ceilings["memory_levels"][-1]
    assert 1e8 < bandwidth_at(main["working_set_bytes"], ceilings["memory_levels"]).value < 1e13
    assert 1e-8 < ceilings["launch_latency_s"]["value"] < 1e-3
    read = ceilings["storage_read_bytes_per_s"]
    assert read is None or read["value"] > 1e6


def test_a_second_look_measures_the_same_things(ceilings):
    found = calibrate.recheck(ceilings, 0.1)
    assert set(found["matmul"]) == {mode for mode, e in ceilings["matmul"].items() if e}
    assert all(found["matmul"][mode]["shape"] == ceilings["matmul"][mode]["shape"] for mode in found["matmul"])
    assert [level["level"] for level in found["memory_levels"]] == ["dram"]


def test_bad_input_is_one_clear_line():
    with pytest.raises(ValueError, match="seconds"):
        calibrate.measure_ceilings("cpu", [], 0.0)
    with pytest.raises(SuiteError, match="device 'gpu'"):
        calibrate.measure_ceilings("gpu", [], 0.1)
    if not torch.cuda.is_available():
        with pytest.raises(Unsupported, match="no CUDA device"):
            calibrate.measure_ceilings("cuda", [], 0.1)


@pytest.mark.cuda
def test_a_gpu_has_its_ceilings(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    doc = calibrate.measure_ceilings("cuda:0", [], 5.0, str(tmp_path))
    assert doc["matmul"]["bf16"]["value"] > 2 * doc["matmul"]["fp32"]["value"]
    assert [level["level"] for level in doc["memory_levels"]] == ["L2", "dram"]
    assert all(doc[way][kind]["value"] > 1e8 for way in ("host_to_device", "device_to_host") for kind in doc[way])
    assert doc["round_trip_s"]["value"] > doc["launch_latency_s"]["value"]
