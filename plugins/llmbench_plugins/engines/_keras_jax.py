"""Keras on JAX: a training step is compiled, for each shape of its arrays anew.

What is compiled must have no side effects: it is handed the variables and returns them, and they are put back here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

Values = list[Any]
compiled: Any = jax.jit


class Driver:
    """See the `Engine` methods of the same names. JAX takes the cores that the process may use."""

    def __init__(self, threads: int | None) -> None:
        self.model: Any = None
        self.optimizer: Any = None
        self.updates = True
        self.graphs = (self.run_loss, self.run_gradients, self.run_step)
        self.compiled: dict[str, Any] = {}
        self.changed: dict[str, Any] = {}
        self.last: Any = None

    def take(self, model: Any) -> None:
        """Drive this model from now on."""
        self.model, self.changed = model, {}
        self.compiled = {"outputs": compiled(self.predict_outputs)}

    def prepare(self, optimizer: Any) -> None:
        """Train with this optimizer from now on; constants in it, such as the peak rate, are compiled in."""
        self.optimizer, self.changed = optimizer, {}
        self.compiled = {name: compiled(body) for name, body in self.bodies().items()}

    def bodies(self) -> dict[str, Any]:
        """Return the functions that are compiled, by name."""
        steps = {"loss": self.loss, "gradients": self.loss_and_gradients, "step": self.step}
        return {**steps, "outputs": self.predict_outputs}

    def tensors(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arrays on the device; JAX computes with 32-bit integers."""
        return {name: jax.numpy.asarray(array.astype(np.int32)) for name, array in arrays.items()}

    def run_loss(self, arrays: Mapping[str, Any]) -> Any:
        """Return the loss."""
        self.last = self.compiled["loss"](*self._values(), arrays)
        return self.last

    def run_gradients(self, arrays: Mapping[str, Any]) -> Any:
        """Compute gradients, too."""
        self.last, _ = self.compiled["gradients"](*self._values(), arrays)
        return self.last

    def run_step(self, arrays: Mapping[str, Any]) -> Any:
        """Take a training step."""
        if not self.updates:
            return self.run_gradients(arrays)
        state = [v.value for v in self.optimizer.variables]
        self.last, *new = self.compiled["step"](*self._values(), state, arrays)
        for variables, values in zip((self.model.trainable_variables, self.optimizer.variables), new, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        return self.last

    def outputs(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of the model as numpy arrays, by name."""
        return {name: np.asarray(v) for name, v in self.compiled["outputs"](*self._values(), arrays).items()}

    def synchronize(self) -> None:
        """Wait for the last step."""
        if self.last is not None:
            jax.block_until_ready(([v.value for v in self.model.trainable_variables], self.last))

    def forget(self) -> None:
        """Drop the last loss."""
        self.last = None

    @contextlib.contextmanager
    def without_update(self) -> Iterator[None]:
        """Take steps whose gradients are handed out and not applied."""
        self.updates = False
        try:
            yield
        finally:
            self.updates = True

    @contextlib.contextmanager
    def use_changed_model(self) -> Iterator[None]:
        """Use compiled steps of their own while the model's layers do something else (always the same)."""
        self.compiled, self.changed = self.changed, self.compiled
        if not self.compiled:
            self.compiled = {name: compiled(body) for name, body in self.bodies().items()}
        try:
            yield
        finally:
            self.compiled, self.changed = self.changed, self.compiled

    def trace(self, arrays: Mapping[str, Any], *, train: bool) -> dict[str, Any]:
        """Return no rows: the operators of this backend are not counted."""
        totals = dict.fromkeys(("flops", "recomputed_flops", "bytes", "kernels"))
        return {"rows": [], "totals": totals, "notes": ["operators are not counted for Keras on JAX"]}

    # --- what is compiled ---

    def loss(self, weights: Values, others: Values, arrays: Mapping[str, Any]) -> Any:
        """Return the loss."""
        return self.model.stateless_call(weights, others, arrays, training=True)[0]["loss"]

    def loss_and_gradients(self, weights: Values, others: Values, arrays: Mapping[str, Any]) -> tuple[Any, Values]:
        """Return the loss and the gradients."""
        return jax.value_and_grad(self.loss)(weights, others, arrays)

    def step(self, weights: Values, others: Values, state: Values, arrays: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the loss, the new weights and the optimizer's new state."""
        loss, gradients = self.loss_and_gradients(weights, others, arrays)
        return loss, *self.optimizer.stateless_apply(state, gradients, weights)

    def predict_outputs(self, weights: Values, others: Values, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of the model, by name."""
        return self.model.stateless_call(weights, others, arrays, training=False)[0]

    def _values(self) -> tuple[Values, Values]:
        model = self.model
        return [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
