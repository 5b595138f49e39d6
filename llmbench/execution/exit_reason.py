"""Why a process ended without a record: its exit code, its log and the kernel's counters, read together."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.contract.errors import OUT_OF_MEMORY

if TYPE_CHECKING:
    from llmbench.contract.record import ErrorFields, Status

#: How much of the end of a log goes into a record.
TAIL_LINES = 40
TAIL_BYTES = 8192


@dataclass(frozen=True)
class Ending:
    """How a child ended: its exit code (negative: a signal), or None when it ran past the limit."""

    exit_code: int | None
    started_at: str
    wall_s: float
    result: Any  # the JSON document that it wrote, None without one
    log_tail: str
    oom_kills: int  # by the kernel, in this control group, while the child ran


def explain_exit(ending: Ending, timeout_s: float | None) -> tuple[Status, ErrorFields]:
    """Return the status and the error of a child that left no record."""
    tail = ending.log_tail
    if ending.exit_code is None:
        message = f"ran past the limit of {timeout_s:g} s and was stopped; its stack is in the traceback"
        return "timeout", {"type": "Timeout", "message": message, "traceback": tail}
    if ending.exit_code < 0:
        number = -ending.exit_code
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        what = f"killed by {name} ({signal.strsignal(number)})"
    else:
        name, what = "Exit", f"left with exit code {ending.exit_code} and no record"
    if name == "SIGKILL" and ending.oom_kills > 0:
        return "oom", {"type": name, "message": f"{what}: the machine ran out of memory", "traceback": tail}
    if OUT_OF_MEMORY.search(tail):
        return "oom", {"type": name, "message": f"{what}: out of memory, see its log", "traceback": tail}
    return "crashed", {"type": name, "message": what, "traceback": tail}


def log_size(path: str) -> int:
    """Return the bytes in the log, 0 when there is none."""
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0


def log_tail(path: str, start: int) -> str:
    """Return the last lines that were written to `path` after byte `start`."""
    try:
        with Path(path).open("rb") as file:
            file.seek(max(start, log_size(path) - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def count_oom_kills() -> int:
    """Count the processes of this control group (else: of this machine) that the kernel killed for memory."""
    for path in [*_cgroup_files(), Path("/proc/vmstat")]:
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def _cgroup_files() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            files.append(Path(f"/sys/fs/cgroup{group}/memory.events"))
        elif controllers == "memory":
            files.append(Path(f"/sys/fs/cgroup/memory{group}/memory.oom_control"))
            files.append(Path("/sys/fs/cgroup/memory/memory.oom_control"))
    return files
