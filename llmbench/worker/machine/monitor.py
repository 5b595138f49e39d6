"""What disturbed a measurement: counters read before and after it, and nothing in between.

`Monitor` gives raw numbers. `warnings` says, with number and limit, which of them are too high to trust a measurement.
Limits follow from the default target, an interval of +-2 %: a disturbance may take half of that, 1 %, before there is a
warning. Where a number only hints at lost time, the rule has a reason of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmbench.worker.machine import nvml
from llmbench.worker.machine.counters import Counters, limits_mhz, read, tick_s

if TYPE_CHECKING:
    from llmbench.contract.record import Health, JsonObject

#: The fields of `Health`, which rules read by names that they put together.
Raw = Mapping[str, Any]

MIB = 2**20
NOT_HERE = "not readable on this system"
NOT_TOLD = "NVML does not tell it of this device"
#: Fields of the result that are the difference of two readings of one counter.
DIFFERENCES = (
    "busy_s",
    "steal_s",
    "own_cpu_s",
    "involuntary_switches",
    "minor_faults",
    "major_faults",
    "own_system_s",
    "throttled_periods",
    "throttled_s",
    "thermal_events",
)


class Monitor:
    """Reads the counters of this process, this machine and, on CUDA, of the device before and after a measurement.

    No thread runs in between; each end takes some milliseconds and lies outside of `wall_s`.
    """

    def __init__(self, device: str = "cpu", root: Path = Path("/")) -> None:
        self.root = root
        self.gpu, self.gpu_reason = nvml.open_gpu(device)
        self.mhz_max, self.mhz_base = limits_mhz(root / "sys/devices/system/cpu")

    def start(self) -> None:
        """Read the counters and start the clock."""
        self._gpu_start = nvml.state(self.gpu) if self.gpu else None
        self._start = read(self.root)
        self._start_s = time.perf_counter()

    def stop(self) -> Health:
        """Return the counts since `start`, with units in their names; None where `reasons` says why.

        Of the machine: `busy_s`, `steal_s` (core seconds, all cores together), `other_cpu_s` (busy without this
        process and its descendants), `swap_in_mib`, `swap_out_mib`, `pressure_s`, `thermal_events`, `cpu_mhz_*` (of
        the fastest core). Of this process: `own_cpu_s` (with its descendants), `own_system_s` (in the kernel),
        `run_wait_s` (its threads together were runnable without a core), `run_wait_longest_s` (the one that waited
        longest), `involuntary_switches`, `minor_faults` and `major_faults` (of pages). Of its control groups:
        `throttled_periods`, `throttled_s`. Of the device: `gpu`.
        """
        wall_s = time.perf_counter() - self._start_s
        end = read(self.root)
        gpu = self._gpu_between()
        health: Health = {
            "wall_s": wall_s,
            "tick_s": tick_s(),
            **cpu_between(self._start, end),
            "cpu_mhz_start": self._start.cpu_mhz,
            "cpu_mhz_end": end.cpu_mhz,
            "cpu_mhz_max": self.mhz_max,
            "cpu_mhz_base": self.mhz_base,
            "gpu": gpu,
        }
        reasons = {name: NOT_HERE for name, value in health.items() if value is None}
        reasons |= {f"gpu.{name}": NOT_TOLD for name, value in (gpu or {}).items() if value is None}
        if self.gpu_reason is not None:
            reasons["gpu"] = self.gpu_reason
        return {**health, "reasons": reasons}

    def _gpu_between(self) -> JsonObject | None:
        if self.gpu is None or self._gpu_start is None:
            return None
        now = nvml.state(self.gpu)
        return nvml.between(self._gpu_start, now, self.gpu.ask("nvmlDeviceGetMaxClockInfo", nvml.CLOCK_SM))


def cpu_between(start: Counters, end: Counters) -> Health:
    """Return the differences of two readings, in seconds, counts and MiB."""
    raw: dict[str, object] = {name: less(getattr(end, name), getattr(start, name)) for name in DIFFERENCES}
    others = less(less(end.busy_s, start.busy_s), less(end.own_cpu_s, start.own_cpu_s))
    raw["other_cpu_s"] = None if others is None else max(0.0, others)  # below 0: ticks against exact time
    raw["cores"] = end.cores
    before, after = start.run_wait_ns, end.run_wait_ns
    waits = None if after is None or before is None else [ns - before.get(tid, 0) for tid, ns in after.items()]
    raw["run_wait_s"] = None if waits is None else sum(waits) / 1e9  # of the threads that are still there
    raw["run_wait_longest_s"] = None if waits is None else max(waits, default=0) / 1e9
    for name in ("swap_in", "swap_out"):
        pages = less(getattr(end, f"{name}_pages"), getattr(start, f"{name}_pages"))
        raw[f"{name}_mib"] = None if pages is None else pages * os.sysconf("SC_PAGE_SIZE") / MIB
    raw["pressure_s"] = pressure_between(start.pressure_us, end.pressure_us)
    return cast("Health", raw)


def less(after: Any, before: Any) -> Any:
    """Return `after - before`; None where either is not known."""
    return None if after is None or before is None else after - before


def pressure_between(start: Mapping[str, int] | None, end: Mapping[str, int] | None) -> dict[str, float] | None:
    """Return `cpu_some`, `memory_full` ... in seconds."""
    if start is None or end is None:
        return None
    return {name: (us - start[name]) / 1e6 for name, us in end.items() if name in start}


@dataclass(frozen=True)
class Rule:
    """One disturbance: its amount, and the limit above which it is too much.

    `value` reads the amount from the raw numbers, None where they do not have it. `text` is filled with `value` and
    `limit`.
    """

    value: Callable[[Raw], float | None]
    limit: float
    text: str
    because: str


def warnings(raw: Raw) -> list[str]:
    """Return one line for each disturbance beyond its limit, with number and limit."""
    amounts = [(rule, rule.value(raw)) for rule in RULES]
    lines = [
        rule.text.format(value=value, limit=rule.limit)
        for rule, value in amounts
        if value is not None and value > rule.limit
    ]
    return lines + clock_warnings(raw)


def of_machine_pct(name: str) -> Callable[[Raw], float | None]:
    """Return a reader of core seconds as percent of all cores' time; one tick per core, the error, is subtracted."""

    def value(raw: Raw) -> float | None:
        if raw.get(name) is None or not raw.get("cores"):
            return None
        return 100.0 * (raw[name] / raw["cores"] - raw["tick_s"]) / raw["wall_s"]

    return value


def others_pct(raw: Raw) -> float | None:
    """Return the percent of all cores' time that other processes and the hypervisor took; None where not known."""
    parts = [of_machine_pct(name)(raw) for name in ("other_cpu_s", "steal_s")]
    return None if None in parts else sum(max(0.0, part) for part in parts if part is not None)


def of_wall_pct(*path: str) -> Callable[[Raw], float | None]:
    """Return a reader of seconds as percent of the wall time."""

    def value(raw: Raw) -> float | None:
        seconds = at(raw, *path)
        return None if seconds is None else 100.0 * seconds / raw["wall_s"]

    return value


def at(raw: Raw, *path: str) -> Any:
    """Return a nested value; None where any part of the path is missing."""
    value: Any = raw
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def cpu_pressure_pct(raw: Raw) -> float | None:
    """Return the percent of time that a task of the machine waited for a core, where the process's own is not known."""
    return of_wall_pct("pressure_s", "cpu_some")(raw) if raw.get("run_wait_longest_s") is None else None


def faults_per_s(raw: Raw) -> float | None:
    """Return the major page faults of this process per second."""
    return None if raw.get("major_faults") is None else raw["major_faults"] / raw["wall_s"]


def swap_mib_per_s(raw: Raw) -> float | None:
    """Return the MiB that the machine moved to and from swap, per second."""
    into, out = raw.get("swap_in_mib"), raw.get("swap_out_mib")
    return None if into is None or out is None else (into + out) / raw["wall_s"]


def clock_lost_pct(raw: Raw) -> float | None:
    """Return the percent by which the fastest core was below its guaranteed frequency at the end."""
    now, base = raw.get("cpu_mhz_end"), raw.get("cpu_mhz_base")
    return None if not now or not base else 100.0 * (1 - now / base)


def clock_lost_of_max_pct(raw: Raw) -> float | None:
    """Return the percent by which the fastest core was below its maximum at the end, without a guaranteed frequency."""
    now, highest = raw.get("cpu_mhz_end"), raw.get("cpu_mhz_max")
    return None if not now or not highest or raw.get("cpu_mhz_base") else 100.0 * (1 - now / highest)


RULES = (
    Rule(
        of_machine_pct("steal_s"),
        1.0,
        "the hypervisor gave {value:.1f} % of this machine's CPU time to others (steal; limit {limit:g} %)",
        "half of the default interval",
    ),
    Rule(
        of_machine_pct("other_cpu_s"),
        5.0,
        "other processes used {value:.1f} % of this machine's CPU time (limit {limit:g} %)",
        "they share caches, memory bandwidth and turbo even where cores are free; the usual daemons stay below",
    ),
    Rule(
        of_wall_pct("run_wait_longest_s"),
        1.0,
        "a thread of this process waited for a core for {value:.1f} % of the wall time (limit {limit:g} %): "
        "other processes, or more threads than cores",
        "half of the default interval; a thread that waits stops all others at the next barrier",
    ),
    Rule(
        cpu_pressure_pct,
        5.0,
        "some task of this machine waited for a core for {value:.1f} % of the wall time (limit {limit:g} %)",
        "as for other processes: it need not be this one that waited",
    ),
    Rule(
        lambda raw: raw.get("throttled_periods"),
        0.0,
        "the CPU quota of the control group stopped this process in {value:.0f} periods (limit {limit:g})",
        "each stops all threads for up to a period, 100 ms by default: longer than many steps",
    ),
    Rule(
        faults_per_s,
        10.0,
        "{value:.1f} major page faults a second (limit {limit:g}): pages were read from disk",
        "a read takes about 0.1 ms (SSD) to 10 ms (disk); at 1 ms, 10 a second are 1 %",
    ),
    Rule(
        swap_mib_per_s,
        1.0,
        "this machine swapped {value:.1f} MiB a second (limit {limit:g}): memory is short",
        "256 pages a second; a trickle of cold pages is normal on a machine that has been up for long",
    ),
    Rule(
        of_wall_pct("pressure_s", "memory_some"),
        1.0,
        "some task of this machine waited for memory for {value:.1f} % of the wall time (limit {limit:g} %)",
        "half of the default interval",
    ),
    Rule(
        lambda raw: raw.get("thermal_events"),
        0.0,
        "cores were throttled for heat {value:.0f} times (limit {limit:g})",
        "a cool machine has none",
    ),
    Rule(
        clock_lost_pct,
        5.0,
        "the CPU ran {value:.0f} % below its guaranteed frequency (limit {limit:g} %)",
        "only a limit of power, heat or policy takes a busy core below it; 5 % covers the sampling of the clock",
    ),
    Rule(
        clock_lost_of_max_pct,
        50.0,
        "the CPU ran {value:.0f} % below its maximum frequency (limit {limit:g} %)",
        "with wide vectors on all cores, server CPUs are specified down to 0.6 of the single-core maximum",
    ),
    Rule(
        of_wall_pct("gpu", "throttled_power_s"),
        1.0,
        "the power limit held the GPU's clocks down for {value:.1f} % of the wall time (limit {limit:g} %)",
        "half of the default interval",
    ),
    Rule(
        of_wall_pct("gpu", "throttled_thermal_s"),
        1.0,
        "heat held the GPU's clocks down for {value:.1f} % of the wall time (limit {limit:g} %)",
        "half of the default interval",
    ),
    Rule(
        lambda raw: max((at(raw, "gpu", f"other_processes_{end}") or 0 for end in ("start", "end")), default=None),
        0.0,
        "other processes with a context on the GPU: {value:.0f} (limit {limit:g})",
        "time slicing between contexts stops all kernels of one of them",
    ),
)


def clock_warnings(raw: Raw) -> list[str]:
    """Return a line for the limits that held the GPU's clocks down when the measurement ended."""
    reasons = [name for name in at(raw, "gpu", "clock_reasons_end") or [] if name in nvml.THROTTLE_REASONS.values()]
    if not reasons:
        return []
    now, highest = at(raw, "gpu", "sm_mhz_end"), at(raw, "gpu", "sm_mhz_max")
    clocks = f"at {now} of {highest} MHz, " if now and highest else ""
    return [f"the GPU's clocks were held down at the end: {clocks}{', '.join(reasons)} (limit: none)"]
