"""The two kinds of step that are measured, training and prediction: how one is taken, whole and in its parts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llmbench.contract.engines import Engine
from llmbench.contract.specs import BACKWARD_FACTOR, Batch, BuildRequest, ModelSpec
from llmbench.worker.measuring.loops import Feed

if TYPE_CHECKING:
    from llmbench.contract.record import Counts, Memory, Series, Shapes, Trace

TRAIN_PHASES = ("input_s", "copy_s", "forward_s", "backward_s", "optimizer_s")
PREDICT_PHASES = ("input_s", "copy_s", "forward_s")
GENERATE_PHASES = ("input_s", "copy_s", "prefill_s", "decode_s")
MIB = 2**20
GENERATED = "new_ids"  # the shape of the tokens that a generation makes, for `ModelSpec.flops`

OwnShapes = Mapping[str, tuple[int, ...]]


class MarkedStep(NamedTuple):
    """A step with a mark at each boundary of its parts."""

    marks: list[Any]  # of `Engine.mark`
    phases: Callable[[Sequence[float]], dict[str, float]]  # the seconds of each phase, from those between the marks


class StepKind(Protocol):
    """A kind of step: how one is taken, whole or with marks, and what a record says of it."""

    @property
    def trains(self) -> bool:
        """Whether a step has a backward pass."""

    @property
    def generates(self) -> bool:
        """Whether a step makes tokens one after the other."""

    @property
    def max_new_tokens(self) -> int:
        """How long a generation may get."""

    def step(self, engine: Engine, batch: Batch) -> Any:
        """Take a step with nothing attached."""

    def take_marked(self, engine: Engine, batches: Iterator[Batch]) -> MarkedStep:
        """Take a step on the next batch with a mark at each boundary of its parts."""

    def note(self, shapes: Shapes, result: Any) -> None:
        """Remember a step of the clean pass: the shapes of its arrays, and its result."""

    def samples(self) -> Series:
        """Return further samples, one number per step of the clean pass (`paired_...`: of the phase pass).

        A name whose numbers are not known is left out.
        """

    def cache_memory(self) -> Memory:
        """Return the mean size of the generation cache in MiB as `kv_cache_mib`; empty where nothing is generated."""

    def counts(self, trace: Trace) -> Counts:
        """Return FLOPs, bytes and kernels of the mean step, from the trace of one batch."""


class _CellStep:
    """The steps of a clean pass, as both kinds remember them: shapes, and lengths of generations."""

    trains = True
    generates = False

    def __init__(self, model: ModelSpec, request: BuildRequest, element_bytes: int = 4) -> None:
        self.model, self.request, self.element_bytes = model, request, element_bytes
        self.max_new_tokens = request.target_len
        self.shapes: list[OwnShapes] = []
        self.generated: Series = {}

    def note(self, shapes: Shapes, result: Any) -> None:
        """Remember the shapes, and the lengths of a generation."""
        own = {name: tuple(shape) for name, shape in shapes.items()}
        if self.generates:
            lengths = self.lengths(result)
            own[GENERATED] = (len(lengths), max(lengths))
            self.generated.setdefault("step_generated_tokens", []).append(sum(lengths))
            self.generated.setdefault("step_decode_steps", []).append(max(lengths) - 1)
        self.shapes.append(own)

    def lengths(self, output: Sequence[Sequence[int]]) -> list[int]:
        """Return the number of tokens in each row of a generation; the end of the text counts as one."""
        return [min(len(row) + 1, self.max_new_tokens) for row in output]

    def samples(self) -> Series:
        """Return the model FLOPs of each step, and the tokens of each generation."""
        flops = [self.model_flops(shapes) for shapes in self.shapes]
        known = [value for value in flops if value is not None]
        return {**self.generated, **({"step_model_flops": known} if len(known) == len(flops) else {})}

    def model_flops(self, shapes: OwnShapes) -> float | None:
        """Return the FLOPs that a step of these shapes needs, None where the model's plugin does not say."""
        forward = self.model.flops(self.request, shapes) if self.model.flops else None
        return None if forward is None else forward * (BACKWARD_FACTOR if self.trains else 1)

    def cache_memory(self) -> Memory:
        """Return the mean size of the generation cache in MiB as `kv_cache_mib`; empty where nothing is generated.

        None where the model's plugin does not say.
        """
        shapes = [shape for shape in self.shapes if GENERATED in shape]
        if not shapes:
            return {}
        cache_bytes = self.model.cache_bytes
        sizes = [cache_bytes(self.request, shape, self.element_bytes) for shape in shapes] if cache_bytes else [None]
        known = [size / MIB for size in sizes if size is not None]
        return {"kv_cache_mib": statistics.fmean(known) if len(known) == len(sizes) else None}

    def counts(self, trace: Trace) -> Counts:
        """Scale the traced batch to the mean one: by model FLOPs where they are known, else by the sizes of arrays."""
        traced_shapes = {name: tuple(shape) for name, shape in trace["shapes"].items()}
        known, traced_flops = self.samples().get("step_model_flops"), self.model_flops(traced_shapes)
        model_flops = statistics.fmean(known) if known else None
        if model_flops is not None and traced_flops:
            factor = model_flops / traced_flops
        else:
            factor = statistics.fmean(map(_elements, self.shapes)) / (_elements(traced_shapes) or 1.0)
        totals = trace["totals"]

        def of_mean_step(total: float | None) -> float | None:
            return None if total is None else total * factor

        return {
            "flops": of_mean_step(totals["flops"]),
            "recomputed_flops": of_mean_step(totals["recomputed_flops"]),
            "bytes": of_mean_step(totals["bytes"]),
            "model_flops": model_flops,
            "kernels": totals["kernels"],
        }


def _elements(shapes: OwnShapes) -> float:
    return float(sum(map(math.prod, shapes.values())))


def _fetch(engine: Engine, batches: Iterator[Batch]) -> tuple[list[Any], Any]:
    """Fetch and copy the next batch; return the marks before, between and after, and the arrays on the device."""
    marks = [engine.mark()]
    batch = next(batches)
    marks.append(engine.mark())
    arrays = engine.copy(batch)
    return [*marks, engine.mark()], arrays


class Training(_CellStep):
    """Forward, backward, update.

    On a device with streams the marks are events and nothing waits for them: `input_s` is then the time in which the
    device has nothing to do because the host is still waiting for the batch.

    The last loss lives until the next one is there, as in any loop that says `loss = model(batch)`. The moment at
    which it is freed decides how much memory the C library gives back, which the next step has to fault in again. To
    keep all losses would cost memory.
    """

    trains = True

    def __init__(self, model: ModelSpec, request: BuildRequest) -> None:
        super().__init__(model, request)
        self.loss: Any = None

    def step(self, engine: Engine, batch: Batch) -> None:
        """Take one training step."""
        if engine.graphs is not None:
            self.loss = engine.graphs[-1](engine.copy(batch))  # `StepGraphs.update`
            return
        for part, share in engine.parts(engine.copy(batch)):
            self._forward(engine, part, share)
            engine.backward(self.loss)
        engine.update()

    def _forward(self, engine: Engine, part: Any, share: float) -> None:
        self.loss = engine.forward(part)
        if share != 1:  # one of several parts: gradients add up to those of the whole batch
            self.loss = self.loss * share

    def take_marked(self, engine: Engine, batches: Iterator[Batch]) -> MarkedStep:
        """Take one training step with marks; where a step is one graph, run each of `Engine.graphs` in turn."""
        marks, arrays = _fetch(engine, batches)
        if engine.graphs is not None:
            for graph in engine.graphs:
                self.loss = graph(arrays)
                marks.append(engine.mark())
            return MarkedStep(marks, phases_of_graphs)
        for part, share in engine.parts(arrays):
            self._forward(engine, part, share)
            marks.append(engine.mark())
            engine.backward(self.loss)
            marks.append(engine.mark())
        engine.update()
        return MarkedStep([*marks, engine.mark()], phases_of_parts)


def phases_of_parts(seconds: Sequence[float]) -> dict[str, float]:
    """Return the seconds of each phase of training: forward and backward take turns, once for each part of a batch."""
    input_s, copy_s, *turns, update_s = seconds
    return dict(zip(TRAIN_PHASES, (input_s, copy_s, sum(turns[::2]), sum(turns[1::2]), update_s), strict=True))


def phases_of_graphs(seconds: Sequence[float]) -> dict[str, float]:
    """Return the seconds of each phase of training, from those of the three calls of `StepGraphs`.

    Each call does what the one before does and more, so a phase is the difference. Noise may make it negative. It
    stays so: cut off at 0, the phases would add up to more than the step.
    """
    input_s, copy_s, loss_s, gradients_s, step_s = seconds
    phases = (input_s, copy_s, loss_s, gradients_s - loss_s, step_s - gradients_s)
    return dict(zip(TRAIN_PHASES, phases, strict=True))


class Prediction(_CellStep):
    """Prediction of a batch.

    The first token of a generation is timed separately: a call for one token on the same batch, right before the call
    for all of them. So the time to the first token is `prefill_s`. The time per output token is the rest, `decode_s`,
    over the further tokens of the longest row, for which the others wait.
    """

    trains = False

    def __init__(self, model: ModelSpec, request: BuildRequest, element_bytes: int = 4) -> None:
        super().__init__(model, request, element_bytes)
        self.generates = request.head == "generate"

    def step(self, engine: Engine, batch: Batch) -> Any:
        """Predict one batch."""
        return engine.predict(engine.copy(batch), max_new_tokens=self.max_new_tokens)

    def take_marked(self, engine: Engine, batches: Iterator[Batch]) -> MarkedStep:
        """Predict one batch with marks."""
        marks, arrays = _fetch(engine, batches)
        if not self.generates:
            engine.predict(arrays, max_new_tokens=self.max_new_tokens)
            return MarkedStep([*marks, engine.mark()], phases_of_prediction)
        engine.predict(arrays, max_new_tokens=1)
        marks.append(engine.mark())
        output = engine.predict(arrays, max_new_tokens=self.max_new_tokens)
        self.generated.setdefault("paired_decode_steps", []).append(max(self.lengths(output)) - 1)
        return MarkedStep([*marks, engine.mark()], phases_of_generation)


def phases_of_prediction(seconds: Sequence[float]) -> dict[str, float]:
    """Return the seconds of each phase of a prediction."""
    return dict(zip(PREDICT_PHASES, seconds, strict=True))


def phases_of_generation(seconds: Sequence[float]) -> dict[str, float]:
    """Return the seconds of each phase of a generation: the call for one token is not counted in the step."""
    input_s, copy_s, prefill_s, whole_s = seconds
    phases = (input_s, copy_s, min(prefill_s, whole_s), max(0.0, whole_s - prefill_s))
    return dict(zip(GENERATE_PHASES, phases, strict=True))


@dataclass(frozen=True)
class Origin:
    """The parts of which a cell's trial is made, for engines that show more of their step."""

    feed: Feed  # collates in this process
    order: Sequence[list[int]]  # the pool's batches of indices
    work: StepKind
