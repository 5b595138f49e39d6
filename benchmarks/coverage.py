"""How often the nominal 95 % intervals hold the truth, by simulation. `python benchmarks/coverage.py [RUNS]`.

A simulated run has cells, a cell P fresh processes. A process has a level of its own (normal on the log scale, SD 5 %)
and step times around it; its number of steps is fixed from a pilot. The truth is exp(expected log median of a
process), from the distribution itself: median step times are what is reported. The bimodal steps (70 % around 1, 30 %
around 1.2) have their median inside one mode; where it lies between two, a median jumps and `reliability` says so.
"""

from __future__ import annotations

import math
import sys
from statistics import NormalDist

import numpy as np

from llmbench import stats

BETWEEN_SD, WITHIN_SD, MODE_SD = 0.05, 0.05, 0.02
SECOND_MODE, SECOND_SHARE = math.log(1.2), 0.3
RHO = {"ar(0.3)": 0.3, "ar(0.5)": 0.5}
KINDS = ("normal", "log-normal", "bimodal", *RHO)
MOST, LEAST_STEPS, MOST_STEPS, PILOT_STEPS = 12, 200, 400, 20
CELLS = 12


def steps(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Log step times around their process's level, along the last axis."""
    noise = rng.standard_normal(shape)
    if kind == "normal":
        return np.log1p(np.maximum(WITHIN_SD * noise, -0.9))
    if kind == "bimodal":
        return MODE_SD * noise + SECOND_MODE * (rng.random(shape) < SECOND_SHARE)
    rho = RHO.get(kind, 0.0)
    for i in range(1, shape[-1] if rho else 0):
        noise[..., i] = rho * noise[..., i - 1] + math.sqrt(1 - rho**2) * noise[..., i]
    return WITHIN_SD * noise


def true_log(kind: str) -> float:
    """Median of log step times around their process's level."""
    if kind != "bimodal":
        return 0.0
    low, high = 0.0, SECOND_MODE
    for _ in range(60):
        middle = (low + high) / 2
        first, second = (NormalDist(mu, MODE_SD).cdf(middle) for mu in (0.0, SECOND_MODE))
        low, high = (low, middle) if (1 - SECOND_SHARE) * first + SECOND_SHARE * second > 0.5 else (middle, high)
    return low


def medians(kind: str, runs: int, seed: int = 0, processes: int = MOST) -> np.ndarray:
    """Log medians less the truth and their levels, runs x processes; each process has the steps its pilot asks for."""
    rng = np.random.default_rng(seed)
    pilots = np.exp(steps(kind, rng, (runs, processes, PILOT_STEPS)))
    times = steps(kind, rng, (runs, processes, MOST_STEPS))
    found = np.empty((runs, processes))
    for i in np.ndindex(runs, processes):
        count = min(MOST_STEPS, max(LEAST_STEPS, stats.samples_for(pilots[i].tolist(), 1.0)))
        found[i] = np.median(times[i][:count])
    return found - true_log(kind)


def one_step(log_medians: np.ndarray) -> list[list[float]]:
    """Processes of one step, the median: intervals over processes see nothing else."""
    return [[x] for x in np.exp(log_medians).tolist()]


def holds(estimate: stats.Estimate) -> bool:
    return estimate.low <= 1.0 and (estimate.high is None or estimate.high >= 1.0)


def student(within: np.ndarray, count: int, seed: int = 1) -> tuple[float, float]:
    """Coverage and median half-width (%) of intervals over `count` processes, each cell on its own."""
    levels = BETWEEN_SD * np.random.default_rng(seed).standard_normal((len(within), count))
    found = [stats.process_interval(one_step(run)) for run in levels + within[:, :count]]
    return _summary(found)


def moderated(
    within: np.ndarray, count: int, cells: str = "differ", share: float = 0.5, seed: int = 2
) -> tuple[float, float]:
    """The same with a prior from 12 cells; the first is the one looked at.

    cells: `alike` (one variance), `differ` (scaled inverse chi-squared with 4 degrees of freedom: SDs of 3 to 12 %),
    `rounds` (alike, and `share` of the variance is shared by all cells of a round).
    """
    rng = np.random.default_rng(seed)
    found = []
    for run in within[:, :count]:
        sds = BETWEEN_SD * (np.sqrt(4 / rng.chisquare(4, CELLS)) if cells == "differ" else np.ones(CELLS))
        own, shared = rng.standard_normal((CELLS, count)), rng.standard_normal(count)
        common = share if cells == "rounds" else 0.0
        logs = sds[:, None] * (math.sqrt(1 - common) * own + math.sqrt(common) * shared)
        logs[0] += run
        processes = [one_step(cell) for cell in logs]
        found.append(stats.process_interval(processes[0], prior=stats.fit_prior(processes)))
    return _summary(found)


def stein(within: np.ndarray, first: int, ci_pct: float = 5.0, seed: int = 3) -> tuple[float, float]:
    """The same with Stein's rule: `first` processes, then as many as they ask for, at most 12."""
    levels = BETWEEN_SD * np.random.default_rng(seed).standard_normal(within.shape)
    found = []
    for run in levels + within:
        plan = stats.processes_for(one_step(run[:first]), ci_pct, most=MOST)
        found.append(stats.stein_interval(one_step(run[: plan.count]), first, ci_pct).estimate)
    return _summary(found)


def _summary(found: list[stats.Estimate]) -> tuple[float, float]:
    widths = [math.inf if e.half_width_pct is None else e.half_width_pct for e in found]
    return sum(map(holds, found)) / len(found), float(np.median(widths))


def main(runs: int) -> None:
    """Print the table: coverage in percent, and the median half-width in percent."""
    print(f"{runs} simulated runs; binomial standard error {100 * math.sqrt(0.05 * 0.95 / runs):.1f} points\n")
    print("| steps | P | Student | moderated | Stein, first P of at most 12 |\n|---|---|---|---|---|")
    for kind in KINDS:
        within = medians(kind, runs)
        for count in (2, 3, 4, 5):
            results = [method(within, count) for method in (student, moderated, stein)]
            shown = [f"{100 * held:.1f} % (± {width:.1f} %)" for held, width in results]
            print(f"| {kind} | {count} | {' | '.join(shown)} |", flush=True)
    within = medians("log-normal", runs, processes=3)
    for cells in ("alike", "differ", "rounds"):
        for count in (2, 3):
            held, width = moderated(within, count, cells)
            print(f"moderated, cells {cells}, P = {count}: {100 * held:.1f} % (± {width:.1f} %)", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
