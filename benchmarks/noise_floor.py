"""How often two runs of the same thing are told apart: `python benchmarks/noise_floor.py [--runs 10] [-o DIR]`.

The same cells are run several times with interleaved rounds (round r of every run, then round r + 1: a run is resumed
with one repeat more). Every pair of runs is then compared by permutation of the process labels (`stats.runs_differ`),
and every cell of a pair by its interval (`stats.ratio_interval`). Nothing differs, so whatever is told apart is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from llmbench import stats
from llmbench.contract.files import write_atomic
from llmbench.records.attempts import latest_attempts
from llmbench.records.run_dir import RunDir

KEEP = "finetune and classification"
LEVEL = 0.05


def measure(folder: Path, runs: int, rounds: int, keep: str) -> None:
    """Run the cells of `quick` that `keep` keeps: `rounds` rounds, each of all runs."""
    for repeat in range(1, rounds + 1):
        for run in range(runs):
            command = [sys.executable, "-m", "llmbench", "run", "quick", "-k", keep, "-o", str(folder / f"run-{run}")]
            command += [
                "--set",
                f"repeats={repeat}",
                "--set",
                "steps={pretrain: 1, finetune: 1}",
                "--set",
                "seconds=1.0",
                "--set",
                "verify=none",
            ]
            subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
            print(f"round {repeat} of {rounds}, run {run + 1} of {runs}", file=sys.stderr)


def processes_of(folder: Path) -> dict[str, list[list[float]]]:
    """Return cell label -> step times (s) of each process."""
    groups: dict[str, list[dict]] = {}
    with RunDir.open(folder, write=False) as run_dir:
        for record in run_dir.records():
            groups.setdefault(record["cell_id"], []).append(record)
    found = {}
    for group in groups.values():
        cell = group[0]["cell"]
        times = [r["samples"]["step_s"] for _, r in sorted(latest_attempts(group).items()) if r["status"] == "ok"]
        found[f"{cell['stage']}/{cell['model']}/{cell['task']}"] = times
    return found


def compare(runs: list[dict[str, list[list[float]]]]) -> dict:
    """Return how often pairs of runs, and cells of pairs, are told apart, and how far equal cells lie apart."""
    pairs = list(itertools.combinations(runs, 2))
    names = [name for name in runs[0] if all(name in run for run in runs)]
    p_values = [stats.runs_differ([a[n] for n in names], [b[n] for n in names]).p for a, b in pairs]
    wrong, ratios, widths = 0, [], []
    for a, b in pairs:
        prior = stats.fit_prior([side[n] for n in names for side in (a, b)])
        for name in names:
            found = stats.ratio_interval(a[name], b[name], prior=prior)
            ratios.append(found.value)
            widths.append(found.half_width_pct)
            wrong += not found.low <= 1.0 <= found.high
    return {
        **{"runs": len(runs), "cells": names, "processes": len(runs[0][names[0]]), "pairs": len(pairs)},
        "runs_told_apart": sum(p < LEVEL for p in p_values),
        "runs_told_apart_pct": 100 * sum(p < LEVEL for p in p_values) / len(pairs),
        "cells_told_apart_pct": 100 * wrong / len(ratios),
        "apart_pct": {q: _quantile([100 * abs(r - 1) for r in ratios], q / 100) for q in (50, 90, 95)},
        "half_width_pct_median": statistics.median(widths),
        "p_values": sorted(p_values),
    }


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """Measure, compare and print; write `noise_floor.json` and the environment into the folder given by -o."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-k", dest="keep", default=KEEP)
    parser.add_argument("-o", dest="output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmbench-") as work:
        folder = Path(work)
        measure(folder, options.runs, options.rounds, options.keep)
        found = compare([processes_of(folder / f"run-{i}") for i in range(options.runs)])
        print(json.dumps({k: v for k, v in found.items() if k != "p_values"}, indent=1))
        if options.output:
            environments = json.loads((folder / "run-0" / "environment.json").read_text())
            document = {"noise_floor": found, "environments": environments}
            write_atomic(options.output / "noise_floor.json", json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
