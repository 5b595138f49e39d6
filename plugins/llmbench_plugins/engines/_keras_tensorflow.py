"""Keras on TensorFlow: a training step is one graph, and so are the loss, and the loss with its gradients.

Graphs are made once, for arrays of any size: batches differ in length, and each new shape would be traced anew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf


class Driver:
    """See the `Engine` methods of the same names."""

    def __init__(self, threads: int | None) -> None:
        wanted = threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
        with contextlib.suppress(RuntimeError):  # it has started: an engine of this process came first
            tf.config.threading.set_intra_op_parallelism_threads(wanted)
            tf.config.threading.set_inter_op_parallelism_threads(wanted)
            tf.config.set_visible_devices([], "GPU")
        self.model: Any = None
        self.optimizer: Any = None
        self.known: dict[Any, Callable[..., Any]] = {}
        self.changed: dict[Any, Callable[..., Any]] = {}
        self.updates = True
        self.graphs = (self.run_loss, self.run_gradients, self.run_step)

    def take(self, model: Any) -> None:
        """Drive this model from now on."""
        self.model, self.optimizer, self.known, self.changed = model, None, {}, {}

    def prepare(self, optimizer: Any) -> None:
        """Train with this optimizer from now on."""
        self.optimizer, self.known, self.changed = optimizer, {}, {}

    def tensors(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arrays as tensors."""
        return {name: tf.constant(array) for name, array in arrays.items()}

    def run_loss(self, arrays: Mapping[str, Any]) -> Any:
        """Return the loss."""
        return self._graph("loss", arrays)(arrays)

    def run_gradients(self, arrays: Mapping[str, Any]) -> Any:
        """Compute gradients, too."""
        return self._graph("gradients", arrays)(arrays)[0]

    def run_step(self, arrays: Mapping[str, Any]) -> Any:
        """Take a training step."""
        return self._graph("step", arrays)(arrays) if self.updates else self.run_gradients(arrays)

    def outputs(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of the model as numpy arrays, by name."""
        return {name: value.numpy() for name, value in self._graph("outputs", arrays)(arrays).items()}

    def synchronize(self) -> None:
        """Do nothing: on the CPU a graph has run when its call returns."""

    def forget(self) -> None:
        """Do nothing: gradients live in a step only."""

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
        """Use graphs of their own while the model's layers do something else (always the same)."""
        self.known, self.changed = self.changed, self.known
        try:
            yield
        finally:
            self.known, self.changed = self.changed, self.known

    def trace(self, arrays: Mapping[str, Any], *, train: bool) -> dict[str, Any]:
        """Count the graph of one step on arrays of these shapes; see `Engine.trace`."""
        from llmbench_plugins.engines._tensorflow_graph import count_graph

        specs = {name: tf.TensorSpec(t.shape, t.dtype) for name, t in arrays.items()}
        body = self.step if train else self.predict_outputs
        graph = tf.function(body).get_concrete_function(specs).graph
        return count_graph(graph, tokens=arrays["input_ids"].shape[1])

    # --- what the graphs do ---

    def loss(self, arrays: Mapping[str, Any]) -> Any:
        """Return the loss."""
        with tf.name_scope("forward"):
            return self.model(arrays, training=True)["loss"]

    def loss_and_gradients(self, arrays: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """Return the loss and the gradients: what is handed out is computed, and would else be left out."""
        with tf.GradientTape() as tape:
            loss = self.loss(arrays)
        return loss, tape.gradient(loss, self._weights())

    def step(self, arrays: Mapping[str, Any]) -> Any:
        """Take a training step."""
        loss, gradients = self.loss_and_gradients(arrays)
        with tf.name_scope("optimizer"):
            self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def predict_outputs(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of the model, by name."""
        with tf.name_scope("forward"):
            return self.model(arrays, training=False)

    def _weights(self) -> list[Any]:
        return [v.value for v in self.model.trainable_variables]

    def _graph(self, kind: str, arrays: Mapping[str, Any]) -> Callable[..., Any]:
        key = (kind, *sorted(arrays))
        if key not in self.known:
            bodies = {
                "step": self.step,
                "loss": self.loss,
                "gradients": self.loss_and_gradients,
                "outputs": self.predict_outputs,
            }
            specs = {name: tf.TensorSpec([None] * len(t.shape), t.dtype) for name, t in arrays.items()}
            self.known[key] = tf.function(bodies[kind], input_signature=[specs])
        return self.known[key]
