"""Engines: what drives a model. Nothing outside of an engine assumes a framework; a plugin may bring one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from llmbench.contract.specs import Batch, BuildRequest, CollateContext, Feature, Layout, ModelSpec, PrecisionSpec
from llmbench.contract.step_trial import StepTrial

Graph = Callable[[Any], Any]


class StepGraphs(NamedTuple):
    """The three calls of a training step that is one call, such as a compiled graph. Each returns the loss of arrays.

    Each does what the one before does and more. The clean pass and training call `update`. The phase pass calls all
    three: a phase is the time that a call takes more than the one before.
    """

    loss: Graph  # compute the loss
    gradients: Graph  # and the gradients
    update: Graph  # and apply them: the whole step


@dataclass(frozen=True)
class EngineRequest:
    """How a cell is to be run; the options are those of `Cell`. Options that an engine lacks are Unsupported."""

    device: str  # cpu, cuda, cuda:N, mps or auto
    precision: PrecisionSpec  # of the numbers that are computed
    compiled: bool = False  # by the engine's compiler
    cuda_graphs: bool = False  # steps are recorded and replayed
    threads: int | None = None  # of one operator, None: as the framework does
    accumulation: int = 1  # parts that a batch is taken in
    checkpointing: bool = False  # activations are computed again in the backward pass
    pin_memory: bool = True  # batches lie in page-locked memory, where there is a device to copy to


class CompileWatch(Protocol):
    """An observer, from outside, of the compilation in first steps."""

    def stop(self, first_step_s: float | None = None, steady_step_s: float | None = None) -> Mapping[str, object]:
        """Return the record's `compilation`: times, and counts of graphs, recompilations and graph breaks."""


class Engine(Protocol):
    """A model on a device with an optimizer. `mark` and `seconds_between` are the only clock for device work.

    `graphs` are `StepGraphs` (or a plain tuple of the three, in that order) where a training step is one call. None: a
    step is `forward` and `backward` for each of `parts`, then `update`; those four are for this case alone.
    """

    @property
    def graphs(self) -> tuple[Graph, Graph, Graph] | None:
        """The three calls of a training step that is one call; None for a step of several calls."""

    def build(self, model: ModelSpec, request: BuildRequest, *, seed: int) -> None:
        """Make the model on the device, from random weights drawn from `seed` (or from `request.weights`)."""

    def prepare_training(self, *, learning_rate: float, steps: int, optimizer: str) -> None:
        """Make the optimizer and its schedule."""

    def batches(
        self,
        features: Sequence[Feature],
        order: Sequence[Sequence[int]],
        layout: Layout,
        ctx: CollateContext,
        workers: int,
    ) -> Iterator[Batch]:
        """Collate `order` (lists of indices into `features`), ahead of use where `workers` > 0."""

    def copy(self, batch: Batch) -> Any:
        """Move the arrays to the device; what comes back is what the calls below take."""

    def forward(self, arrays: Any) -> Any:
        """Return the loss, on the device."""

    def parts(self, arrays: Any) -> Sequence[tuple[Any, float]]:
        """Split a batch into micro-batches; return each with its weight in the loss."""

    def backward(self, loss: Any) -> None:
        """Compute gradients."""

    def update(self) -> None:
        """Apply gradients and clear them."""

    def predict(self, arrays: Any, *, max_new_tokens: int) -> list[Any]:
        """Return the head's predictions (see `llmbench.contract.specs`), one per example."""

    def loss_value(self, loss: Any) -> float:
        """Return the loss as a number; this waits for the device."""

    def synchronize(self) -> None:
        """Wait until the device has done everything it was given."""

    def mark(self) -> Any:
        """Note a point in the device's time without waiting for it."""

    def seconds_between(self, marks: Sequence[Any]) -> list[float]:
        """Return the times between consecutive marks; waits for the last."""

    def peak_memory_mib(self) -> float:
        """Return the peak since `build`: of the device's allocator, or of the process on the CPU."""

    def capacity_mib(self) -> float:
        """Return the memory that the device has."""

    def limit_memory(self, memory_mib: float) -> None:
        """Let the device give this process so much at most; the host's memory is limited by the executor."""

    def free_memory(self) -> None:
        """Drop gradients and give cached memory back, also after a step that failed."""

    def parameters(self) -> int:
        """Return the number of trained parameters, each counted once."""

    def compile_watch(self) -> CompileWatch | None:
        """Return a watch over compilation, from now to its `stop`; None where nothing is compiled or nobody knows."""

    def trial(self, plain: StepTrial) -> StepTrial:
        """Return the step under test as causes see it: `plain`, which knows batches and clock, or more than that.

        Nothing may be learned in it: learning rates are 0 from here on, so use the engine for nothing else afterwards.
        """

    def memory_parts(self, batch: Batch, *, train: bool) -> Mapping[str, object]:
        """Return the parts of a step's memory in MiB: `weights_mib` and, for training, `gradients_mib`,
        `optimizer_mib` and `activations_mib`. An unknown part is None, and `parts_reason` then says why. Takes a
        training step, so call it after all timing.
        """

    def trace(self, batch: Batch, *, train: bool, max_new_tokens: int) -> Mapping[str, object]:
        """Trace one step on `batch`: its operators and where its time goes.

        Call it after all timing: it restores nothing.

        - `rows`: operators (phase, operator_class, name, dtype, calls, flops, recomputed_flops, bytes), counted in one
          step; the bytes of one call differ by less than a factor of two within a row
        - `times`: seconds per step (phase, operator_class, name, seconds), of operators and, class `host`, of the rest
          of each phase; they add up to `phases_s` on the CPU. None where it cannot be told (`notes` says why)
        - `totals`: flops (`recomputed_flops` of them repeat earlier work), bytes, and kernels (on the CPU: calls);
          each may be None, and `rows` empty, where `notes` says why
        - `shapes`: of the arrays, and `new_ids` of a generation, as `ModelSpec.flops` takes them
        """

    def save(self, path: Path) -> None:
        """Write the weights as safetensors."""

    def load(self, path: Path, *, strict: bool) -> list[str]:
        """Read weights; not `strict` takes what fits and returns the names taken."""


@dataclass(frozen=True)
class EngineSpec:
    """An engine, which models name (`ModelSpec.engine`).

    `open(request)` returns the engine; it runs in the cell's process, and imports there what it needs. Raises
    Unsupported where a device, an option or a package is lacking, with what to install. `preload` are modules worth
    importing once for all cells, in a server from which their processes are forked: none that starts a thread.
    """

    name: str  # what models call it
    open: Callable[[EngineRequest], Engine]
    description: str = ""  # one line for `plugins list`
    preload: tuple[str, ...] = ()
