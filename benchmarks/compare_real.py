"""Whether `compare` finds a planted delay and nothing else, in earnest: `python benchmarks/compare_real.py [-o FILE]`.

The same cells are run three times with interleaved rounds, in another order each: as they are, as they are again, and
with a model that sleeps 10 % of its step. Leave the machine alone meanwhile. The first three rounds say how many would
decide (`pilot`, for changes of 10 %): give that many with `--rounds`, and the same `--folder` to keep the first ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmbench.analysis.comparison import Comparison, compare_runs
from llmbench.contract.cell import Budget
from llmbench.records import attempts
from llmbench.records.read import Run, read_runs
from llmbench.report.tables.comparison import document, summary

SUITE = """
name: delay
matrix: {model: [late, lstm, bert], size: tiny, task: [classification, qa], stage: finetune}
defaults: {batch_size: 16, seq_len: 64, target_len: 24, vocab_size: 1024, train_examples: 1000, steps: 1}
verify: none
"""
#: Clean timing of each process: the default budget of a cell, which its default three repeats share.
PROCESS_S = Budget().seconds / 3
PLUGIN = Path(__file__).parents[1] / "tests" / "support" / "delayed_models.py"
PLANTED_PCT = 10.0
#: Rounds from which the number of rounds is planned.
PILOT = 3


RUNS = {"base": 0.0, "again": 0.0, "late": PLANTED_PCT}


def done(folder: Path, name: str) -> int:
    """Return how many rounds a run has whole."""
    if not (folder / name / "records.jsonl").exists():
        return 0
    found = [
        attempts.latest_attempts(group) for group in attempts.by_cell(read_runs(folder / name)[0].records).values()
    ]
    return min(map(len, found), default=0)


def measure(folder: Path, name: str, repeat: int) -> None:
    """Add one round to a run: resume it with one repeat more."""
    command = [sys.executable, "-m", "llmbench", "run", "delay.yaml", "-o", name, "--plugin", str(PLUGIN), "--quiet"]
    command += ["--set", f"repeats={repeat}", "--set", f"budget.seconds={PROCESS_S * repeat:.3f}"]
    environment = os.environ | {"LATE_PCT": str(RUNS[name])}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, env=environment)


def measure_all(folder: Path, rounds: int, until: float) -> bool:
    """Measure what is missing of `rounds` rounds, in another order each; return whether all is there by `until`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "delay.yaml").write_text(SUITE)
    for repeat in range(1, rounds + 1):
        names = list(RUNS)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            if done(folder, name) < repeat:
                if time.monotonic() > until:
                    return False
                measure(folder, name, repeat)
                print(f"round {repeat} of {rounds}: {name}", file=sys.stderr, flush=True)
    return True


def first(run: Run, rounds: int) -> Run:
    """Return the first rounds of a run."""
    return dataclasses.replace(run, records=[r for r in run.records if r["repeat"] < rounds])


def show(found: Comparison) -> None:
    """Print the verdicts."""
    print(summary(found))
    for cell in found.cells:
        ends = ", ".join("?" if edge is None else f"{100 * (edge - 1):+.1f}" for edge in (cell.low, cell.high))
        change = f"{100 * (cell.change - 1):+.1f} % [{ends}]"
        print(f"  {cell.cell['model']}/{cell.cell['task']}: {change} {cell.verdict} {cell.repeats_to_decide or ''}")


def main() -> None:
    """Measure, compare, print the verdicts; write both comparisons to the file given by -o."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the runs here, and go on where they ended")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no run after that; needs --folder")
    parser.add_argument("-o", dest="output", type=Path)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="llmbench-") as work:
        folder = options.folder or Path(work)
        if not measure_all(folder, options.rounds, until):
            sys.exit("out of time; the same command goes on")
        found = {f"{options.rounds} rounds": options.rounds, "pilot": PILOT}
        written = {}
        for name, rounds in found.items():
            base, again, late = (first(read_runs(folder / name)[0], rounds) for name in RUNS)
            pairs = [compare_runs(base, head, margin_pct=PLANTED_PCT) for head in (again, late)]
            print(f"{name}:")
            for one in pairs:
                show(one)
            written[name] = [document(one) for one in pairs]
        if options.output:
            options.output.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
