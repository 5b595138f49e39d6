"""What drives a model. Nothing outside an engine assumes a framework."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmbench.specs import Batch, BuildRequest, CollateContext, Feature, Layout, ModelSpec, PrecisionSpec


class Engine(Protocol):
    """A model on a device with an optimizer. `mark` and `seconds_between` are the only clock for device work."""

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
        """Return what an update takes one after the other, and the share of the loss that each part has."""

    def backward(self, loss: Any) -> None:
        """Compute gradients."""

    def update(self) -> None:
        """Apply gradients and clear them."""

    def predict(self, arrays: Any, *, max_new_tokens: int) -> list[Any]:
        """Return the head's predictions (see `llmbench.specs`), one per example."""

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
        """Drop gradients and give cached memory back, also behind a step that failed."""

    def parameters(self) -> int:
        """Return the number of trained parameters, each counted once."""

    def memory_parts(self, batch: Batch, *, train: bool) -> dict[str, float]:
        """Return what the memory of a step is for, in MiB: `weights_mib` and, for training, `gradients_mib`,
        `optimizer_mib` and `activations_mib`. Takes a training step; call it behind all timing.
        """

    def trace(self, batch: Batch, *, train: bool, max_new_tokens: int) -> dict[str, Any]:
        """Return what one step on `batch` does and where its time goes. Call it behind all timing: it restores nothing.

        - `rows`: operators (phase, operator_class, name, dtype, calls, flops, recomputed_flops, bytes), counted in one
          step; the bytes of one call differ by less than a factor of two within a row
        - `times`: seconds per step (phase, operator_class, name, seconds), of operators and, class `host`, of the rest
          of each phase; they add up to `phases_s` on the CPU. None where it cannot be told (`notes` says why)
        - `totals`: flops (`recomputed_flops` of them repeat earlier work), bytes, and kernels (on the CPU: calls)
        - `shapes`: of the arrays, and `new_ids` of a generation, as `ModelSpec.flops` takes them
        """

    def save(self, path: Path) -> None:
        """Write the weights as safetensors."""

    def load(self, path: Path, *, strict: bool) -> list[str]:
        """Read weights; not `strict` takes what fits and returns the names taken."""


def make_engine(name: str, *, device: str, precision: PrecisionSpec, compiled: bool, **options: Any) -> Engine:
    """Return the engine called `name`; raises Unsupported when the device is absent. `options`: see the engine."""
    from llmbench.errors import PluginError

    if name == "torch":
        from llmbench.worker.torch_engine import TorchEngine

        return TorchEngine(device=device, precision=precision, compiled=compiled, **options)
    raise PluginError(f"unknown engine {name!r} (known: torch)")
