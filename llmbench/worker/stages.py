"""The loops that are measured: a step, the clean timed pass, the phase pass, training and scoring."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench import stats
from llmbench.specs import Batch, CollateContext, Feature, Layout
from llmbench.worker.engine import Engine

Emit = Callable[[dict[str, Any]], None]

MIN_WARMUP_STEPS, MAX_WARMUP_STEPS = 3, 60
PILOT_STEPS = 8
MIN_SAMPLES, MAX_SAMPLES = 10, 2000
PHASE_STEPS = 12
EVENT_SECONDS = 0.5  # between two progress events


@dataclass(frozen=True)
class Feed:
    """Everything needed to make batches again and again."""

    engine: Engine
    features: Sequence[Feature]
    layout: Layout
    ctx: CollateContext
    workers: int

    def __call__(self, order: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Return the batches of `order`."""
        return self.engine.batches(self.features, order, self.layout, self.ctx, self.workers)


def train_step(engine: Engine, batch: Batch) -> Any:
    """Run one training step and return its loss, still on the device."""
    loss = engine.forward(engine.copy(batch))
    engine.backward(loss)
    engine.update()
    return loss


def train(engine: Engine, batches: Iterator[Batch], steps: int, emit: Emit) -> dict[str, Any]:
    """Train for `steps` steps. Returns steps, seconds, tokens, and the loss at about 50 points."""
    every = max(1, steps // 50)
    losses: list[tuple[int, Any]] = []
    tokens, told = 0, time.monotonic()
    begin = time.perf_counter()
    for step, batch in enumerate(batches, start=1):
        loss = train_step(engine, batch)
        tokens += batch.tokens
        if step % every == 0 or step == steps:
            losses.append((step, engine.loss_value(loss)))
            if not math.isfinite(losses[-1][1]) and engine.loss_value(loss) != math.inf:
                raise FloatingPointError(f"loss is {losses[-1][1]} at step {step} of {steps}")
            if time.monotonic() - told > EVENT_SECONDS:
                told = time.monotonic()
                emit({"event": "train", "step": step, "steps": steps, "loss": losses[-1][1]})
    engine.synchronize()
    seconds = time.perf_counter() - begin
    return {"steps": steps, "seconds": seconds, "tokens": tokens, "loss": [list(pair) for pair in losses]}


def timed_pass(
    engine: Engine, batches: Iterator[Batch], step: Callable[[Engine, Batch], Any], *, seconds: float, ci_pct: float
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Time whole steps, input wait included, with nothing attached.

    Warms up until the step time is steady, estimates the spread in a pilot, fixes the number of samples from it
    (stopping when the interval is narrow enough would spoil its coverage), and takes them.
    Returns samples (`step_s`, `step_tokens`, `step_padding_tokens`, `step_examples`) and how they were taken.
    """
    warmup = warm_up(engine, batches, step, limit_s=max(1.0, seconds))
    pilot = run_steps(engine, batches, step, PILOT_STEPS)["step_s"]
    mean = sum(pilot) / len(pilot)
    wanted = stats.samples_for(pilot, ci_pct)
    affordable = int(seconds / mean)
    count = max(MIN_SAMPLES, min(wanted, affordable, MAX_SAMPLES))
    samples = run_steps(engine, batches, step, count)
    how = {"warmup_steps": warmup, "pilot_steps": PILOT_STEPS, "samples_wanted": wanted, "samples": count}
    return samples, how


def warm_up(engine: Engine, batches: Iterator[Batch], step: Callable[[Engine, Batch], Any], *, limit_s: float) -> int:
    """Step until the last steps show no trend any more, or the limit; return how many steps that took."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < MAX_WARMUP_STEPS:
        times += run_steps(engine, batches, step, MIN_WARMUP_STEPS)["step_s"]
        if stats.steady_from(times) + MIN_WARMUP_STEPS <= len(times) or time.perf_counter() - begin > limit_s:
            break
    return len(times)


def run_steps(
    engine: Engine, batches: Iterator[Batch], step: Callable[[Engine, Batch], Any], count: int
) -> dict[str, list[float]]:
    """Take `count` steps and return their times and what was in them."""
    seen: list[Batch] = []
    marks = [engine.mark()]
    for batch in itertools.islice(batches, count):
        step(engine, batch)
        marks.append(engine.mark())
        seen.append(batch)
    return {
        "step_s": engine.seconds_between(marks),
        "step_tokens": [b.tokens for b in seen],
        "step_padding_tokens": [b.padding_tokens for b in seen],
        "step_examples": [b.examples for b in seen],
    }


def train_phases(engine: Engine, batches: Iterator[Batch], count: int = PHASE_STEPS) -> dict[str, list[float]]:
    """Time the parts of training steps, in a pass of their own with the device waited for at each boundary."""
    phases: dict[str, list[float]] = {
        name: [] for name in ("input_s", "copy_s", "forward_s", "backward_s", "optimizer_s")
    }
    for _ in range(count):
        engine.synchronize()
        clock = [time.perf_counter()]

        def tick(clock: list[float] = clock) -> None:
            engine.synchronize()
            clock.append(time.perf_counter())

        batch = next(batches)
        tick()
        arrays = engine.copy(batch)
        tick()
        loss = engine.forward(arrays)
        tick()
        engine.backward(loss)
        tick()
        engine.update()
        tick()
        for name, begin, end in zip(phases, clock, clock[1:], strict=False):
            phases[name].append(end - begin)
    return phases


def eval_phases(
    engine: Engine, batches: Iterator[Batch], max_new_tokens: int, count: int = PHASE_STEPS
) -> dict[str, list[float]]:
    """Time the parts of prediction steps. `forward_s` is all of the prediction, decoding included."""
    phases: dict[str, list[float]] = {"input_s": [], "copy_s": [], "forward_s": []}
    for _ in range(count):
        engine.synchronize()
        begin = time.perf_counter()
        batch = next(batches)
        fetched = time.perf_counter()
        arrays = engine.copy(batch)
        engine.synchronize()
        copied = time.perf_counter()
        engine.predict(arrays, max_new_tokens=max_new_tokens)
        engine.synchronize()
        phases["input_s"].append(fetched - begin)
        phases["copy_s"].append(copied - fetched)
        phases["forward_s"].append(time.perf_counter() - copied)
    return phases


def predict_all(
    engine: Engine, feed: Feed, order: Sequence[Sequence[int]], max_new_tokens: int, emit: Emit
) -> list[Any]:
    """Return one prediction per feature, in the order of the features."""
    predictions: list[Any] = [None] * len(feed.features)
    told = time.monotonic()
    for number, (indices, batch) in enumerate(zip(order, feed(order), strict=True), start=1):
        for index, prediction in zip(
            indices, engine.predict(engine.copy(batch), max_new_tokens=max_new_tokens), strict=True
        ):
            predictions[index] = prediction
        if time.monotonic() - told > EVENT_SECONDS:
            told = time.monotonic()
            emit({"event": "score", "step": number, "steps": len(order), "loss": None})
    return predictions
