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
    parser.add_argument("--repeats", type=int, default=20, help="records per cell")
    parser.add_argument("--verified", action="store_true", help="repeat 0 of each cell tried three causes")
    given = parser.parse_args()
    for count in given.counts:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), count, given.repeats, given.verified)
            for form in ("html", "json"):
                found = measure(Path(folder), form)
                print(
                    f"{count:>8,} records  {form}  " + "  ".join(f"{k} {v:.1f}" for k, v in found.items()), flush=True
                )


if __name__ == "__main__":
    main()
