"""Control groups: which limits hold for this process, and how often the CPU limit stopped it.

Both hierarchies: https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/. A limit may sit on any
ancestor, so every level from the process's own group up to the mount is read.
"""

from __future__ import annotations

from pathlib import Path

MIB = 2**20
UNLIMITED_BYTES = 2**60  # version 1 writes the largest page-aligned number where there is no limit


def folders(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's groups for a controller (`cpu`, `memory`), innermost first."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    mount = root / "sys/fs/cgroup"
    every: list[Path] = []
    for line in lines:
        _, names, path = line.split(":", 2)
        bases = [mount / names, mount / controller] if controller in names.split(",") else []
        bases += [mount, mount / "unified"] if not names else []
        for base in bases:
            inner = base / path.lstrip("/")
            levels = [inner, *inner.parents]
            every += [level for level in levels if level.is_relative_to(base) and level.is_dir()]
    return list(dict.fromkeys(every))


def cpu_quota_cores(root: Path) -> float | None:
    """Return the CPU time that the tightest quota allows, in cores; None where there is no quota."""
    quotas = []
    for folder in folders(root, "cpu"):
        quota, _, period = (_text(folder / "cpu.max") or "").partition(" ")
        if not period:
            quota, period = _text(folder / "cpu.cfs_quota_us") or "", _text(folder / "cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit_mib(root: Path) -> float | None:
    """Return the tightest memory limit in MiB; None where there is none."""
    texts = [
        _text(folder / name) or ""
        for folder in folders(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    limits = [int(text) for text in texts if text.isdigit() and int(text) < UNLIMITED_BYTES]
    return min(limits) / MIB if limits else None


def throttling(root: Path) -> tuple[int, float] | None:
    """Return the periods in which the quota stopped this process's groups, and the seconds that threads stood still."""
    periods: int | None = None
    seconds = 0.0
    for folder in folders(root, "cpu"):
        stat = parse_cpu_stat(_text(folder / "cpu.stat") or "")
        if "nr_throttled" in stat:
            periods = (periods or 0) + stat["nr_throttled"]
            seconds += stat.get("throttled_usec", 0) / 1e6 + stat.get("throttled_time", 0) / 1e9
    return None if periods is None else (periods, seconds)


def parse_cpu_stat(text: str) -> dict[str, int]:
    """Return the numbers of a `cpu.stat`; version 2 counts microseconds (`_usec`), version 1 nanoseconds (`_time`)."""
    pairs = [line.split() for line in text.splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
