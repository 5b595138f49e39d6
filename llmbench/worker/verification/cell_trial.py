"""Trials of built-in cells: the step of an engine, and its batches from the cell's features."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmbench.contract.cell import Cell
from llmbench.contract.engines import Engine
from llmbench.contract.specs import Batch, CauseSpec
from llmbench.contract.step_trial import StepTrial
from llmbench.plugins.registry import Registry
from llmbench.worker.measuring.loops import Feed
from llmbench.worker.measuring.step_kinds import Origin, StepKind

POOL_BATCHES = 16  # on which causes are tried, in a cell and in `diagnose`


def causes(registry: Registry, device: str | None = None) -> list[CauseSpec]:
    """Return all causes, in the order of their names; their advice ends with the remedies that answer them.

    With a `device` (its kind), those remedies that the device can have.
    """
    remedies = [registry.get("remedy", name) for name in registry.names("remedy")]
    remedies = [remedy for remedy in remedies if device is None or device in remedy.devices]
    specs = []
    for name in registry.names("cause"):
        cause = registry.get("cause", name)
        answers = ", ".join(remedy.name for remedy in remedies if name in remedy.answers)
        advice = "; ".join(filter(None, [cause.advice, f"remedies: {answers}" if answers else ""]))
        specs.append(replace(cause, advice=advice))
    return specs


def make_cell_trial(
    engine: Engine, feed: Feed, order: Sequence[list[int]], kind: StepKind, cell: Cell, *, name: str, memory_used: float
) -> StepTrial:
    """Return the trial of a cell's step. `order` are batches of indices, of which the first are the pool.

    Learning rates are 0 for good: use the engine, called `name`, for nothing else afterwards.
    """
    chosen = list(order[:POOL_BATCHES])
    ready = Feed(engine, feed.features, feed.layout, feed.ctx, 0)
    plain = StepTrial(
        module=None,
        optimizer=None,
        device=cell.device.partition(":")[0],
        trains=kind.trains,
        generates=kind.generates,
        pool=list(ready(chosen)),
        take_step=lambda batch: kind.step(engine, batch),
        make_fresh=lambda: _endless(feed, chosen),
        mark=engine.mark,
        between=engine.seconds_between,
        workers=feed.workers,
        regroup=lambda: _regroup(ready, chosen, cell.batch_size),
        tokens=lambda batch: batch.tokens,
        memory_used=memory_used,
        engine=name,
        origin=Origin(ready, chosen, kind),
    )
    return engine.trial(plain)


def _endless(feed: Feed, order: Sequence[list[int]]) -> Iterator[Batch]:
    """Yield the batches of `order` again and again; loader processes are started once for many rounds."""
    while True:
        yield from feed(list(itertools.chain.from_iterable(itertools.repeat(order, 64))))


def _regroup(feed: Feed, order: Sequence[list[int]], batch_size: int) -> list[Batch]:
    """Return the same examples sorted by length, in as many batches."""
    indices = sorted(itertools.chain.from_iterable(order), key=lambda i: feed.layout.length(feed.features[i]))
    return list(feed([indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]))
