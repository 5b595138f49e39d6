"""The two kinds of step that are measured, training and prediction: how one is taken, whole and in its parts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmbench.contract.engines import Engine
from llmbench.contract.specs import BACKWARD_FACTOR, Batch, BuildRequest, ModelSpec
from llmbench.worker.measuring import loops
from llmbench.worker.measuring.loops import Feed

pass
if TYPE_CHECKING:
    pass

Shapes = Mapping[str, tuple[int, ...]]

TRAIN_PHASES = ("input_s", "copy_s", "forward_s", "backward_s", "optimizer_s")
PREDICT_PHASES = ("input_s", "copy_s", "forward_s")
DECODE_PHASES = ("input_s", "copy_s", "prefill_s", "decode_s")
MIB = 2**20
GENERATED = "new_ids"  # the shape of what a generation makes, for `ModelSpec.flops`


class Work(Protocol):
    """A kind of step."""

    @property
    def phases(self) -> Sequence[str]:
        """Names of the parts of a step, as records have them."""

    @property
    def trains(self) -> bool:
        """Whether a step has a backward pass."""

    @property
    def max_new_tokens(self) -> int:
        """How long a generation may get."""

    def step(self, engine: Engine, batch: Batch) -> Any:
        """Take a step with nothing attached."""

    def marks(self, engine: Engine, batches: Iterator[Batch]) -> list[Any]:
        """Take a step on the next batch; return the engine's marks at the boundaries of its parts."""

    def split(self, seconds: list[float]) -> list[float]:
        """Return the seconds of each of `phases` from those between the marks."""

    def note(self, shapes: loops.Shapes, result: Any) -> None:
        """Remember what a step of the clean pass was about: its arrays' shapes, and what it returned."""

    def samples(self) -> dict[str, list[float]]:
        """Return what was noted, one number per step (of the phase pass: `paired_...`); without what is not known."""

    def kept(self) -> dict[str, float | None]:
        """Return the MiB of what the mean step of the clean pass kept from token to token, where it generates."""

    def counts(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        """Return FLOPs, bytes and kernels of the mean step, from the trace of one batch."""


class _Noted:
    """What both kinds remember of the clean pass."""

    trains = True

    def __init__(self, model: ModelSpec, request: BuildRequest, element_bytes: int = 4) -> None:
        self.model, self.request, self.element_bytes = model, request, element_bytes
        self.max_new_tokens = request.target_len
        self.shapes: list[dict[str, tuple[int, ...]]] = []
        self.generated: dict[str, list[float]] = {}

    def note(self, shapes: loops.Shapes, result: Any) -> None:
        """Remember the shapes, and the length of what was generated."""
        own = {name: tuple(shape) for name, shape in shapes.items()}
        if self.request.head == "generate" and not self.trains:
            lengths = self.lengths(result)
            own[GENERATED] = (len(lengths), max(lengths))
            self.generated.setdefault("step_generated_tokens", []).append(sum(lengths))
            self.generated.setdefault("step_decode_steps", []).append(max(lengths) - 1)
        self.shapes.append(own)

    def lengths(self, output: Sequence[Sequence[int]]) -> list[int]:
        """Return how many tokens each row of a generation has; the end is one, too."""
        return [min(len(row) + 1, self.max_new_tokens) for row in output]

    def samples(self) -> dict[str, list[float]]:
        """Return model FLOPs, and the tokens generated, of each step."""
        flops = [self.model_flops(shapes) for shapes in self.shapes]
        known = [value for value in flops if value is not None]
        return {**self.generated, **({"step_model_flops": known} if len(known) == len(flops) else {})}

    def model_flops(self, shapes: Shapes) -> float | None:
        """Return the FLOPs that the model needs for a step of these shapes; None where its plugin does not say."""
        forward = self.model.flops(self.request, shapes) if self.model.flops else None
        return None if forward is None else forward * (BACKWARD_FACTOR if self.trains else 1)

    def kept(self) -> dict[str, float | None]:
        """Return `kv_cache_mib`, None where the model's plugin does not say; nothing where nothing is generated."""
        shapes = [shape for shape in self.shapes if GENERATED in shape]
        if not shapes:
            return {}
        cache_bytes = self.model.cache_bytes
        sizes = [cache_bytes(self.request, shape, self.element_bytes) for shape in shapes] if cache_bytes else [None]
        known = [size / MIB for size in sizes if size is not None]
        return {"kv_cache_mib": statistics.fmean(known) if len(known) == len(sizes) else None}

    def counts(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        """Scale the traced batch to the mean one: by model FLOPs where they are known, else by the sizes of arrays."""
        traced_shapes = {name: tuple(shape) for name, shape in trace["shapes"].items()}
        known, traced_flops = self.samples().get("step_model_flops"), self.model_flops(traced_shapes)
        model_flops = statistics.fmean(known) if known else None
        if model_flops is not None and traced_flops:
            factor = model_flops / traced_flops
        else:
            factor = statistics.fmean(map(_elements, self.shapes)) / (_elements(traced_shapes) or 1.0)
        totals = trace["totals"]
        known_totals = {name: totals[name] for name in ("flops", "recomputed_flops", "bytes")}
        scaled = {name: None if total is None else total * factor for name, total in known_totals.items()}
        return {**scaled, "model_flops": model_flops, "kernels": totals["kernels"]}


def _elements(shapes: Shapes) -> float:
    return float(sum(map(math.prod, shapes.values())))


def _fetched(engine: Engine, batches: Iterator[Batch]) -> tuple[list[Any], Any]:
    """Return the marks around the wait for the next batch and its copy, and what is then on the device."""
    marks = [engine.mark()]
    batch = next(batches)
    marks.append(engine.mark())
    arrays = engine.copy(batch)
    return [*marks, engine.mark()], arrays


class Training(_Noted):
    """Forward, backward, update.

    On a device with streams the marks are events and nothing waits for them: `input` is then the time in
    which the device has nothing to do because the host is still waiting for the batch.

    The last loss lives until the next one is there, as in any loop that says `loss = model(batch)`: what is freed when
    decides how much memory the C library gives back, which the next step has to fault in again. All losses would cost
    memory.
    """

    phases, trains = TRAIN_PHASES, True

    def __init__(self, model: ModelSpec, request: BuildRequest) -> None:
        super().__init__(model, request)
        self.loss: Any = None
        self.nested = False

    def step(self, engine: Engine, batch: Batch) -> None:
        """Take one training step."""
        if engine.graphs is not None:
            self.loss = engine.graphs[-1](engine.copy(batch))
            return
        for part, share in engine.parts(engine.copy(batch)):
            self._forward(engine, part, share)
            engine.backward(self.loss)
        engine.update()

    def _forward(self, engine: Engine, part: Any, share: float) -> None:
        self.loss = engine.forward(part)
        if share != 1:  # one of several parts: gradients add up to those of the whole batch
            self.loss = self.loss * share

    def marks(self, engine: Engine, batches: Iterator[Batch]) -> list[Any]:
        """Take one training step, marked; where a step is one graph, run each of `Engine.graphs` in turn."""
        marks, arrays = _fetched(engine, batches)
        self.nested = engine.graphs is not None
        for graph in engine.graphs or ():
            self.loss = graph(arrays)
            marks.append(engine.mark())
        if self.nested:
            return marks
        for part, share in engine.parts(arrays):
            self._forward(engine, part, share)
            marks.append(engine.mark())
            engine.backward(self.loss)
            marks.append(engine.mark())
        engine.update()
        return [*marks, engine.mark()]

    def split(self, seconds: list[float]) -> list[float]:
        """Return the seconds of each phase: forward and backward take turns where a batch is taken in parts.

        Of graphs, each of which does what the one before does and more, a phase is the difference: noise may make it
        negative, and cutting that off would make the phases more than the step.
        """
        if self.nested:
            input_s, copy_s, loss_s, gradients_s, step_s = seconds
            return [input_s, copy_s, loss_s, gradients_s - loss_s, step_s - gradients_s]
        input_s, copy_s, *turns, update_s = seconds
        return [input_s, copy_s, sum(turns[::2]), sum(turns[1::2]), update_s]


class Prediction(_Noted):
    """Prediction of a batch.

    Of a generation the first token is timed apart: a call for one token on the same batch right before the call for
    all of them. So time to first token is `prefill_s`, and time per output token the rest, `decode_s`, over the
    further tokens of the longest row, for which the others wait.
    """

    trains = False

    def __init__(self, model: ModelSpec, request: BuildRequest, element_bytes: int = 4) -> None:
        super().__init__(model, request, element_bytes)
        self.decodes = request.head == "generate"
        self.phases = DECODE_PHASES if self.decodes else PREDICT_PHASES

    def step(self, engine: Engine, batch: Batch) -> Any:
        """Predict one batch."""
        return engine.predict(engine.copy(batch), max_new_tokens=self.max_new_tokens)

    def marks(self, engine: Engine, batches: Iterator[Batch]) -> list[Any]:
        """Predict one batch, marked."""
        marks, arrays = _fetched(engine, batches)
        if self.decodes:
            engine.predict(arrays, max_new_tokens=1)
            marks.append(engine.mark())
        output = engine.predict(arrays, max_new_tokens=self.max_new_tokens)
        if self.decodes:
            self.generated.setdefault("paired_decode_steps", []).append(max(self.lengths(output)) - 1)
        return [*marks, engine.mark()]

    def split(self, seconds: list[float]) -> list[float]:
        """Take the first token out of a generation."""
        if not self.decodes:
            return seconds
        input_s, copy_s, prefill_s, whole_s = seconds
        return [input_s, copy_s, min(prefill_s, whole_s), max(0.0, whole_s - prefill_s)]


@dataclass(frozen=True)
class Origin:
    """What a cell's trial is made of: `feed` collates in the process, `order` are the pool's batches of indices."""

    feed: Feed
    order: Sequence[list[int]]
    work: Work
