"""How a cell is measured: warm-up, the clean pass, the phase pass and what inference adds to it.

The clean pass has nothing attached and gives the step time. The phase pass takes pairs of steps on the same batch,
one clean and one with a mark at each phase boundary, so that both see equal work and equal drift.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from llmbench import stats
from llmbench.contract.engines import Engine
from llmbench.contract.specs import Batch
from llmbench.worker.measuring.loops import Note, Step, run_steps
from llmbench.worker.measuring.step_kinds import Work

MIN_WARMUP_STEPS, MAX_WARMUP_STEPS = 6, 60
#: The pilot sees how steps follow each other only when it is long; it may take this share of the time.
MIN_PILOT_STEPS, MAX_PILOT_STEPS, PILOT_SHARE = 8, 30, 0.3
MIN_SAMPLES, MAX_SAMPLES = 10, 2000
FEWEST_STEPS = MIN_WARMUP_STEPS + MIN_PILOT_STEPS + MIN_SAMPLES
#: The phase pass: pairs of steps, fewer where a step is slow.
MIN_PAIRS, MAX_PAIRS, PHASE_WARMUP_STEPS = 6, 50, 2
#: Half the width of the interval of what the phases leave over, in percent of the step, which further pairs are taken
#: for; they take at most so many times what the first ones may.
RESIDUAL_WIDTH_PCT, MORE_TIMES = 5.0, 3.0


@dataclass(frozen=True)
class PhasePass:
    """Times of phases, and of the same batches in clean steps; index i of every list is the same batch."""

    phases: dict[str, list[float]]
    samples: dict[str, list[float]]


class Watch(Protocol):
    """What looks on from outside while the clean pass runs, such as a power meter."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> dict[str, Any]:
        """Return what was seen since."""


@dataclass(frozen=True)
class CleanPass:
    """The raw times and how they were taken; `seen`: what the watches saw, by name."""

    samples: dict[str, list[float]]
    how: dict[str, Any]
    seen: dict[str, dict[str, Any]]


def timed_pass(
    engine: Engine,
    batches: Iterator[Batch],
    step: Step,
    *,
    seconds: float,
    ci_pct: float,
    note: Note | None = None,
    watches: Mapping[str, Watch] = MappingProxyType({}),
    most_steps: int | None = None,
) -> CleanPass:
    """Time whole steps, input wait included, with nothing attached.

    Warms up until the step time is steady, estimates the spread in a pilot, fixes the number of samples from it
    (stopping when the interval is narrow enough would spoil its coverage), and takes them.
    Samples are those of `stages.run_steps`. Where even the usual fewest steps are more than `most_steps`, a quarter of
    those warms up (whether that was enough is not known), a quarter is the pilot and the rest is timed.
    """
    if most_steps is not None and most_steps < FEWEST_STEPS:
        warmup, steady = len(run_steps(engine, batches, step, max(1, most_steps // 4))["step_s"]), None
        pilot = run_steps(engine, batches, step, max(1, most_steps // 4))["step_s"]
        wanted = stats.samples_for(pilot, ci_pct)
        count = max(1, most_steps - warmup - len(pilot))
    else:
        warmup, steady = warm_up(engine, batches, step, limit_s=max(1.0, seconds))
        pilot = run_steps(engine, batches, step, MIN_PILOT_STEPS)["step_s"]
        affordable = int(PILOT_SHARE * seconds / statistics.fmean(pilot))
        more = min(MAX_PILOT_STEPS, affordable) - len(pilot)
        if more > 0:
            pilot += run_steps(engine, batches, step, more)["step_s"]
        wanted = stats.samples_for(pilot, ci_pct)
        count = max(MIN_SAMPLES, min(wanted, int(seconds / statistics.fmean(pilot)), MAX_SAMPLES))
    results: list[tuple[Any, Any]] = []
    engine.synchronize()
    for watch in watches.values():
        watch.start()
    begin = time.perf_counter()
    samples = run_steps(engine, batches, step, count, (lambda *pair: results.append(pair)) if note else None)
    wall_s = time.perf_counter() - begin
    seen = {name: watch.stop() for name, watch in watches.items()}
    for shapes, result in results if note else ():
        note(shapes, result)  # type: ignore[misc]
    how = {"warmup_steps": warmup, "steady": steady, "pilot_steps": len(pilot), "samples_wanted": wanted}
    return CleanPass(samples, {**how, "samples": count, "wall_s": wall_s}, seen)


def warm_up(engine: Engine, batches: Iterator[Batch], step: Step, *, limit_s: float) -> tuple[int, bool]:
    """Step until the step time is on one level; return how many steps that took, and whether it was reached in time.

    Looked at after 6 steps and then after half as many again, up to 60 steps or `limit_s` seconds.
    """
    times: list[float] = []
    begin = time.perf_counter()
    while True:
        times += run_steps(engine, batches, step, max(MIN_WARMUP_STEPS, len(times) // 2))["step_s"]
        if stats.is_steady(times):
            return len(times), True
        if len(times) >= MAX_WARMUP_STEPS or time.perf_counter() - begin > limit_s:
            return len(times), False


# --- the phase pass -------------------------------------------------------------------------------------


def pairs_for(step_s: float, seconds: float) -> int:
    """Return how many pairs of steps take about `seconds`."""
    return max(MIN_PAIRS, min(MAX_PAIRS, int(seconds / (2 * step_s))))


def paired_order(order: Sequence[list[int]], pairs: int) -> list[list[int]]:
    """Return batches to warm up on, then `pairs` batches of `order` given twice in a row each."""
    used = list(order[: PHASE_WARMUP_STEPS + pairs])
    return [*used[:PHASE_WARMUP_STEPS], *(batch for batch in used[PHASE_WARMUP_STEPS:] for _ in range(2))]


def phase_pass(engine: Engine, batches: Iterator[Batch], work: Work, pairs: int, most: int = 0) -> PhasePass:
    """Take every batch of `paired_order` once clean and once with a mark at each phase boundary, in changing order.

    The clean times are `paired_step_s`; a phase pass that disturbs nothing adds up to them. Where `pairs` of them
    scatter so much that what is left over would not be known to RESIDUAL_WIDTH_PCT, their spread says how many more
    are taken, up to `most` in all. Nothing waits for the device until all of these, or of those, are over.
    """
    for batch in itertools.islice(batches, PHASE_WARMUP_STEPS):
        work.step(engine, batch)
    clean: list[float] = []
    split: list[Sequence[float]] = []
    while len(clean) < pairs:
        wholes: list[list[Any]] = []
        parts: list[list[Any]] = []
        for pair in range(len(clean), pairs):
            for half in (0, 1):
                if half == pair % 2:
                    begin = engine.mark()
                    work.step(engine, next(batches))
                    wholes.append([begin, engine.mark()])
                else:
                    parts.append(work.marks(engine, batches))
        clean += [engine.seconds_between(marks)[0] for marks in wholes]
        split += [work.split(engine.seconds_between(marks)) for marks in parts]
        if pairs < most:
            sums = map(sum, split)
            ratios = [seconds / whole for seconds, whole in zip(sums, clean, strict=True) if seconds > 0 and whole > 0]
            wanted = stats.samples_for(ratios, RESIDUAL_WIDTH_PCT) if ratios else 0
            pairs, most = min(most, max(pairs, wanted)), 0
    phases = {name: [seconds[i] for seconds in split] for i, name in enumerate(work.phases)}
    return PhasePass(phases, {"paired_step_s": clean})
