"""The loops: steps that are timed, training and scoring. `passes` decides how many steps are timed."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from llmbench.contract.engines import Engine
from llmbench.contract.specs import Batch, CollateContext, Feature, Layout

if TYPE_CHECKING:
    from llmbench.contract.record import Emit, Series, Shapes, Training

Step = Callable[[Engine, Batch], Any]
Note: TypeAlias = "Callable[[Shapes, Any], None]"  # the shapes of a batch's arrays, and the result of its step

EVENT_SECONDS = 0.5  # between two progress events: more of them would take time from the steps


@dataclass(frozen=True)
class Feed:
    """The parts that make batches: an engine, features and their layout."""

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
    if engine.graphs is not None:
        return engine.graphs[-1](engine.copy(batch))  # `StepGraphs.update`
    total = None
    for arrays, share in engine.parts(engine.copy(batch)):
        loss = engine.forward(arrays)
        if share != 1:  # one of several parts: gradients add up to those of the whole batch
            loss = loss * share
        engine.backward(loss)
        total = loss if total is None else total + loss.detach()
    engine.update()
    return total


def train(engine: Engine, batches: Iterator[Batch], steps: int, emit: Emit) -> Training:
    """Train for `steps` steps; return steps, seconds, tokens, and the loss at about 50 points."""
    every = max(1, steps // 50)
    losses: list[tuple[int, Any]] = []
    tokens = 0
    last_event = time.monotonic()
    begin = time.perf_counter()
    for step, batch in enumerate(batches, start=1):
        loss = train_step(engine, batch)
        tokens += batch.tokens
        if step % every == 0 or step == steps:
            losses.append((step, engine.loss_value(loss)))
            if not math.isfinite(losses[-1][1]) and engine.loss_value(loss) != math.inf:
                raise FloatingPointError(f"loss is {losses[-1][1]} at step {step} of {steps}")
            if time.monotonic() - last_event > EVENT_SECONDS:
                last_event = time.monotonic()
                emit({"event": "train", "step": step, "steps": steps, "loss": losses[-1][1]})
    engine.synchronize()
    seconds = time.perf_counter() - begin
    return {"steps": steps, "seconds": seconds, "tokens": tokens, "loss": [list(pair) for pair in losses]}


def run_steps(engine: Engine, batches: Iterator[Batch], step: Step, count: int, note: Note | None = None) -> Series:
    """Take `count` steps; return their times and the numbers of tokens and examples in them.

    `step_s` are whole steps, the wait for the batch included. `step_fetch_s` and `step_collate_s` are the seconds that
    the batch took to make, wherever that was done: with loader processes a step does not wait for it. `note` is called
    for each step when all are over. Nothing large stays alive from step to step: batches or losses would cost the later
    steps memory, and so time.
    """
    seen: list[tuple[float, ...]] = []
    noted: list[tuple[Shapes, Any]] = []
    marks = [engine.mark()]
    for batch in itertools.islice(batches, count):
        result = step(engine, batch)
        marks.append(engine.mark())
        seen.append((batch.tokens, batch.padding_tokens, batch.examples, batch.fetch_s, batch.collate_s))
        if note:
            noted.append(({name: array.shape for name, array in batch.arrays.items()}, result))
    step_s = engine.seconds_between(marks)
    for shapes, result in noted if note else ():
        note(shapes, result)  # type: ignore[misc]
    names = ("step_tokens", "step_padding_tokens", "step_examples", "step_fetch_s", "step_collate_s")
    return {"step_s": step_s, **{name: [row[i] for row in seen] for i, name in enumerate(names)}}


def predict_all(
    engine: Engine, feed: Feed, order: Sequence[Sequence[int]], max_new_tokens: int, emit: Emit
) -> list[Any]:
    """Return one prediction per feature, in the order of the features."""
    predictions: list[Any] = [None] * len(feed.features)
    last_event = time.monotonic()
    for number, (indices, batch) in enumerate(zip(order, feed(order), strict=True), start=1):
        for index, prediction in zip(
            indices, engine.predict(engine.copy(batch), max_new_tokens=max_new_tokens), strict=True
        ):
            predictions[index] = prediction
        if time.monotonic() - last_event > EVENT_SECONDS:
            last_event = time.monotonic()
            emit({"event": "score", "step": number, "steps": len(order), "loss": None})
    return predictions
