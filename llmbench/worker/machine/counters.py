"""The kernel's counters of this process and of the machine, on Linux; elsewhere all are None.

Formats: proc(5), and https://docs.kernel.org: scheduler/sched-stats, accounting/psi, admin-guide/pm/cpufreq.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.worker.machine import cgroups

#: Reading a core's frequency can wait for that core; no more than this is spent on it.
FREQUENCY_READ_S = 0.05
PRESSURES = ("cpu", "memory", "io")


@dataclass(frozen=True)
class Counters:
    """One reading. Seconds and counts are since boot (machine) or since its start (process); None: not readable."""

    busy_s: float | None = None  # all cores together, without idle, waiting for a disk, and steal
    steal_s: float | None = None  # all cores together: the hypervisor ran something else
    cores: int | None = None
    own_cpu_s: float | None = None  # this process and its descendants
    run_wait_ns: Mapping[int, int] | None = None  # thread -> time it could have run but had no core
    involuntary_switches: int | None = None
    minor_faults: int | None = None  # of this process: the kernel gave it a page, and cleared it
    major_faults: int | None = None
    own_system_s: float | None = None  # of this process, in the kernel
    swap_in_pages: int | None = None
    swap_out_pages: int | None = None
    throttled_periods: int | None = None  # by the CPU quota of a control group
    throttled_s: float | None = None
    thermal_events: int | None = None
    pressure_us: Mapping[str, int] | None = None  # "cpu_some" -> time that some task waited for it
    cpu_mhz: float | None = None  # of the fastest core now


def read(root: Path = Path("/")) -> Counters:
    """Read all counters; those about the CPU first and together, since they are compared with each other."""
    proc, cpus = root / "proc", root / "sys/devices/system/cpu"
    busy_s, steal_s, cores = parse_stat(text_of(proc / "stat"), tick_s())
    own_cpu_s = tree_cpu_s(proc)
    run_wait = run_wait_ns(proc)
    usage = own_usage()
    vmstat = parse_pairs(text_of(proc / "vmstat"))
    throttled = cgroups.throttling(root)
    return Counters(
        busy_s=busy_s,
        steal_s=steal_s,
        cores=cores,
        own_cpu_s=own_cpu_s,
        run_wait_ns=run_wait,
        involuntary_switches=usage and usage.ru_nivcsw,
        minor_faults=usage and usage.ru_minflt,
        major_faults=usage and usage.ru_majflt,
        own_system_s=usage and usage.ru_stime,
        swap_in_pages=vmstat.get("pswpin"),
        swap_out_pages=vmstat.get("pswpout"),
        throttled_periods=throttled[0] if throttled else None,
        throttled_s=throttled[1] if throttled else None,
        thermal_events=thermal_events(cpus),
        pressure_us=pressure_us(proc) or None,
        cpu_mhz=fastest_mhz(cpus),
    )


def text_of(path: Path) -> str:
    """Return the content of a small file; nothing where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def tick_s() -> float:
    """Return the seconds of one tick, the unit of /proc/stat (10 ms nearly everywhere)."""
    return 1.0 / os.sysconf("SC_CLK_TCK")


def parse_stat(text: str, tick: float) -> tuple[float | None, float | None, int | None]:
    """Return busy seconds, stolen seconds and the number of cores from /proc/stat. Guests are part of user time."""
    lines = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    if not lines or len(lines[0]) < 9:
        return None, None, None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in lines[0][1:9])
    return (user + nice + system + irq + softirq) * tick, steal * tick, len(lines) - 1


def parse_pairs(text: str) -> dict[str, int]:
    """Return the numbers of a file with one `name number` per line."""
    pairs = [line.split() for line in text.splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def parse_pressure(text: str) -> dict[str, int]:
    """Return `some` and `full`, in microseconds, from a file of /proc/pressure."""
    total_us = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        total = dict(part.partition("=")[::2] for part in rest.split()).get("total", "")
        if total.isdigit():
            total_us[kind] = int(total)
    return total_us


def pressure_us(proc: Path) -> dict[str, int]:
    """Return the pressures that this kernel counts in microseconds: `cpu_some`, `memory_some`, `memory_full` ..."""
    files = {name: parse_pressure(text_of(proc / "pressure" / name)) for name in PRESSURES}
    return {f"{name}_{kind}": value for name, kinds in files.items() for kind, value in kinds.items()}


def parse_process(text: str) -> tuple[int, int, int] | None:
    """Return id, parent's id, and CPU ticks (its threads and its reaped children) from /proc/PID/stat."""
    head, _, tail = text.rpartition(")")  # the name, in brackets, may hold anything
    fields = tail.split()
    if len(fields) < 15:
        return None
    return int(head.split(" ", 1)[0]), int(fields[1]), sum(int(field) for field in fields[11:15])


def tree_cpu_s(proc: Path) -> float | None:
    """Return the CPU seconds of this process and of all its descendants: the workers of a loader belong to it."""
    me = parse_process(text_of(proc / "self/stat"))
    if me is None:
        return None
    ticks: dict[int, int] = {me[0]: me[2]}
    children: dict[int, list[int]] = {}
    for folder in proc.glob("[0-9]*"):
        process = parse_process(text_of(folder / "stat"))
        if process is not None and process[0] != me[0]:
            ticks[process[0]] = process[2]
            children.setdefault(process[1], []).append(process[0])
    total, waiting = 0, [me[0]]
    while waiting:
        pid = waiting.pop()
        total += ticks[pid]
        waiting += children.get(pid, [])
    return total * tick_s()


def run_wait_ns(proc: Path) -> dict[int, int] | None:
    """Return, for each thread of this process, the nanoseconds that it was ready to run but had no core."""
    waits = {}
    for folder in proc.glob("self/task/[0-9]*"):
        fields = text_of(folder / "schedstat").split()
        if len(fields) == 3:
            waits[int(folder.name)] = int(fields[1])
    return waits or None


def own_usage() -> Any:
    """Return the resources that this process has used, from getrusage(2); None where there is none."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    return resource.getrusage(resource.RUSAGE_SELF)


def thermal_events(cpus: Path) -> int | None:
    """Return how often cores and packages were throttled for heat; every core of a package repeats its count."""
    cores = [text_of(path).strip() for path in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    packages = {}
    for path in cpus.glob("cpu[0-9]*/thermal_throttle/package_throttle_count"):
        packages[text_of(path.parents[1] / "topology/physical_package_id").strip()] = text_of(path).strip()
    counts = [int(count) for count in [*cores, *packages.values()] if count.isdigit()]
    return sum(counts) if counts else None


def fastest_mhz(cpus: Path) -> float | None:
    """Return the frequency of the fastest core now, in MHz; cores that idle are slow and say nothing."""
    until, khz = time.perf_counter() + FREQUENCY_READ_S, []
    for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"):
        value = text_of(path).strip()
        khz += [int(value)] if value.isdigit() else []
        if time.perf_counter() > until:
            break
    return max(khz) / 1e3 if khz else None


def limits_mhz(cpus: Path) -> tuple[float | None, float | None]:
    """Return the highest frequency of the fastest core, and its guaranteed one where that is known, in MHz."""
    highest = [text_of(p).strip() for p in cpus.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")]
    base = [text_of(p).strip() for p in cpus.glob("cpu[0-9]*/cpufreq/base_frequency")]  # intel_pstate only
    both = ([int(text) / 1e3 for text in texts if text.isdigit()] for texts in (highest, base))
    first, second = (max(values, default=None) for values in both)
    return first, second
