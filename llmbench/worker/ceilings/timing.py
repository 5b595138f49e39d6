"""Clocks of a device: timers of calls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from llmbench.worker.ceilings.all_cores import Team
from llmbench.worker.ceilings.sampling import TimeCalls, Way

SYSFS = Path("/sys/devices/system/cpu")
#: Length of a sample in seconds. On CUDA longer, since events resolve half a microsecond and clocks rise slowly.
SAMPLE_S = {"cpu": 0.001, "mps": 0.005, "cuda": 0.005}


def timer(op: Callable[[], Any], device: torch.device) -> TimeCalls:
    """Return a timer of calls of `op`: by CUDA events, else by the wall clock, which waits for the device on MPS."""

    def on_cuda(calls: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            op()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return on_cuda if device.type == "cuda" else wall_timer(op, device)


def wall_timer(op: Callable[[], Any], device: torch.device) -> TimeCalls:
    """Return a timer of calls of `op` by the host's clock, until the device has done them."""

    def on_wall(calls: int) -> float:
        start_s = time.perf_counter()
        for _ in range(calls):
            op()
        wait(device)
        return time.perf_counter() - start_s

    return on_wall


def wait(device: torch.device) -> None:
    """Wait for the device; nothing is waited for on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def with_threads(time_s: TimeCalls, threads: int) -> TimeCalls:
    """Return `time_s`, run with that many threads of torch."""

    def call(calls: int) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return time_s(calls)
        finally:
            torch.set_num_threads(before)

    return call


def team(facts: Way, work: float, ops: Sequence[Callable[[], Any]]) -> Team:
    """Return a team of the operations, each on one thread and a core of its own.

    torch's number of threads and the allowed cores are each thread's own settings, so they end with it.
    """
    cpus = separate_cpus()

    def set_up(member: int) -> None:
        torch.set_num_threads(1)
        if len(ops) <= len(cpus):
            os.sched_setaffinity(0, {cpus[member]})

    return Team({**facts, "threads": len(ops), "independent": True}, work, tuple(ops), set_up)


def separate_cpus(root: Path = SYSFS, usable: Iterable[int] | None = None) -> list[int]:
    """Return the usable CPUs, those of different cores first; empty where threads cannot be bound to them."""
    if usable is None:
        usable = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else ()
    seen: dict[str, int] = {}
    for cpu in sorted(usable):
        siblings = root / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        core = siblings.read_text().strip() if siblings.exists() else str(cpu)
        seen.setdefault(core, cpu)
    first = list(seen.values())
    return first + [cpu for cpu in sorted(usable) if cpu not in first]


def record_graph(op: Callable[[], Any], times: int) -> Callable[[], Any]:
    """Return a CUDA graph of `times` calls of `op`, which starts them without the host in between."""
    op()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            op()
    return graph.replay
