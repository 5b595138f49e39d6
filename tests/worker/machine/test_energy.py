"""Energy counters, on fake trees and a fake NVML."""

from __future__ import annotations

import json
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.worker.machine import energy, nvml
from llmbench.worker.machine.energy import EnergyMeter, counter_difference_uj, rapl_joules


def powercap(root, **counters_uj):
    """A tree as the kernel makes it: two packages with their parts, psys, and the same counter through MMIO."""
    base = root / "sys/class/powercap"
    (base / "intel-rapl").mkdir(parents=True, exist_ok=True)
    domains = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram"}
    domains |= {"intel-rapl:1": "package-1", "intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0"}
    for folder, name in domains.items():
        (base / folder).mkdir(exist_ok=True)
        (base / folder / "name").write_text(f"{name}\n")
        (base / folder / "energy_uj").write_text(f"{counters_uj.get(name.replace('-', ''), 7)}\n")
        (base / folder / "max_energy_range_uj").write_text("262143328850\n")
    return base


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(energy.time, "perf_counter", lambda: now[0])
    return now


def test_packages_are_summed_and_wrap(tmp_path, clock):
    powercap(tmp_path, package0=262143328850 - 1_000_000, package1=500)
    meter = EnergyMeter("cpu", tmp_path)
    meter.start()
    powercap(tmp_path, package0=2_000_000, package1=4_000_500)
    clock[0] = 2.0
    found = meter.stop()
    assert found["joules"] == pytest.approx(7.0) and found["seconds"] == 2.0 and found["reason"] is None
    assert "package-0, package-1" in found["source"] and "other processes" in found["source"]


@given(st.integers(1, 2**40), st.data())
def test_one_wrap_is_undone(range_uj, data):
    before = data.draw(st.integers(0, range_uj - 1))
    used = data.draw(st.integers(0, range_uj - 1))
    assert counter_difference_uj(before, (before + used) % range_uj, range_uj) == used


def test_what_could_have_wrapped_twice_or_is_too_short_is_not_told():
    domain = energy.Domain(None, "package-0", 65_000_000_000)  # 65 kJ: 65 s at 1 kW
    counts = {"package-0": 0}, {"package-0": 10**6}
    assert rapl_joules([domain], *counts, 60.0) == (1.0, None)
    for seconds, word in ((66.0, "wrapped"), (0.01, "short")):
        joules, reason = rapl_joules([domain], *counts, seconds)
        assert joules is None and word in reason


def test_without_a_counter_there_is_a_reason(tmp_path, monkeypatch):
    for device, word in (("cpu", "no RAPL"), ("mps", "mps"), ("cuda:0", "nvidia-ml-py")):
        monkeypatch.setitem(sys.modules, "pynvml", None)
        meter = EnergyMeter(device, tmp_path)
        meter.start()
        found = meter.stop()
        assert found["joules"] is None and found["source"] is None and word in found["reason"]
        assert found["seconds"] >= 0 and json.dumps(found)


def test_a_counter_that_only_root_may_read(tmp_path, monkeypatch):
    base = powercap(tmp_path)

    def refuse(self, *args, **kwargs):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(self, *args, **kwargs)

    read = type(base).read_text
    monkeypatch.setattr(type(base), "read_text", refuse)
    meter = EnergyMeter("cpu", tmp_path)
    meter.start()
    assert "root" in meter.stop()["reason"]


def test_a_counter_that_goes_away(tmp_path, clock):
    base = powercap(tmp_path)
    meter = EnergyMeter("cpu", tmp_path)
    meter.start()
    (base / "intel-rapl:1/energy_uj").unlink()
    clock[0] = 1.0
    found = meter.stop()
    assert found["joules"] is None and found["reason"]


class FakeNvml(types.ModuleType):
    """As much of pynvml as is asked for; the device is known by its UUID only."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, energy_mj):
        super().__init__("pynvml")
        self.energy_mj = iter(energy_mj)

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-u-1":
            raise self.NVMLError("not found")
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        assert handle == "handle"
        value = next(self.energy_mj)
        if value is None:
            raise self.NVMLError("Not Supported")
        return value


@pytest.mark.parametrize(
    "readings, seconds, joules, word",
    [((5_000, 305_500), 2.0, 300.5, None), ((5_000, 5_100), 0.1, None, "short"), ((None, None), 2.0, None, "Volta")],
)
def test_nvml_counts_millijoules(monkeypatch, clock, readings, seconds, joules, word):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(readings))
    monkeypatch.setattr(nvml, "device_uuid", lambda device: {"cuda:1": "u-1"}[device])
    meter = EnergyMeter("cuda:1")
    meter.start()
    clock[0] = seconds
    found = meter.stop()
    assert found["joules"] == joules
    assert (found["reason"] is None) if word is None else (word in found["reason"])
    assert "whole board" in found["source"]


def test_an_nvml_that_does_not_answer(monkeypatch):
    fake = FakeNvml(())
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(fake, "nvmlInit", lambda: (_ for _ in ()).throw(fake.NVMLError("Driver Not Loaded")))
    meter = EnergyMeter("cuda")
    meter.start()
    assert "Driver Not Loaded" in meter.stop()["reason"]
