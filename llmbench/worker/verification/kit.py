"""A step of a built-in model outside of a run: the conformance kit tries causes on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmbench.contract.cell import Cell
from llmbench.contract.engines import Engine
from llmbench.contract.job import Job
from llmbench.contract.specs import BuildRequest, CollateContext, ModelSpec
from llmbench.contract.step_trial import StepTrial
from llmbench.worker.job import measure
from llmbench.worker.measuring.loops import Feed
from llmbench.worker.measuring.step_kinds import Prediction, StepKind, Training
from llmbench.worker.verification.cell_trial import make_cell_trial

if TYPE_CHECKING:
    from llmbench.contract.record import Measurements


@dataclass(frozen=True)
class Step:
    """A step and the batches that it is taken on: `order` are batches of indices into the feed's features."""

    engine: Engine
    feed: Feed
    order: Sequence[list[int]]
    kind: StepKind

    def trial(self, cell: Cell, name: str) -> StepTrial:
        """Return a trial of the step, settled: learning rates are 0 from here on. `name` is the engine's."""
        trial = make_cell_trial(self.engine, self.feed, self.order, self.kind, cell, name=name, memory_used=0.0)
        trial.settle(0.05)
        return trial

    def measure(self, job: Job) -> Measurements:
        """Measure the step; return the fields of its record."""
        return measure(job, self.engine, self.feed, self.kind)


def open_step(
    engine: Engine,
    model: ModelSpec,
    request: BuildRequest,
    features: Any,
    order: Sequence[list[int]],
    ctx: CollateContext,
    *,
    head: str,
) -> Step:
    """Return the step of a model that `engine` has built; it trains where `ctx` collates for training."""
    feed = Feed(engine, features, model.layouts[head], ctx, 0)
    return Step(engine, feed, order, (Training if ctx.train else Prediction)(model, request))
