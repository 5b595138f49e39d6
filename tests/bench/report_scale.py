"""Seconds and memory of `llmbench report` over many records: `python tests/bench/report_scale.py [RECORDS]...`.

Synthetic records (`many_records.py`) on disk; each format in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from many_records import records

REPORT = "import sys, resource, llmbench.cli as c\ntry: c.main(sys.argv[1:])\nexcept SystemExit as e: code = e.code\n"
REPORT += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\nsys.exit(code)"

#: case -> records per cell, and whether the first of each cell tried three causes
CASES = {"many-cells": (3, False), "verified": (3, True), "long": (20, False)}


def write(folder: Path, count: int, repeats: int, verified: bool) -> None:
    with (folder / "records.jsonl").open("w") as file:
        for record in records(count, repeats=repeats, verified=verified):
            file.write(json.dumps(record) + "\n")


def measure(folder: Path, form: str) -> dict[str, float]:
    """Return wall and processor seconds and the peak memory (MiB) of one report."""
    out = folder / f"report.{form}"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", REPORT, "report", str(folder), "--format", form, "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_mib": float(done.stdout.split()[-1]),
        "mib": out.stat().st_size / 2**20,
    }


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
