"""Reading, keeping and showing ceilings; the datasheet. No torch."""

from __future__ import annotations

import copy
import datetime
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.contract import ceilings
from llmbench.execution import calibration
from llmbench.execution.calibration import cache_folder, cache_path, ensure, load
from llmbench.execution.worker_calls import MEASURE_CEILINGS, RECHECK_CEILINGS
from llmbench.report.formats import terminal
from llmbench.report.tables.ceilings import ceilings_tables

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
PRECISIONS = [
    {"name": "fp32"},
    {"name": "tf32", "matmul": "tf32"},
    {"name": "bf16", "autocast": "bfloat16"},
    {"name": "bf16-pure", "parameters": "bfloat16"},
    {"name": "fp16-pure", "parameters": "float16"},
    {"name": "fp8", "autocast": "bfloat16"},
    {"name": "odd", "parameters": "complex64"},
]
ENVIRONMENT = {
    "cpu": "A CPU",
    "usable_cores": 2,
    "memory_mib": 24105.5,
    "packages": {"torch": "2.13.0"},
    "torch_threads": 2,
    "devices": [{"device": "cpu", "name": "A CPU"}, {"device": "cuda:0", "name": "NVIDIA H100 80GB HBM3"}],
}
#: What torch calls devices, and the entry each has to find; None: no entry, rather than a wrong one.
REAL_NAMES = {
    "Tesla V100-SXM2-16GB": "NVIDIA V100 SXM2",
    "Tesla V100-SXM2-32GB": "NVIDIA V100 SXM2",
    "Tesla V100-PCIE-16GB": "NVIDIA V100 PCIe",
    "Tesla V100S-PCIE-32GB": "NVIDIA V100S PCIe",
    "Tesla T4": "NVIDIA T4",
    "NVIDIA A10": "NVIDIA A10",
    "NVIDIA A100-SXM4-40GB": "NVIDIA A100 SXM 40GB",
    "A100-SXM4-40GB": "NVIDIA A100 SXM 40GB",
    "NVIDIA A100-PCIE-40GB": "NVIDIA A100 PCIe 40GB",
    "NVIDIA A100-SXM4-80GB": "NVIDIA A100 SXM 80GB",
    "NVIDIA A100 80GB PCIe": "NVIDIA A100 PCIe 80GB",
    "NVIDIA L4": "NVIDIA L4",
    "NVIDIA L40S": "NVIDIA L40S",
    "NVIDIA GeForce RTX 3090": "NVIDIA GeForce RTX 3090",
    "NVIDIA GeForce RTX 4090": "NVIDIA GeForce RTX 4090",
    "NVIDIA H100 80GB HBM3": "NVIDIA H100 SXM",
    "NVIDIA H100 PCIe": "NVIDIA H100 PCIe",
    "NVIDIA H100 NVL": "NVIDIA H100 NVL",
    "NVIDIA H200": "NVIDIA H200 SXM",
    "NVIDIA B200": "NVIDIA B200",
    "NVIDIA GH200 480GB": "NVIDIA GH200 96GB HBM3",
    "NVIDIA GH200 144G HBM3e": "NVIDIA GH200 144GB HBM3e",
    "AMD Instinct MI250X": "AMD Instinct MI250X, one of its two dies (what torch sees as a device)",
    "AMD Instinct MI300X": "AMD Instinct MI300X",
    **dict.fromkeys(
        [
            *("NVIDIA A10G", "NVIDIA L40", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 D"),
            *("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H800", "NVIDIA H20"),
            *("NVIDIA H200 NVL", "NVIDIA GB200", "AMD Instinct MI250X / MI250", ""),
        ]
    ),
}


def estimate(value, spread=0.01, **facts):
    ends = {"low": value * (1 - spread), "high": value * (1 + spread), "median": value * (1 - spread)}
    return {"value": value, **ends, "samples": 20, **facts}


def level(name, capacity, triad, copied, read):
    rates = {"triad_bytes_per_s": triad, "copy_bytes_per_s": copied, "read_bytes_per_s": read}
    found = {key: None if value is None else estimate(value) for key, value in rates.items()}
    return {"level": name, "capacity_bytes": capacity, "working_set_bytes": capacity // 2, **found}


def measured(device="cpu", **changes):
    doc = {
        "device": device,
        "threads": 2,
        "seconds": 10.0,
        "estimator": "an estimator",
        "precisions": ceilings.precision_modes(PRECISIONS),
        "matmul": dict.fromkeys(ceilings.MODES)
        | {"fp32": estimate(2e11, shape=[512, 512, 512], threads=2), "bf16": estimate(4e11, shape=[512, 256, 1024])},
        "memory_levels": [
            level("L2", 2 << 20, 2e11, 2.2e11, 2.1e11),
            level("L3", 32 << 20, None, None, None),
            level("dram", 24 << 30, 3e10, 3.1e10, 5e10),
        ],
        "host_to_device": {"pinned": None, "pageable": None},
        "device_to_host": {"pinned": None, "pageable": None},
        "launch_latency_s": estimate(1e-6),
        "round_trip_s": None,
        "storage_read_bytes_per_s": estimate(1e9, bytes=1 << 26, cache_dropped=True),
        "allreduce_bytes_per_s": None,
        "reasons": {"matmul.fp8": "no fp8 here", "round_trip_s": "no trip here"},
        "other_load_pct": 0.0,
        "warnings": [],
    }
    return doc | changes


def document(device="cpu", now=NOW, **changes):
    return ceilings.complete(measured(device, **changes), ENVIRONMENT, device, now)


class Worker:
    """Stands for an executor: answers what it is told to, and keeps what it was asked."""

    def __init__(self, answer=None, again=None):
        self.answer, self.again, self.asked = answer, again, []

    def call(self, name, *args):
        self.asked.append((name, args))
        return json.loads(json.dumps({MEASURE_CEILINGS: self.answer, RECHECK_CEILINGS: self.again}[name]))

    @property
    def names(self):
        return [name for name, _ in self.asked]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ceilings"


# --- the datasheet ---


@pytest.mark.parametrize("name, entry", REAL_NAMES.items())
def test_a_real_name_matches_its_entry_and_no_other(name, entry):
    matches = [e["name"] for e in ceilings.datasheet() if re.fullmatch(e["pattern"], name)]
    assert matches == ([] if entry is None else [entry])
    found, why_not = ceilings.datasheet_entry(name, "cuda:0")
    assert (found or {}).get("name") == entry
    assert (why_not is None) == (entry is not None)


def test_every_entry_has_a_real_name_and_a_source():
    entries = ceilings.datasheet()
    assert {e["name"] for e in entries} == {name for name in REAL_NAMES.values() if name}
    assert all(e["source"] and e["memory_gb_per_s"] > 0 for e in entries)


def test_the_printed_numbers_are_dense():
    for entry in ceilings.datasheet():
        t = entry["dense_tflops"]
        assert set(t) <= set(ceilings.MODES) and "fp32" in t
        if "tf32" in t and "bf16" in t:  # with sparsity would be 4, mixed up with dense 1 or 4
            assert t["bf16"] == pytest.approx(2 * t["tf32"], rel=0.03)
            assert t["bf16"] == t["fp16"]
        if "fp8" in t:
            assert t["fp8"] == pytest.approx(2 * t["bf16"], rel=0.03)
            assert t["int8"] >= t["fp8"]
    h100 = ceilings.datasheet_entry("NVIDIA H100 80GB HBM3", "cuda:0")[0]
    assert h100["flops_per_s"]["bf16"] == pytest.approx(989.4e12)
    assert h100["flops_per_s"]["fp8"] == pytest.approx(1978.9e12)
    assert h100["memory_bytes_per_s"] == pytest.approx(3.35e12)


def test_mfu_has_no_peak_where_there_is_no_datasheet():
    cpu, gpu = document("cpu"), document("cuda:0")
    assert cpu["datasheet"] is None and cpu["reasons"]["datasheet"]
    assert ceilings.datasheet_peak(cpu, "bf16") is None
    assert ceilings.datasheet_peak(gpu, "bf16-pure") == pytest.approx(989.4e12)
    assert ceilings.datasheet_peak(gpu, "unheard of") is None


# --- reading a document ---


def test_precisions_have_the_mode_of_their_matmuls():
    modes = ceilings.precision_modes(PRECISIONS)
    assert modes["bf16-pure"] == modes["bf16"] == "bf16"
    assert (modes["tf32"], modes["fp16-pure"], modes["fp8"]) == ("tf32", "fp16", "fp8")
    assert "odd" not in modes
    assert ceilings.precision_modes([{"name": "x", "autocast": None, "matmul": "tf32"}])["x"] == "tf32"


def test_matmul_peak_of_a_precision():
    doc = document()
    assert ceilings.matmul_peak(doc, "bf16-pure")["value"] == 4e11
    assert ceilings.matmul_peak(doc, "fp8") is None
    assert ceilings.matmul_peak(doc, "unheard of") is None
    assert ceilings.matmul_peak({}, "fp32") is None


# --- age ---


@pytest.mark.parametrize(
    "age, changes, stale",
    [
        ({"days": 29}, {}, False),
        ({"days": 31}, {}, True),
        ({"minutes": 59}, {"warnings": ["busy"]}, False),
        ({"minutes": 61}, {"warnings": ["busy"]}, True),
        ({"days": -1}, {}, True),
    ],
)
def test_a_document_is_stale_after_its_time(age, changes, stale):
    assert ceilings.is_stale(document(**changes), NOW + datetime.timedelta(**age)) is stale


def test_another_version_and_a_bad_date_are_stale():
    assert ceilings.is_stale(document() | {"schema": ceilings.CEILINGS_SCHEMA + 1}, NOW)
    assert ceilings.is_stale(document() | {"measured_at": "yesterday"}, NOW)
    assert ceilings.is_stale({"schema": ceilings.CEILINGS_SCHEMA}, NOW)
    later = NOW + datetime.timedelta(days=40)
    assert not ceilings.is_stale(document() | {"checked_at": later.isoformat()}, later)


def again(factor, **changes):
    doc = measured()
    matmuls = {mode: estimate(e["value"] * factor) for mode, e in doc["matmul"].items() if e}
    return {"matmul": matmuls, "memory_levels": doc["memory_levels"][-1:], "warnings": []} | changes


@given(st.floats(0.5, 2.0))
def test_two_measurements_agree_within_their_uncertainty_and_5_percent(factor):
    wrong = ceilings.disagreements(document(), again(factor))
    inside = 0.99 / (1.01 * 1.05) <= factor <= 1.01 * 1.05 / 0.99
    assert wrong == ([] if inside else ["matmul.fp32", "matmul.bf16"])


def test_slower_beside_other_processes_says_nothing_but_faster_does():
    assert ceilings.disagreements(document(), again(0.5, warnings=["busy"])) == []
    assert ceilings.disagreements(document(), again(2.0, warnings=["busy"])) == ["matmul.fp32", "matmul.bf16"]


def test_a_level_that_has_gone_is_a_disagreement():
    renamed = [measured()["memory_levels"][-1] | {"level": "other"}]
    assert len(ceilings.disagreements(document(), again(1.0, memory_levels=renamed))) == 3


# --- identity and cache ---


def test_the_id_is_of_the_measurement():
    doc = document()
    assert doc["ceilings_id"] == ceilings.ceilings_id(doc)
    assert ceilings.ceilings_id(doc | {"checked_at": "later", "precisions": {}}) == doc["ceilings_id"]
    assert ceilings.ceilings_id(doc | {"threads": 3}) != doc["ceilings_id"]


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "B"},
        {"usable_cores": 1},
        {"memory_mib": 1024.0},
        {"packages": {"torch": "3"}},
        {"torch_threads": 1},
        {"devices": []},
    ],
)
def test_another_machine_has_another_fingerprint(change):
    assert ceilings.fingerprint(ENVIRONMENT | change) != ceilings.fingerprint(ENVIRONMENT)
    assert ceilings.fingerprint(ENVIRONMENT | {"memory_mib": 24105.9, "now": 1}) == ceilings.fingerprint(ENVIRONMENT)
    assert ceilings.fingerprint({})


def test_the_cache_is_where_it_is_said_to_be(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    assert str(cache_folder({"LLMBENCH_CACHE": "/a", "XDG_CACHE_HOME": "/b"})) == "/a"
    assert str(cache_folder({"LLMBENCH_CACHE": "", "XDG_CACHE_HOME": "/b"})) == "/b/llmbench"
    assert str(cache_folder({})) == "/home/x/.cache/llmbench"
    assert cache_path(ENVIRONMENT, "cuda:0", {"LLMBENCH_CACHE": "/a"}).name.endswith("-cuda-0.json")


def test_ceilings_are_measured_once_and_then_kept(cache):
    worker, notes = Worker(measured()), []
    first = ensure(worker, ENVIRONMENT, "cpu", notes.append, precisions=PRECISIONS, seconds=3.0)
    second = ensure(worker, ENVIRONMENT, "cpu", notes.append, precisions=PRECISIONS[:1])
    assert worker.names == [MEASURE_CEILINGS]
    assert worker.asked[0][1] == ("cpu", PRECISIONS, 3.0, str(cache))
    assert second["ceilings_id"] == first["ceilings_id"] and second["matmul"] == first["matmul"]
    assert "bf16-pure" in first["precisions"] and "bf16-pure" not in second["precisions"]
    assert [p.name for p in cache.iterdir()] == [cache_path(ENVIRONMENT, "cpu").name]
    assert len(notes) == 2
    ensure(worker, ENVIRONMENT, "cpu", notes.append, fresh=True)
    assert worker.names == [MEASURE_CEILINGS, MEASURE_CEILINGS]


def keep(cache, doc, device="cpu"):
    path = cache_path(ENVIRONMENT, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(doc))
    return path


def test_a_stale_document_is_kept_when_a_check_confirms_it(cache):
    old = document(now=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    path = keep(cache, old)
    worker = Worker(measured(), again(1.02))
    found = ensure(worker, ENVIRONMENT, "cpu", lambda _: None)
    assert worker.names == [RECHECK_CEILINGS]
    assert found["ceilings_id"] == old["ceilings_id"] and found["measured_at"] == old["measured_at"]
    assert load(path)["checked_at"] == found["checked_at"]
    assert ensure(worker, ENVIRONMENT, "cpu", lambda _: None)["ceilings_id"] == old["ceilings_id"]
    assert worker.names == [RECHECK_CEILINGS]


@pytest.mark.parametrize(
    "old, new, asked",
    [
        ({}, again(1.5), [RECHECK_CEILINGS, MEASURE_CEILINGS]),
        ({"warnings": ["busy"]}, again(1.0), [RECHECK_CEILINGS, MEASURE_CEILINGS]),  # quiet now: worth measuring
        ({"warnings": ["busy"]}, again(1.0, warnings=["busy"]), [RECHECK_CEILINGS]),
        ({"schema": 0}, None, [MEASURE_CEILINGS]),
    ],
)
def test_a_stale_document_is_replaced_when_it_is_not_confirmed(cache, old, new, asked):
    doc = document(now=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)) | old
    keep(cache, doc | {"ceilings_id": ceilings.ceilings_id(doc)})
    worker = Worker(measured(), new)
    ensure(worker, ENVIRONMENT, "cpu", lambda _: None)
    assert worker.names == asked


@pytest.mark.parametrize("text", ["", "[]", "{", '{"ceilings_id": "0"}'])
def test_a_broken_cache_file_is_measured_again(cache, text):
    path = keep(cache, {})
    path.write_text(text)
    assert load(path) is None
    worker = Worker(measured())
    ensure(worker, ENVIRONMENT, "cpu", lambda _: None)
    assert worker.names == [MEASURE_CEILINGS] and load(path) is not None


def test_an_edited_cache_file_is_not_believed(cache):
    doc = document()
    path = keep(cache, doc)
    assert load(path) == doc
    forged = copy.deepcopy(doc)
    forged["matmul"]["fp32"]["value"] *= 2
    keep(cache, forged)
    assert load(path) is None


def test_a_cache_that_cannot_be_written_is_noted(monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calibration, "write_atomic", full)
    notes = []
    assert ensure(Worker(measured()), ENVIRONMENT, "cpu", notes.append)["matmul"]["fp32"]
    assert "No space left" in notes[-1]


def test_cuda_is_its_first_device_and_auto_the_first_accelerator():
    worker = Worker(measured("cuda:0"))
    found = ensure(worker, ENVIRONMENT, "cuda", lambda _: None)
    assert worker.asked[0][1][0] == "cuda:0" and found["name"] == "NVIDIA H100 80GB HBM3"
    assert ceilings.best_device(ENVIRONMENT) == "cuda:0"
    assert ceilings.best_device({"devices": ENVIRONMENT["devices"][:1]}) == "cpu" == ceilings.best_device({})


# --- the tables ---


def shown(doc):
    stream = io.StringIO()
    terminal.render(ceilings_tables(doc), stream, width=240)
    return stream.getvalue()


def test_the_tables_show_values_datasheet_and_reasons():
    text = shown(document("cuda:0", warnings=["somebody was busy"]))
    assert "989" in text and "no fp8 here" in text and "no trip here" in text and "somebody was busy" in text
    rows = {row[0]: row for row in ceilings_tables(document("cuda:0"))[1].rows}
    assert rows["bf16"][1:6] == ("bf16, bf16-pure", 400.0, *(pytest.approx(v) for v in (396.0, 404.0, 989400.0)))
    assert rows["bf16"][6] == pytest.approx(100 * 4e11 / 989.4e12)
    assert rows["fp8"][2:5] == (None, None, None)


def test_the_tables_are_in_tera_for_a_device_that_has_them():
    doc = document(matmul={m: estimate(6e14) for m in ceilings.MODES})
    assert ceilings_tables(doc)[1].columns[2].unit == "TFLOP/s"
    assert ceilings_tables(doc)[1].rows[0][2] == pytest.approx(600.0)
