"""Trials of built-in cells: the step of an engine, its batches from the cell's features, and what only a cell knows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmbench.contract.cell import Cell
from llmbench.contract.engines import Engine
from llmbench.contract.errors import Unisolated
from llmbench.contract.specs import Batch, CauseSpec, CollateContext
from llmbench.contract.step_trial import StepTrial
from llmbench.plugins.registry import Registry
from llmbench.worker.stages import Feed
from llmbench.worker.work import Work

if TYPE_CHECKING:
    from llmbench.worker.torch_engine import TorchEngine
    from llmbench.worker.trial import TorchTrial

POOL = 16  # batches


def causes(registry: Registry, device: str | None = None) -> list[CauseSpec]:
    """Return all causes, in the order of their names; their advice ends with the remedies that answer them.

    With a `device` (its kind), those that it can have.
    """
    remedies = [registry.get("remedy", name) for name in registry.names("remedy")]
    remedies = [remedy for remedy in remedies if device is None or device in remedy.devices]
    found = []
    for name in registry.names("cause"):
        cause = registry.get("cause", name)
        answers = ", ".join(remedy.name for remedy in remedies if name in remedy.answers)
        advice = "; ".join(filter(None, [cause.advice, f"remedies: {answers}" if answers else ""]))
        found.append(replace(cause, advice=advice))
    return found


@dataclass(frozen=True)
class Origin:
    """What a cell's trial is made of: `feed` collates in the process, `order` are the pool's batches of indices."""

    feed: Feed
    order: Sequence[list[int]]
    work: Work


def cell_trial(
    engine: Engine, feed: Feed, order: Sequence[list[int]], work: Work, cell: Cell, *, name: str, memory_used: float
) -> StepTrial:
    """Return the trial of a cell's step. `order` are batches of indices, of which the first are the pool.

    Learning rates are 0 for good: use the engine, called `name`, for nothing else afterwards.
    """
    chosen = list(order[:POOL])
    ready = Feed(engine, feed.features, feed.layout, feed.ctx, 0)
    plain = StepTrial(
        module=None,
        optimizer=None,
        device=cell.device.partition(":")[0],
        trains=work.trains,
        generates="decode_s" in work.phases,
        pool=list(ready(chosen)),
        take_step=lambda batch: work.step(engine, batch),
        make_fresh=lambda: _endless(feed, chosen),
        mark=engine.mark,
        between=engine.seconds_between,
        workers=feed.workers,
        regroup=lambda: _regrouped(ready, chosen, cell.batch_size),
        tokens=lambda batch: batch.tokens,
        facts={"memory_used": memory_used},
        engine=name,
        origin=Origin(ready, chosen, work),
    )
    return engine.trial(plain)


def torch_trial(engine: TorchEngine, plain: StepTrial) -> TorchTrial:
    """Return what the torch engine shows of a cell's step beyond `plain`."""
    from llmbench.worker.trial import TorchTrial

    if plain.trains:
        engine.schedule.base_lrs = [0.0 for _ in engine.schedule.base_lrs]
    trial = TorchTrial(**{**vars(plain), "module": engine.module, "device": engine.device.type})
    trial.optimizer = engine.optimizer if plain.trains else None
    trial.compiled = engine.compiled
    if plain.generates:
        origin: Origin = plain.origin
        pool = dict(zip(map(id, trial.pool), origin.order, strict=True))
        trial.facts["teacher_forced"] = _Teacher(engine, origin.feed, pool, origin.work)
    return trial


def _endless(feed: Feed, order: Sequence[list[int]]) -> Iterator[Batch]:
    """Yield the batches of `order` again and again; loader processes are started once for many rounds."""
    while True:
        yield from feed(list(itertools.chain.from_iterable(itertools.repeat(order, 64))))


def _regrouped(feed: Feed, order: Sequence[list[int]], batch_size: int) -> list[Batch]:
    """Return the same examples sorted by length, in as many batches."""
    indices = sorted(itertools.chain.from_iterable(order), key=lambda i: feed.layout.length(feed.features[i]))
    return list(feed([indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]))


class _Teacher:
    """One pass over prompt and generated tokens of a batch, by the layout that training uses."""

    def __init__(self, engine: TorchEngine, feed: Feed, order: dict[int, list[int]], work: Work) -> None:
        self.engine, self.feed, self.order, self.work = engine, feed, order, work

    def __call__(self, batch: Batch) -> tuple[int, Callable[[], Any]]:
        """Return how many passes the generation takes, and the one pass."""
        import torch

        from llmbench.worker.torch_engine import as_tensors

        engine, feed = self.engine, self.feed
        made = self.work.step(engine, batch)
        longest = max(len(ids) for ids in made) + 1
        filled = [ids + [engine.eos] * (longest - 1 - len(ids)) for ids in made]
        features = [{**feed.features[i], "target": ids} for i, ids in zip(self.order[id(batch)], filled, strict=True)]
        ctx = CollateContext(**{**vars(feed.ctx), "train": True})
        forced = as_tensors(feed.layout.collate(features, ctx))
        if "labels" not in forced.arrays:
            raise Unisolated("the model's layout has no arrays with known targets")

        @torch.inference_mode()
        def once() -> Any:
            engine.module.eval()
            arrays = {name: t for name, t in engine.copy(forced).items() if name != "labels"}
            with engine._autocast():
                return engine.module(**arrays)

        return longest, once
