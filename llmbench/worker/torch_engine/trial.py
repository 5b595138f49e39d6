"""A torch step under test, of built-in cells and of users' modules, as causes see it (`llmbench.contract.specs.Trial`).

Shapes: `B` rows of a batch, `L` tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from llmbench.contract.engines import Engine
from llmbench.contract.errors import DoesNotApply, Unisolated
from llmbench.contract.specs import Batch, CollateContext
from llmbench.contract.step_trial import StepTrial
from llmbench.worker.measuring.loops import Feed
from llmbench.worker.measuring.step_kinds import Origin, StepKind
from llmbench.worker.torch_engine import padding
from llmbench.worker.torch_engine import tensor_trees as trees
from llmbench.worker.torch_engine.loader import as_tensors

if TYPE_CHECKING:
    from llmbench.contract.record import Function


class TorchTrial(StepTrial):
    """See `llmbench.contract.specs.Trial`. Without `regroup` and `tokens`, tensors and module show the padding."""

    def tensors(self, batch: Any) -> dict[str, Tensor]:
        """Return the tensors of `batch` by a name each."""
        return trees.tensors(batch)

    def rebuilt(self, batch: Any, tensors: Mapping[str, Tensor]) -> Any:
        """Return `batch` with other tensors under the same names."""
        return trees.rebuild(batch, tensors)

    def real_tokens(self, batch: Any) -> int | None:
        """Return the tokens that are no padding."""
        if self.tokens is not None:
            return self.tokens(batch)
        shown = padding.find_padding(self.module, self.pool)
        return None if shown is None else sum(shown.lengths(trees.tensors(batch)))

    def regrouped(self) -> list[Any]:
        """Return the pool's examples in batches of the same size, by length, no longer than needed."""
        if self.regroup is not None:
            return self.regroup()
        shown = padding.find_padding(self.module, self.pool)
        if shown is None:
            raise DoesNotApply("no attention mask, padding index or repeated last token shows any padding")
        return padding.regroup(shown, self.pool)

    def merged(self, batches: Sequence[Any]) -> Any:
        """Return one batch with the examples of all."""
        return trees.merge(batches)

    def timed(self, parts: Callable[[Callable[[Function], Function]], AbstractContextManager[Any]]) -> list[float]:
        """Return the seconds per step that calls of the functions take, backward included, at the clean pass's pace."""
        spans = Spans(self.mark)

        def part(batch: Any) -> float:
            spans.marks.clear()
            spans.on = True
            try:
                self.step(batch)
            finally:
                spans.on = False
            return sum(self.between(list(pair))[0] for pair in spans.marks if len(pair) == 2)

        with parts(spans.timer):  # once: finding the places of functions can take longer than a step
            part(self.pool[0])  # warm up
            return [self.paced(lambda batch=batch: part(batch), batch) for batch in self.probes()]  # type: ignore[misc]


class Spans:
    """Marks around calls: of the forward pass, and of their share of the backward pass."""

    def __init__(self, mark: Callable[[], Any]) -> None:
        self.mark = mark
        self.marks: list[list[Any]] = []
        self.on = False
        self._inside = 0

    def timer(self, function: Function) -> Function:
        """Return `function`, timed. A call inside of a timed one is part of that one."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside or not self.on:
                return function(*args, **kwargs)
            back: list[Any] = []
            if torch.is_grad_enabled():
                self.marks.append(back)
                args, kwargs = self._note_end((args, kwargs), back, function)
            self._inside += 1
            begin = self.mark()
            try:
                result = function(*args, **kwargs)
            finally:  # checkpointing ends a recomputation by raising
                self._inside -= 1
                self.marks.append([begin, self.mark()])
            return self._note_start(result, back) if torch.is_grad_enabled() else result

        return call

    def _note_end(self, given: Any, back: list[Any], function: Function) -> Any:
        """Note when the gradients of the arguments are there; without such arguments, those of the parameters."""

        def note() -> None:
            if back:
                back[1:] = [self.mark()]

        tracked = [t for t in trees.tensors(given).values() if t.requires_grad]
        if not tracked:
            owner = getattr(function, "__self__", None)
            for parameter in owner.parameters() if isinstance(owner, torch.nn.Module) else ():
                if parameter.requires_grad:
                    _once(parameter, note)
            return given
        return trees.replace_tensors(
            given, dict(zip(map(id, tracked), _NoteGradients.apply(note, *tracked), strict=True))
        )

    def _note_start(self, result: Any, back: list[Any]) -> Any:
        """Note when the gradients of the results are there."""

        def note() -> None:
            back[:1] = [self.mark()]

        tracked = [t for t in trees.tensors(result).values() if t.requires_grad and t.is_floating_point()]
        if not tracked:
            return result
        return trees.replace_tensors(
            result, dict(zip(map(id, tracked), _NoteGradients.apply(note, *tracked), strict=True))
        )


class _NoteGradients(torch.autograd.Function):
    """Hands tensors on as they are; its backward pass calls `note` when their gradients are there."""

    @staticmethod
    def forward(ctx: Any, note: Callable[[], None], *tensors: Tensor) -> tuple[Tensor, ...]:
        """Hand on."""
        ctx.note = note
        ctx.set_materialize_grads(False)
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Note, and hand on."""
        ctx.note()
        return (None, *grads)


def _once(parameter: Tensor, note: Callable[[], None]) -> None:
    """Call `note` when the parameter's gradient is there, the first time only."""

    def hook(_: Tensor) -> None:
        note()
        handle.remove()

    handle = parameter.register_post_accumulate_grad_hook(hook)


class TrialEngine(Protocol):
    """What is needed of the torch engine."""

    module: torch.nn.Module
    device: torch.device
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    compiled: bool
    eos: int

    def copy(self, batch: Batch) -> dict[str, Tensor]: ...  # noqa: D102
    def autocast(self) -> AbstractContextManager[Any]: ...  # noqa: D102


def torch_trial(engine: TrialEngine, plain: StepTrial) -> TorchTrial:
    """Return the trial of a cell's step: `plain`, with the module and the optimizer of the torch engine."""
    if plain.trains:
        engine.schedule.base_lrs = [0.0 for _ in engine.schedule.base_lrs]
    trial = TorchTrial(**{**vars(plain), "module": engine.module, "device": engine.device.type})
    trial.optimizer = engine.optimizer if plain.trains else None
    trial.compiled = engine.compiled
    if plain.generates:
        origin: Origin = plain.origin
        examples = dict(zip(map(id, trial.pool), origin.order, strict=True))
        trial.one_pass = OnePass(engine, origin.feed, examples, origin.work)
    return trial


class OnePass:
    """Reads prompt and generated tokens of a batch in one pass, by the layout that training uses.

    `examples` are the indices of a batch's examples, by the batch's `id`.
    """

    def __init__(self, engine: TrialEngine, feed: Feed, examples: dict[int, list[int]], work: StepKind) -> None:
        self.engine, self.feed, self.examples, self.work = engine, feed, examples, work

    def __call__(self, batch: Batch) -> tuple[int, Callable[[], Any]]:
        """Return the number of passes that the generation takes, and a function that makes the one pass."""
        engine, feed = self.engine, self.feed
        answers = self.work.step(cast(Engine, engine), batch)
        longest = max(len(ids) for ids in answers) + 1
        targets = [ids + [engine.eos] * (longest - 1 - len(ids)) for ids in answers]
        indices = self.examples[id(batch)]
        features = [{**feed.features[i], "target": ids} for i, ids in zip(indices, targets, strict=True)]
        ctx = CollateContext(**{**vars(feed.ctx), "train": True})
        forced = as_tensors(feed.layout.collate(features, ctx))
        if "labels" not in forced.arrays:
            raise Unisolated("the model's layout has no arrays with known targets")

        @torch.inference_mode()
        def read() -> Any:
            engine.module.eval()
            arrays = {name: t for name, t in engine.copy(forced).items() if name != "labels"}
            with engine.autocast():
                return engine.module(**arrays)

        return longest, read
