"""Recurrent layers of Keras with the states before every token given, so that all tokens are one call of the cell.

The cell, its weights and its products are the same; nothing waits for the token before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

GIVEN_STATE = 0.1  # what stands before every token; its value does not matter to the time that a product takes


def recurrent_layers(keras: Any, model: Any) -> list[Any]:
    """Return the model's recurrent layers, those inside of wrappers (two directions) included."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN)]


@contextlib.contextmanager
def at_once(keras: Any, layers: Sequence[Any]) -> Iterator[None]:
    """Let each layer take all tokens of its input in one call of its cell."""
    for layer in layers:
        layer.inner_loop = _one_call(keras.ops, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.inner_loop


def _one_call(ops: Any, layer: Any) -> Any:
    def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> tuple[Any, Any, list[Any]]:
        shape, width = ops.shape(sequences), sequences.shape[-1]
        rows, tokens = shape[0], shape[1]
        flat = ops.reshape(sequences, (-1, width))
        sizes = [state.shape[-1] for state in initial_state]
        before = [ops.full((rows * tokens, size), GIVEN_STATE, dtype=sequences.dtype) for size in sizes]
        made, after = layer.cell(flat, before, training=training)
        outputs = ops.reshape(made, (rows, tokens, sizes[0]))
        last = [ops.reshape(state, (rows, tokens, size))[:, -1] for state, size in zip(after, sizes, strict=True)]
        return outputs[:, -1], outputs, last

    return inner_loop
