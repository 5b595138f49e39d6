"""How often `compare` cries wolf, and what it finds: `python benchmarks/compare_power.py [--runs 1000] [-o FILE]`.

Pairs of runs of 50 cells are simulated. Log process medians are normal; what cells of a round share has its own part of
the variance. In every pair one cell is slower; each other cell that is called slower or faster is a false alarm.
`best possible`: the power of the most powerful test that knows all variances and keeps false alarms to 1 % in 50 cells.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from llmbench import stats
from llmbench.analysis.comparison import LEVEL, MARGIN_PCT, _verdict

CELLS = 50


@dataclass(frozen=True)
class Setting:
    """`sd_pct`: of a process; `shared`: part of its variance that all cells of a round share; `spread`: degrees of
    freedom of the chi-squared distribution that cells' variances are scaled by (None: all alike)."""

    sd_pct: float
    shared: float
    repeats: int
    slow_pct: float = 3.0
    spread: float | None = None


SETTINGS = [
    *(Setting(1.0, 0.5, p) for p in (2, 3, 4, 6)),
    *(Setting(1.0, 0.0, p) for p in (3, 4, 6, 8)),
    *(Setting(1.0, 0.5, 3, spread=d) for d in (20.0, 4.0)),
    Setting(1.0, 0.5, 3, slow_pct=10.0),
    Setting(1.0, 0.5, 3, slow_pct=0.0),
    *(Setting(sd, 0.5, 3) for sd in (2.0, 4.0)),
]


def simulate(setting: Setting, runs: int, seed: int = 0) -> dict:
    """Return shares (%) of pairs with a false alarm and with the slow cell found, and what undecided cells ask for."""
    rng = np.random.default_rng(seed)
    own_sd = np.full((CELLS, 1), setting.sd_pct / 100 * math.sqrt(1 - setting.shared))
    alarms = shared_alarms = found = 0
    verdicts: dict[str, int] = {}
    wanted: list[int] = []
    for _ in range(runs):
        scale = 1.0
        if setting.spread:
            scale = np.sqrt(setting.spread / rng.chisquare(setting.spread, (CELLS, 1)))
        sides = []
        for slow in (0.0, setting.slow_pct):
            rounds = rng.normal(0, setting.sd_pct / 100 * math.sqrt(setting.shared), setting.repeats)
            logs = rounds + rng.normal(0, 1, (CELLS, setting.repeats)) * own_sd * scale
            logs[0] += math.log1p(slow / 100)
            sides.append([[[value] for value in row] for row in np.exp(logs).tolist()])
        result = stats.find_changes(*sides, LEVEL)
        names = []
        for cell in result.cells:
            interval = cell.own or cell.ratio
            names.append(_verdict(interval.low, interval.high, MARGIN_PCT / 100))
        found += names[0] == "slower"
        alarms += any(name in ("slower", "faster") for name in names[1:])
        shared_alarms += result.common is not None and not result.common.low <= 1 <= result.common.high
        for name, cell in zip(names, result.cells, strict=True):
            verdicts[name] = verdicts.get(name, 0) + 1
            if name == "undecided":
                wanted.append(stats.repeats_to_decide(cell, result.each, MARGIN_PCT / 100, setting.repeats) or 999)
    cells = runs * CELLS
    return {
        **asdict(setting),
        "runs": runs,
        "false_alarm_pct": 100 * alarms / runs,
        "shared_alarm_pct": 100 * shared_alarms / runs,
        "found_pct": 100 * found / runs,
        "best_possible_pct": None if setting.spread else 100 * best_possible(setting),
        "same_pct": 100 * verdicts.get("same", 0) / cells,
        "undecided_pct": 100 * verdicts.get("undecided", 0) / cells,
        "repeats_to_decide": statistics.median(wanted) if wanted else None,
    }


def best_possible(setting: Setting) -> float:
    """Return the power of the two-sided z test with known variance at 1 % in 50 cells, by Bonferroni."""
    error = setting.sd_pct / 100 * math.sqrt((1 - setting.shared) * 2 / setting.repeats)
    limit = NormalDist().inv_cdf(1 - (1 - LEVEL) / CELLS / 2)
    return NormalDist().cdf(math.log1p(setting.slow_pct / 100) / error - limit)


def _print(*values: object) -> None:
    print("|" + "|".join(f" {value} " for value in values) + "|", flush=True)


def main() -> None:
    """Simulate every setting and print a Markdown table; write the numbers to the file given by -o."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("-o", dest="output", type=Path)
    options = parser.parse_args()
    heading = ("SD of processes", "shared by a round", "variances", "processes", "slower by", "found", "best possible")
    _print(*heading, "false alarm")
    _print(*["---"] * 8)
    rows = []
    for setting in SETTINGS:
        rows.append(row := simulate(setting, options.runs))
        alike = "alike" if setting.spread is None else f"chi-squared, {setting.spread:g}"
        best = "" if row["best_possible_pct"] is None else f"{row['best_possible_pct']:.0f} %"
        sizes = (
            f"{setting.sd_pct:g} %",
            f"{100 * setting.shared:g} %",
            alike,
            setting.repeats,
            f"{setting.slow_pct:g} %",
        )
        _print(*sizes, f"{row['found_pct']:.1f} %", best, f"{row['false_alarm_pct']:.1f} %")
        print(json.dumps(row), file=sys.stderr, flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
