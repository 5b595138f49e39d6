"""Seconds and memory of `llmbench report` over many records: `python benchmarks/report_scale.py [RECORDS]...`.

Synthetic records (`many_records.py`) on disk; each format in a process of its own. Memory is that of all its processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from many_records import records

#: case -> records per cell, and whether the first of each cell tried three causes
CASES = {"many-cells": (3, False), "verified": (3, True), "long": (20, False)}


def write(folder: Path, count: int, repeats: int, verified: bool) -> None:
    with (folder / "records.jsonl").open("w") as file:
        for record in records(count, repeats=repeats, verified=verified):
            file.write(json.dumps(record) + "\n")


def measure(folder: Path, form: str) -> dict[str, float]:
    """Return wall and processor seconds of one report and its processes, and the most memory (MiB) of all at once."""
    out = folder / f"report.{form}"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "llmbench", "report", str(folder), "--format", form, "-o", str(out)]
    with psutil.Popen(command, stderr=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(process))
            time.sleep(0.05)
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sizes = {"peak_mib": peak / 2**20, "mib": out.stat().st_size / 2**20}
    return {"wall_s": wall_s, "cpu_s": cpu_s, **sizes}


def resident(process: psutil.Process) -> int:
    """Return the resident bytes of a process and those that it began; pages that they share are counted for each."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[10_000, 30_000, 100_000])
    parser.add_argument("--only", choices=CASES, help="one case instead of all")
    given = parser.parse_args()
    for name, (repeats, verified) in CASES.items():
        for count in given.counts if given.only in (None, name) else ():
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder), count, repeats, verified)
                for form in ("html", "json"):
                    found = measure(Path(folder), form)
                    figures = "  ".join(f"{key} {value:.1f}" for key, value in found.items())
                    print(f"{name:<10} {count:>8,} records  {form}  {figures}", flush=True)


if __name__ == "__main__":
    main()
