"""Ceilings that are neither arithmetic nor memory: copies to a device and back, starting operators, reading a file."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from llmbench.worker.ceilings.sampling import Candidate, Clock, Meter, estimate
from llmbench.worker.ceilings.timing import SAMPLE_S, timer, wait, wall_timer

if TYPE_CHECKING:
    from llmbench.contract.record import CeilingEstimate

    Estimates: TypeAlias = dict[str, CeilingEstimate | None]

COPY_BYTES = 64 << 20
FILE_BYTES = 64 << 20
CHUNK_BYTES = 8 << 20
FILE_PASSES = 4  # over the file, each a sample
STILL_CACHED = "the page cache could not be emptied of the file, so this is memory and not storage"
MAYBE_CACHED = "whether the page cache was emptied of the file cannot be seen here"


def copies(device: torch.device, for_s: float, clock: Clock) -> tuple[dict[str, Estimates], dict[str, str]]:
    """Return `host_to_device` and `device_to_host`, each with `pinned` and `pageable` (bytes/s), and the reasons."""
    directions, kinds = ("host_to_device", "device_to_host"), ("pinned", "pageable")
    if device.type != "cuda":
        reason = f"{device.type} has no memory of its own that is copied to"
        keys = [f"{direction}.{kind}" for direction in directions for kind in kinds]
        return {direction: dict.fromkeys(kinds) for direction in directions}, dict.fromkeys(keys, reason)
    on_device = torch.ones(COPY_BYTES // 4, device=device)
    rates_of: dict[str, Estimates] = {direction: {} for direction in directions}
    for kind in kinds:
        on_host = torch.ones(COPY_BYTES // 4, pin_memory=kind == "pinned")
        for direction, to, source in (
            (directions[0], on_device, on_host),
            (directions[1], on_host, on_device),
        ):
            op = timer(_copy(to, source, kind == "pinned"), device)
            rates = Meter(Candidate({}, COPY_BYTES, op), SAMPLE_S["cuda"]).burst(for_s / 4, clock, least=5)
            rates_of[direction][kind] = estimate(rates, bytes=COPY_BYTES)
    return rates_of, {}


def _copy(to: torch.Tensor, source: torch.Tensor, pinned: bool) -> Callable[[], Any]:
    return lambda: to.copy_(source, non_blocking=pinned)


def launch(device: torch.device, for_s: float, clock: Clock) -> tuple[Estimates, dict[str, str]]:
    """Return the seconds that starting an operator on a single number takes, and the reasons for what is not known.

    `launch_latency_s`: one of many started back to back; on the CPU that is the cost of dispatching it.
    `round_trip_s`: started alone and waited for.
    """
    a, b, out = (torch.ones(1, device=device) for _ in range(3))

    def op() -> None:
        torch.add(a, b, out=out)

    many = wall_timer(op, device)

    def alone(calls: int) -> float:
        start_s = time.perf_counter()
        for _ in range(calls):
            op()
            wait(device)
        return time.perf_counter() - start_s

    sample_s = SAMPLE_S["cpu"]
    launch_s = _seconds(many, for_s / 2, clock, sample_s)
    if device.type == "cpu":
        reasons = {"round_trip_s": "the CPU runs an operator when it is called; there is nothing to wait for"}
        return {"launch_latency_s": launch_s, "round_trip_s": None}, reasons
    return {"launch_latency_s": launch_s, "round_trip_s": _seconds(alone, for_s / 2, clock, sample_s)}, {}


def _seconds(time_s: Callable[[int], float], for_s: float, clock: Clock, sample_s: float) -> CeilingEstimate:
    rates = Meter(Candidate({}, 1.0, time_s), sample_s).burst(for_s, clock, least=20)
    return estimate([1 / rate for rate in rates], of_times=True)


def storage(folder: str | None, size: int = FILE_BYTES) -> tuple[CeilingEstimate | None, str | None]:
    """Return the sequential read bandwidth (bytes/s) of the file system of `folder`, and why it is unknown.

    A file is written, flushed to the device, dropped from the page cache and read in chunks, several times; a sample is
    one pass. `cache_dropped` is False where the cache kept it (a file system in memory, say), None where that cannot be
    seen; `note` then says so. Caches of the device, and of a host under a virtual machine, are part of the number.
    """
    if not hasattr(os, "posix_fadvise"):
        return None, "this system cannot drop a file from its page cache"
    try:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".llmbench-read-", dir=folder) as file:
            fd = file.fileno()
            block = os.urandom(CHUNK_BYTES)  # a file system that compresses must not win
            for _ in range(size // CHUNK_BYTES):
                file.write(block)
            file.flush()
            os.fsync(fd)
            dropped = _drop(fd, size)
            rates = [size / seconds for _ in range(FILE_PASSES) if (seconds := _read_s(fd, size)) > 0]
    except OSError as error:
        return None, f"no file could be written and read: {error.strerror}"
    if not rates:
        return None, "the reads were too short for the clock"
    note = {True: None, False: STILL_CACHED, None: MAYBE_CACHED}[dropped]
    bandwidth = estimate(rates, bytes=size, cache_dropped=dropped)
    if note:
        bandwidth["note"] = note
    return bandwidth, None


def _drop(fd: int, size: int) -> bool | None:
    """Drop the file from the page cache; return whether that worked, None where it does not show."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    buffer = bytearray(1)
    cached = 0
    for place in range(0, size, max(1, size // 4)):  # a read that must not wait finds only what is cached
        try:
            cached += os.preadv(fd, [buffer], place, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                return None
            raise
    return cached == 0


def _read_s(fd: int, size: int) -> float:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    buffer = bytearray(CHUNK_BYTES)
    with contextlib.suppress(AttributeError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    start_s = time.perf_counter()
    for place in range(0, size, CHUNK_BYTES):
        os.preadv(fd, [buffer], place)
    return time.perf_counter() - start_s
