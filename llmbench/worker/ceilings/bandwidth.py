"""Memory bandwidth per level: caches and main memory. Everything is float32.

Bytes are counted as STREAM counts them: what the operation asks to read plus what it asks to write, not what the
hardware moves for it (a write-allocate cache also reads the line that is written, which counts nothing). Source:
McCalpin, "STREAM: Sustainable Memory Bandwidth in High Performance Computers", www.cs.virginia.edu/stream/ref.html,
"Counting Bytes and FLOPS". `read` is no STREAM kernel: a pass that writes nothing can be faster than both, so a
ceiling needs it.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmbench.worker.ceilings.all_cores import Team
from llmbench.worker.ceilings.matmul import free_bytes
from llmbench.worker.ceilings.sampling import Candidate, Metered
from llmbench.worker.ceilings.timing import SYSFS, record_graph, team, timer, with_threads

#: operation -> arrays it touches: a = b + s*c, a = b, and the sum of a
ARRAYS = {"triad": 3, "copy": 2, "read": 1}
ITEM = 4  # bytes of a float32
LINE = 16  # float32 in a cache line of 64 bytes
#: One call moves at least this much, so that the cost of starting an operator is below a percent of it.
CALL_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
GRAPH_OPS = 64  # in a CUDA graph, so that starting them costs next to nothing
#: Each array in main memory is at least four times the caches (STREAM's rule), within these limits.
STREAM_FACTOR = 4
MAIN_SHARE = 0.2  # of the memory that is available
MAIN_MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class Level:
    """One level of the memory: the capacity for all usable threads together, and the bytes that are gone over."""

    name: str  # L1, L2, ... or dram (HBM and GDDR are dram, too)
    capacity_bytes: int
    working_set_bytes: int


def cpu_caches(threads: int, root: Path = SYSFS, cpus: Sequence[int] | None = None) -> list[tuple[str, int]]:
    """Return (name, bytes) of the data caches that `threads` threads on `cpus` reach, innermost first.

    A cache that each core has for itself counts once per thread. Empty where the system does not describe them.
    """
    instances: dict[int, dict[str, int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)) if cpus is None else cpus:
        for index in sorted((root / f"cpu{cpu}" / "cache").glob("index*")):
            try:
                level, kind, size, shared = (
                    (index / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")
                )
                if kind != "Instruction":
                    instances.setdefault(int(level), {})[shared] = parse_size(size)
            except (OSError, ValueError):
                continue
    caches = []
    for level_number, by_cpus in sorted(instances.items()):
        sizes = sorted(by_cpus.values(), reverse=True)[: max(1, threads)]
        caches.append((f"L{level_number}", sum(sizes)))
    return [(name, size) for name, size in caches if size > 0]


def parse_size(text: str) -> int:
    """Return the bytes of a size as sysfs writes it: `32K`, `8M`, `512`."""
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    return int(text.rstrip("KMGkmg")) * factor


def levels(caches: Sequence[tuple[str, int]], memory_bytes: float, available_bytes: float) -> list[Level]:
    """Return the levels with a working set that fits each, and that the level before it cannot hold.

    A cache is filled to half; to twice the level before it (at most three quarters) where that is more. Main memory is
    read in arrays of four times the last cache, at most a fifth of what is available.
    """
    cache_levels, before = [], 0
    for name, size in caches:
        cache_levels.append(Level(name, size, max(size // 2, min(2 * before, 3 * size // 4))))
        before = size
    wanted = max(ARRAYS["triad"] * STREAM_FACTOR * before, 3 << 26)
    main = int(min(wanted, MAIN_SHARE * available_bytes, MAIN_MAX_BYTES))
    return [*cache_levels, Level("dram", int(memory_bytes), main)]


def device_levels(device: torch.device) -> list[Level]:
    """Return the levels of the device; without its cache sizes only main memory."""
    available = free_bytes(device)
    if device.type == "cuda":
        props = torch.cuda.get_device_properties(device)
        l2 = getattr(props, "L2_cache_size", 0)
        return levels([("L2", l2)] if l2 else [], props.total_memory, available)
    import psutil

    caches = cpu_caches(torch.get_num_threads()) if hasattr(os, "sched_getaffinity") else []
    return levels(caches, psutil.virtual_memory().total, available)


def candidates(level: Level, device: torch.device, last_cache_bytes: int) -> dict[str, list[Metered]]:
    """Return, per operation, the ways to reach the level's bandwidth.

    On the CPU that is a team of all threads, and for main memory also one operator on all of them.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if level.name != "dram":
        if device.type == "cpu":
            size = level.working_set_bytes // threads
            return {op: [_team([_repeat_in_cache(size, op) for _ in range(threads)])] for op in ARRAYS}
        return {op: [_on_device(level.working_set_bytes, op, device)] for op in ARRAYS}
    piece = max(last_cache_bytes, CALL_BYTES.get(device.type, CALL_BYTES["cuda"]))
    n = level.working_set_bytes // (ITEM * ARRAYS["triad"])
    arrays = [torch.ones(n, device=device) for _ in range(ARRAYS["triad"])]
    ways: dict[str, list[Metered]] = {}
    for operation in ARRAYS:
        op, work = _take_pieces(arrays, operation, piece)
        time_s = timer(op, device)
        if device.type != "cpu":
            ways[operation] = [Candidate({}, work, time_s)]
            continue
        parts = [[a[i * (n // threads) : (i + 1) * (n // threads)] for a in arrays] for i in range(threads)]
        members = [_take_pieces(part, operation, CALL_BYTES["cpu"] // threads) for part in parts]
        together = Candidate({"threads": threads, "independent": False}, work, with_threads(time_s, threads))
        ways[operation] = [together, _team(members)]
    return ways


def _team(members: Sequence[tuple[Callable[[], Any], float]]) -> Team:
    return team({}, members[0][1], [op for op, _ in members])


def _on_device(size: int, operation: str, device: torch.device) -> Candidate:
    op, work = _contiguous(size, operation, device)
    if device.type == "cuda":
        op, work = record_graph(op, GRAPH_OPS), work * GRAPH_OPS
    return Candidate({}, work, timer(op, device))


def perform(operation: str, arrays: Sequence[Tensor]) -> Callable[[], Any]:
    """Return the operation on the arrays, which allocates nothing."""
    a = arrays[0]
    if operation == "triad":
        return lambda: torch.add(arrays[1], arrays[2], alpha=3.0, out=a)
    if operation == "copy":
        return lambda: a.copy_(arrays[1])
    total = torch.empty((), device=a.device)
    dims = tuple(range(a.dim()))
    return lambda: torch.sum(a, dim=dims, out=total)


def _contiguous(size: int, operation: str, device: torch.device) -> tuple[Callable[[], Any], float]:
    n = size // (ITEM * ARRAYS[operation])
    arrays = [torch.ones(n, device=device) for _ in range(ARRAYS[operation])]
    return perform(operation, arrays), float(ITEM * n * len(arrays))


def _repeat_in_cache(size: int, operation: str) -> tuple[Callable[[], Any], float]:
    """Return an operation that goes over the same small working set many times in one call.

    A call on a small array is mostly the cost of starting it. So each array is a view of shape (r, r, r, n) whose rows
    start one cache line after another: r^3 rows over n + 3 (r - 1) lines.
    """
    count = ARRAYS[operation]
    r = max(1, math.ceil((CALL_BYTES["cpu"] / size) ** (1 / 3)))
    drift = 3 * LINE * (r - 1)
    n = max(LINE, (size // (ITEM * count) - drift) // LINE * LINE)
    arrays = [torch.ones(n + drift).as_strided((r, r, r, n), (LINE, LINE, LINE, 1)) for _ in range(count)]
    return perform(operation, arrays), float(ITEM * count * arrays[0].numel())


def _take_pieces(arrays: Sequence[Tensor], operation: str, piece_bytes: int) -> tuple[Callable[[], Any], float]:
    """Return an operation that takes the next piece of the arrays at each call.

    So a call is short, and no data of a piece is still in a cache when its turn comes again.
    """
    operands = arrays[: ARRAYS[operation]]
    n = len(operands[0])
    piece = max(1, min(n, piece_bytes // (ITEM * len(operands))))
    pieces: Iterator[Callable[[], Any]] = itertools.cycle(
        [perform(operation, [a[start : start + piece] for a in operands]) for start in range(0, n - piece + 1, piece)]
    )
    return lambda: next(pieces)(), float(ITEM * len(operands) * piece)  # noqa: PLW0108 - each call takes another piece
