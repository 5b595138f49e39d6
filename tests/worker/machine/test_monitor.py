"""Disturbances: read from fake trees, judged by pure rules, and seen on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import psutil
import pytest
from support.limits import HANG_S

from llmbench.worker.machine import cgroups, counters, nvml
from llmbench.worker.machine.monitor import RULES, Monitor, cpu_between, others_pct, warnings

STAT = "cpu  100 10 50 800 40 3 7 20 5 0\ncpu0 50 5 25 400 20 1 3 10 0 0\ncpu1 50 5 25 400 20 2 4 10 0 0\nintr 1 2\n"


def write(root, **files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def process(pid, ppid, name, *ticks):
    return f"{pid} ({name}) S {ppid} 1 1 0 -1 0 0 0 0 0 {' '.join(map(str, ticks))} 20 0 1 0 0 0 0\n"


def machine(root, **more):
    """A small Linux: process 10 with child 20 and grandchild 30, a stranger 40."""
    cpu = "sys/devices/system/cpu/cpu"
    files = {
        "proc/stat": STAT,
        "proc/self/stat": process(10, 1, "a (b) c", 100, 20, 5, 5),
        "proc/10/stat": process(10, 1, "a (b) c", 100, 20, 5, 5),
        "proc/20/stat": process(20, 10, "worker", 10, 0, 0, 0),
        "proc/30/stat": process(30, 20, "worker", 1, 0, 0, 0),
        "proc/40/stat": process(40, 1, "other", 9999, 0, 0, 0),
        "proc/self/task/10/schedstat": "5000000000 100000000 7\n",
        "proc/self/task/11/schedstat": "5000000000 50000000 7\n",
        "proc/self/cgroup": "0::/a/b\n",
        "proc/vmstat": "pgmajfault 9\npswpin 100\npswpout 7\n",
        "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n",
        "proc/pressure/memory": "some avg10=0.0 total=5\nfull avg10=0.0 total=3\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 5\n",
        "sys/fs/cgroup/a/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_usec 250000\n",
        "sys/fs/cgroup/a/b/cpu.stat": "nr_periods 9\nnr_throttled 1\nthrottled_usec 50000\n",
        "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        "sys/fs/cgroup/a/memory.max": "1073741824\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        f"{cpu}0/cpufreq/scaling_cur_freq": "1200000\n",
        f"{cpu}1/cpufreq/scaling_cur_freq": "3100000\n",
        f"{cpu}0/cpufreq/cpuinfo_max_freq": "4000000\n",
    }
    for core, count in (("0", "4"), ("1", "5")):
        files[f"{cpu}{core}/thermal_throttle/core_throttle_count"] = count
        files[f"{cpu}{core}/thermal_throttle/package_throttle_count"] = "100"
        files[f"{cpu}{core}/topology/physical_package_id"] = "0"
    write(root, **{**files, **more})
    return root


def test_counters_of_a_sample_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(counters, "tick_s", lambda: 0.01)
    found = counters.read(machine(tmp_path))
    assert (found.busy_s, found.steal_s, found.cores) == (pytest.approx(1.70), pytest.approx(0.20), 2)
    assert found.own_cpu_s == pytest.approx(1.41)  # 130 + 10 + 1 ticks; not the stranger's
    assert found.run_wait_ns == {10: 100_000_000, 11: 50_000_000}
    assert (found.swap_in_pages, found.swap_out_pages) == (100, 7)
    assert (found.throttled_periods, found.throttled_s) == (4, pytest.approx(0.3))
    assert found.thermal_events == 4 + 5 + 100  # the package once
    assert found.pressure_us == {"cpu_some": 1_000_000, "memory_some": 5, "memory_full": 3}
    assert found.cpu_mhz == 3100.0
    assert counters.limits_mhz(tmp_path / "sys/devices/system/cpu") == (4000.0, None)


def test_limits_of_both_kinds_of_control_groups(tmp_path):
    machine(tmp_path)
    assert cgroups.cpu_quota_cores(tmp_path) == 1.5 and cgroups.memory_limit_mib(tmp_path) == 1024.0
    old = tmp_path / "old"
    files = {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"}
    files["cpu.stat"] = "nr_periods 1\nnr_throttled 2\nthrottled_time 3000000000\n"
    write(old, **{f"sys/fs/cgroup/cpu,cpuacct/{name}": text for name, text in files.items()})
    write(old, **{"proc/self/cgroup": "3:memory:/gone/from/here\n2:cpu,cpuacct:/\n0::/\n"})
    write(old, **{"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"})
    assert cgroups.cpu_quota_cores(old) == 0.5 and cgroups.throttling(old) == (2, 3.0)
    assert cgroups.memory_limit_mib(old) is None


def test_a_system_that_tells_nothing_gives_nulls_with_reasons(tmp_path):
    monitor = Monitor(root=tmp_path)
    monitor.start()
    raw = monitor.stop()
    told = {"wall_s", "tick_s", "involuntary_switches", "minor_faults", "major_faults", "own_system_s", "reasons"}
    assert [name for name in raw if raw[name] is not None and name not in told] == []
    assert set(raw["reasons"]) == {name for name, value in raw.items() if value is None}
    assert warnings(raw) == [] and json.dumps(raw)


def test_differences_of_two_readings(tmp_path):
    start = counters.read(machine(tmp_path))
    later = {
        "proc/stat": STAT.replace("cpu  100", "cpu  300"),
        "proc/self/stat": process(10, 1, "x", 150, 20, 5, 5),
        "proc/self/task/10/schedstat": "1 400000000 7\n",
        "proc/self/task/12/schedstat": "1 30000000 7\n",  # a new thread counts from zero
        "proc/vmstat": f"pswpin {100 + 2**20 // os.sysconf('SC_PAGE_SIZE')}\npswpout 7\n",
        "proc/pressure/cpu": "some total=1500000\n",
    }
    raw = cpu_between(start, counters.read(machine(tmp_path, **later)))
    tick = counters.tick_s()
    assert raw["other_cpu_s"] == pytest.approx(150 * tick) and raw["own_cpu_s"] == pytest.approx(50 * tick)
    assert raw["run_wait_s"] == pytest.approx(0.33) and raw["run_wait_longest_s"] == pytest.approx(0.3)
    assert raw["swap_in_mib"] == pytest.approx(1.0) and raw["swap_out_mib"] == 0.0
    assert raw["pressure_s"]["cpu_some"] == pytest.approx(0.5)


QUIET = {
    "wall_s": 10.0,
    "tick_s": 0.01,
    "cores": 4,
    "steal_s": 0.3,  # 0.75 %, less the tick
    "other_cpu_s": 1.9,
    "run_wait_s": 0.9,  # all threads together
    "run_wait_longest_s": 0.05,
    "involuntary_switches": 500,
    "major_faults": 90,
    "swap_in_mib": 4.0,
    "swap_out_mib": 5.0,
    "throttled_periods": 0,
    "throttled_s": 0.0,
    "thermal_events": 0,
    "pressure_s": {"cpu_some": 5.0, "memory_some": 0.05},
    "cpu_mhz_end": 2100.0,
    "cpu_mhz_max": 4000.0,
    "cpu_mhz_base": None,
    "gpu": {
        "other_processes_start": 0,
        "other_processes_end": 0,
        "throttled_power_s": 0.05,
        "throttled_thermal_s": 0.0,
        "clock_reasons_end": ["gpu_idle", "applications_clocks_setting"],
        "sm_mhz_end": 1400,
        "sm_mhz_max": 1980,
    },
}


def test_a_quiet_machine_has_no_warning():
    assert warnings(QUIET) == []


@pytest.mark.parametrize(
    "change, number, limit",
    [
        ({"steal_s": 1.0}, "2.4 %", "1 %"),
        ({"other_cpu_s": 20.0}, "49.9 %", "5 %"),
        ({"run_wait_longest_s": 3.0}, "30.0 %", "1 %"),
        ({"run_wait_longest_s": None}, "50.0 %", "5 %"),  # the machine's pressure stands in for it
        ({"throttled_periods": 3}, "3 periods", "0"),
        ({"major_faults": 300}, "30.0", "10"),
        ({"swap_out_mib": 36.0}, "4.0", "1"),
        ({"pressure_s": {"memory_some": 0.5}}, "5.0 %", "1 %"),
        ({"thermal_events": 12}, "12", "0"),
        ({"cpu_mhz_base": 3000.0}, "30 %", "5 %"),
        ({"cpu_mhz_end": 1600.0}, "60 %", "50 %"),
        ({"gpu": {"throttled_power_s": 5.0}}, "50.0 %", "1 %"),
        ({"gpu": {"throttled_thermal_s": 2.0}}, "20.0 %", "1 %"),
        ({"gpu": {"other_processes_start": 2, "other_processes_end": None}}, "GPU: 2 ", "0"),
        ({"gpu": {"clock_reasons_end": ["hw_slowdown", "gpu_idle"], "sm_mhz_end": 900, "sm_mhz_max": 1980}}, "900", ""),
    ],
)
def test_each_disturbance_is_told_with_number_and_limit(change, number, limit):
    (line,) = warnings({**QUIET, **change})
    assert number in line and f"limit {limit}" in line.replace("(limit: ", "(limit ")


def test_every_rule_has_a_reason_and_nothing_known_is_no_warning():
    assert all(rule.because for rule in RULES)
    assert warnings({"wall_s": 1.0, "tick_s": 0.01}) == []


def test_a_short_pass_is_not_judged_by_the_tick():
    """Two cores, 0.1 s: a busy tick on each is noise of the clock, not 10 % of other load."""
    assert warnings({"wall_s": 0.1, "tick_s": 0.01, "cores": 2, "other_cpu_s": 0.02, "steal_s": 0.02}) == []


def test_what_others_took_holds_the_hypervisor():
    raw = {"wall_s": 1.0, "tick_s": 0.01, "cores": 2, "other_cpu_s": 0.4, "steal_s": 0.1}
    assert others_pct(raw) == pytest.approx(100 * (0.2 - 0.01) + 100 * (0.05 - 0.01))
    assert others_pct({**raw, "steal_s": 0.0}) == pytest.approx(19.0)
    assert others_pct({**raw, "other_cpu_s": None}) is None


def test_reason_bits_have_names():
    assert nvml.reason_names(0x1 | 0x4 | 0x40) == ["gpu_idle", "sw_power_cap", "hw_thermal_slowdown"]
    assert nvml.reason_names(0) == []


class FakeNvml(types.ModuleType):
    NVMLError = type("NVMLError", (Exception,), {})
    violation_ns = 0

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return uuid

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return 1500

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return 1980

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # an old driver's name
        return 0x4

    def nvmlDeviceGetViolationStatus(self, handle, policy):
        self.violation_ns += 10**9
        return types.SimpleNamespace(violationTime=self.violation_ns if policy == nvml.POLICY_POWER else 0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [types.SimpleNamespace(pid=os.getpid()), types.SimpleNamespace(pid=1)]

    def nvmlDeviceGetUtilizationRates(self, handle):
        raise self.NVMLError("Not Supported")


def test_a_gpu_is_read_at_both_ends(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("pynvml"))
    monkeypatch.setattr(nvml, "device_uuid", lambda device: "u")
    monitor = Monitor("cuda:0")
    monitor.start()
    raw = monitor.stop()
    gpu = raw["gpu"]
    assert gpu["other_processes_end"] == 1 and gpu["clock_reasons_end"] == ["sw_power_cap"]
    assert gpu["throttled_power_s"] == pytest.approx(2.0) and gpu["throttled_thermal_s"] == 0.0
    assert gpu["utilisation_pct_end"] is None and "gpu.utilisation_pct_end" in raw["reasons"]
    lines = "\n".join(warnings(raw))
    assert "context on the GPU: 1" in lines and "1500 of 1980 MHz, sw_power_cap" in lines and json.dumps(raw)


needs_proc = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux' counters")


def wait_for_cpu(pid, seconds):
    """Wait until a process has used so many seconds more of a core, however long others keep it from one."""
    busy = psutil.Process(pid)
    wanted, end = sum(busy.cpu_times()[:2]) + seconds, time.monotonic() + HANG_S
    while sum(busy.cpu_times()[:2]) < wanted:
        assert time.monotonic() < end, "it does nothing"
        time.sleep(0.02)


@pytest.fixture
def stranger():
    """A process that is not ours (its parent is gone) and keeps a core busy."""
    shell = f"{sys.executable} -c 'while True: pass' >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout)
    yield pid
    os.kill(pid, signal.SIGKILL)


def watched(pid):
    """What a monitor sees while a process uses half a second of a core, and we wait."""
    wait_for_cpu(pid, 0.1)
    monitor = Monitor()
    monitor.start()
    wait_for_cpu(pid, 0.5)
    return monitor.stop()


@needs_proc
def test_a_stranger_that_is_busy_is_others_work(stranger):
    raw = watched(stranger)
    assert raw["other_cpu_s"] > 0.4 and raw["wall_s"] > 0.4


@needs_proc
@pytest.mark.timed
def test_a_stranger_that_is_busy_is_told(stranger):
    raw = watched(stranger)
    assert any("other processes used" in line for line in warnings(raw)) and raw["own_cpu_s"] < 0.2


@needs_proc
def test_a_child_that_is_busy_is_our_own():
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        raw = watched(child.pid)
    finally:
        child.kill()
        child.wait()
    assert raw["own_cpu_s"] > 0.4


@needs_proc
def test_more_threads_than_cores_wait_for_one_another():
    import threading

    def work():
        import hashlib

        begun.wait()
        for _ in range(300):  # hashing lets go of the interpreter's lock
            hashlib.sha256(data).digest()
        worked.wait()
        seen.wait()

    count = 2 * (os.cpu_count() or 1) + 2
    data, seen = bytes(2**20), threading.Event()
    begun, worked = threading.Barrier(count + 1), threading.Barrier(count + 1)
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    monitor = Monitor()
    monitor.start()
    begun.wait()
    worked.wait()
    raw = monitor.stop()
    seen.set()
    for thread in threads:
        thread.join()
    assert raw["run_wait_s"] > 0.1 and any("waited for a core" in line for line in warnings(raw))


@needs_proc
@pytest.mark.timed
def test_both_ends_are_cheap():
    monitor = Monitor()
    begin = time.process_time()
    monitor.start()
    monitor.stop()
    assert time.process_time() - begin < 0.1
