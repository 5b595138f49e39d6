"""How a cell is measured: warm-up, the clean pass, the phase pass and what inference adds to it.

The clean pass has nothing attached and gives the step time. The phase pass takes pairs of steps on the same batch, one
clean and one with a mark at each phase boundary, so that both have equal work and equal drift.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from llmbench import stats
from llmbench.contract.engines import Engine
from llmbench.contract.specs import Batch
from llmbench.worker.measuring.loops import Note, Step, run_steps
from llmbench.worker.measuring.step_kinds import MarkedStep, StepKind

if TYPE_CHECKING:
    from llmbench.contract.record import Phases, Series, Timing

MIN_WARMUP_STEPS = 6
MAX_WARMUP_STEPS = 60
MIN_PILOT_STEPS = 8
MAX_PILOT_STEPS = 30  # so many show how steps follow each other
PILOT_SHARE = 0.3  # of the time of the pass: a pilot of more than the fewest steps takes no more
MIN_SAMPLES = 10
MAX_SAMPLES = 2000
FEWEST_STEPS = MIN_WARMUP_STEPS + MIN_PILOT_STEPS + MIN_SAMPLES
MIN_PAIRS = 6  # of the phase pass, where a step is slow
MAX_PAIRS = 50
PHASE_WARMUP_STEPS = 2
#: Percent of the step: further pairs are taken until half the interval of the residual (the time that the phases do
#: not explain) should be so narrow.
RESIDUAL_WIDTH_PCT = 5.0
MORE_TIMES = 3.0  # all pairs may take so many times as long as the first ones


@dataclass(frozen=True)
class PhasePass:
    """Times of phases, and of clean steps on the same batches; index i of every list is the same batch."""

    phases: Phases
    samples: Series


class Watch(Protocol):
    """An observer of the clean pass from outside, such as a power meter."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> Mapping[str, object]:
        """Return the readings since `start`."""


@dataclass(frozen=True)
class CleanPass:
    """The raw times, how they were taken, and the readings of each watch by its name."""

    samples: Series
    how: Timing
    readings: dict[str, Mapping[str, object]]


def run_clean_pass(
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
    """Time whole steps, the wait for the batch included, with nothing attached.

    Warm up until the step time is steady, estimate its spread in a pilot, fix the number of samples from that, and take
    them: to stop when the interval happens to be narrow enough would spoil its coverage. Samples are those of
    `loops.run_steps`.

    Where even FEWEST_STEPS are more than `most_steps`, a quarter of `most_steps` warms up (`steady` is then None: it
    is not known whether that was enough), a quarter is the pilot and the rest is timed.
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
    readings = {name: watch.stop() for name, watch in watches.items()}
    for shapes, result in results if note else ():
        note(shapes, result)  # type: ignore[misc]
    how: Timing = {"warmup_steps": warmup, "steady": steady, "pilot_steps": len(pilot), "samples_wanted": wanted}
    return CleanPass(samples, {**how, "samples": count, "wall_s": wall_s}, readings)


def warm_up(engine: Engine, batches: Iterator[Batch], step: Step, *, limit_s: float) -> tuple[int, bool]:
    """Step until the step time is on one level; return the number of steps, and whether it was steady at the end.

    The times are judged after 6 steps and then after half as many again, up to 60 steps or `limit_s` seconds.
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


def affordable_pairs(step_s: float, seconds: float) -> int:
    """Return the number of pairs of steps that take about `seconds`."""
    return max(MIN_PAIRS, min(MAX_PAIRS, int(seconds / (2 * step_s))))


def order_in_pairs(order: Sequence[list[int]], pairs: int) -> list[list[int]]:
    """Return the batches to warm up on, then `pairs` batches of `order`, each twice in a row."""
    used = list(order[: PHASE_WARMUP_STEPS + pairs])
    return [*used[:PHASE_WARMUP_STEPS], *(batch for batch in used[PHASE_WARMUP_STEPS:] for _ in range(2))]


def run_phase_pass(
    engine: Engine, batches: Iterator[Batch], kind: StepKind, pairs: int, max_pairs: int = 0
) -> PhasePass:
    """Take every batch of `order_in_pairs` once clean and once with a mark at each phase boundary, in changing order.

    The clean times are `paired_step_s`; the phases of a pass that disturbs nothing add up to them. Where the residual
    of the first `pairs` would not be known to RESIDUAL_WIDTH_PCT, their spread decides how many more are taken, up to
    `max_pairs` in all. Nothing waits for the device until all of these, or of those, are over.
    """
    clean: list[float] = []
    phases: list[dict[str, float]] = []

    def take(count: int) -> None:
        """Take `count` further pairs."""
        wholes: list[list[Any]] = []
        parts: list[MarkedStep] = []
        for pair in range(len(clean), len(clean) + count):
            for half in (0, 1):
                if half == pair % 2:
                    begin = engine.mark()
                    kind.step(engine, next(batches))
                    wholes.append([begin, engine.mark()])
                else:
                    parts.append(kind.take_marked(engine, batches))
        clean.extend(engine.seconds_between(marks)[0] for marks in wholes)
        phases.extend(part.phases(engine.seconds_between(part.marks)) for part in parts)

    for batch in itertools.islice(batches, PHASE_WARMUP_STEPS):
        kind.step(engine, batch)
    take(pairs)
    if pairs < max_pairs:
        take(min(max_pairs, max(pairs, _pairs_for_residual(clean, phases))) - pairs)
    by_name = {name: [each[name] for each in phases] for name in phases[0]}
    return PhasePass(by_name, {"paired_step_s": clean})


def _pairs_for_residual(clean: Sequence[float], phases: Sequence[Mapping[str, float]]) -> int:
    """Return the number of pairs that would give the residual to RESIDUAL_WIDTH_PCT, by the spread of these."""
    sums = (sum(each.values()) for each in phases)
    ratios = [total / whole for total, whole in zip(sums, clean, strict=True) if total > 0 and whole > 0]
    return stats.samples_for(ratios, RESIDUAL_WIDTH_PCT) if ratios else 0
