"""Keras on torch: operators run one by one, so that a step is its parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch


class Driver:
    """See the `Engine` methods of the same names."""

    graphs = None

    def __init__(self, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.model: Any = None
        self.optimizer: Any = None
        self.updates = True

    def take(self, model: Any) -> None:
        """Drive this model from now on."""
        self.model = model

    def prepare(self, optimizer: Any) -> None:
        """Train with this optimizer from now on."""
        self.optimizer = optimizer

    def tensors(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arrays as tensors that share their memory."""
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def forward(self, arrays: Mapping[str, Any]) -> Any:
        """Return the loss."""
        return self.model(arrays, training=True)["loss"]

    def backward(self, loss: Any) -> None:
        """Compute gradients."""
        loss.backward()

    def update(self) -> None:
        """Apply the gradients and clear them."""
        variables = self.model.trainable_variables
        if self.updates:
            with torch.no_grad():
                self.optimizer.apply([v.value.grad for v in variables], variables)
        self.forget()

    def outputs(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of the model as numpy arrays, by name."""
        with torch.inference_mode():
            return {name: value.numpy() for name, value in self.model(arrays, training=False).items()}

    def synchronize(self) -> None:
        """Do nothing: on the CPU a call has run when it returns."""

    def forget(self) -> None:
        """Drop gradients."""
        for variable in self.model.trainable_variables:
            variable.value.grad = None

    @contextlib.contextmanager
    def without_update(self) -> Iterator[None]:
        """Take steps whose gradients are not applied."""
        self.updates = False
        try:
            yield
        finally:
            self.updates = True

    def use_changed_model(self) -> AbstractContextManager[None]:
        """Do nothing: layers are called anew in every step."""
        return contextlib.nullcontext()

    def trace(self, arrays: Mapping[str, Any], *, train: bool) -> dict[str, Any]:
        """Return no rows: the operators of this backend are not counted."""
        totals = dict.fromkeys(("flops", "recomputed_flops", "bytes", "kernels"))
        return {"rows": [], "totals": totals, "notes": ["operators are not counted for Keras on torch"]}
