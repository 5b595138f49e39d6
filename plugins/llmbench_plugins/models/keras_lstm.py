"""`keras-lstm`: Embedding, LSTM, Dense with softmax, as a first Keras program has it; `torch-lstm`: the same in torch.

The two have the same layers, as many parameters, the same first weights in distribution and the same training, so that
what differs between them is the framework. Pretraining predicts the next token.

Shapes: `B` batch, `L` tokens, `E` embedding, `H` hidden, `C` classes, `V` vocabulary. Rows are padded on the right.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench.layouts import IGNORE, CausalBlocks, Single
from llmbench_plugins.models.heads import (
    class_output,
    linear_flops,
    linear_parameters,
    next_token_labels,
    take_pretrained,
    token_losses,
)

SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"embedding": 64, "hidden": 64},
        "small": {"embedding": 128, "hidden": 128},
        "base": {"embedding": 512, "hidden": 512},
    }
)
LAYOUTS: Mapping[str, Any] = MappingProxyType({"pretrain": CausalBlocks(), "classify": Single()})
RATES = MappingProxyType({"pretrain": 5e-3, "finetune": 3e-3})
#: Model -> the engine that drives it.
KERAS: Mapping[str, str] = MappingProxyType(
    {"keras-lstm": "keras", "keras-lstm-torch": "keras-torch", "keras-lstm-jax": "keras-jax"}
)
GATES = 4
EMBEDDING_RANGE = 0.05  # Keras: `RandomUniform`, its default for embeddings


def build_keras(request: llmbench.BuildRequest) -> Any:
    """Return the Keras model. Raises UserError when `weights` are asked for: none are known."""
    import keras
    import numpy as np

    refuse_weights(request)
    ops, config, pretrains = keras.ops, request.config, request.head == "pretrain"
    units = request.vocab_size if pretrains else request.num_labels

    class Recurrent(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="keras_lstm")
            self.embedding = keras.layers.Embedding(request.vocab_size, config["embedding"], name="embedding")
            self.lstm = keras.layers.LSTM(config["hidden"], return_sequences=pretrains, name="lstm")
            self.dense = keras.layers.Dense(units, activation="softmax", name=request.head)

        def call(self, arrays: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
            mask_BL = ops.cast(arrays["attention_mask"], "bool")
            states = self.lstm(self.embedding(arrays["input_ids"]), mask=mask_BL, training=training)
            probabilities = self.dense(states)  # (B, C), or (B, L, V)
            if "labels" not in arrays:
                return {"probabilities": probabilities}
            if not pretrains:
                losses_B = keras.losses.sparse_categorical_crossentropy(arrays["labels"], probabilities)
                return {"probabilities": probabilities, "loss": ops.mean(losses_B)}
            return self.next_tokens(arrays["labels"], probabilities)

        def next_tokens(self, labels_BL: Any, probabilities_BLV: Any) -> dict[str, Any]:
            next_BL = ops.concatenate([labels_BL[:, 1:], ops.full_like(labels_BL[:, :1], IGNORE)], 1)
            known_BL = ops.cast(next_BL != IGNORE, "float32")
            targets_BL = ops.where(next_BL == IGNORE, 0, next_BL)
            losses_BL = keras.losses.sparse_categorical_crossentropy(targets_BL, probabilities_BLV) * known_BL
            nll_B, tokens_B = ops.sum(losses_BL, 1), ops.sum(known_BL, 1)
            loss = ops.sum(nll_B) / ops.maximum(ops.sum(tokens_B), 1.0)
            return {"loss": loss, "nll": nll_B, "tokens": ops.cast(tokens_B, "int64")}

    model = Recurrent()
    ones = ops.convert_to_tensor(np.ones((1, 2), "int64"))
    model({"input_ids": ones, "attention_mask": ones})  # makes the variables
    return model


def build_torch(request: llmbench.BuildRequest) -> Any:
    """Return the torch module. Raises UserError when `weights` are asked for: none are known."""
    import torch
    from torch import nn

    refuse_weights(request)
    config, pretrains = request.config, request.head == "pretrain"
    hidden = config["hidden"]

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(request.vocab_size, config["embedding"])
            self.lstm: Any = nn.LSTM(config["embedding"], hidden, batch_first=True)
            self.add_module(request.head, nn.Linear(hidden, request.vocab_size if pretrains else request.num_labels))
            self.draw()

        def draw(self) -> None:
            """Draw as Keras does, and leave one of torch's two biases, which are only ever added, at 0."""
            nn.init.uniform_(self.embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
            one_bias(self.lstm)
            nn.init.xavier_uniform_(self.lstm.weight_ih_l0)
            nn.init.orthogonal_(self.lstm.weight_hh_l0)
            nn.init.zeros_(self.lstm.bias_ih_l0)
            with torch.no_grad():
                self.lstm.bias_ih_l0[hidden : 2 * hidden] = 1.0  # forget gate
            dense: Any = self.get_submodule(request.head)
            nn.init.xavier_uniform_(dense.weight)
            nn.init.zeros_(dense.bias)

        def load_pretrained(self, state: Mapping[str, Any]) -> list[str]:
            return take_pretrained(self, state, {})

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            states_BLH, _ = self.lstm(self.embedding(input_ids))
            dense = self.get_submodule(request.head)
            if pretrains:
                loss, nll_B, tokens_B = token_losses(dense(states_BLH), next_token_labels(labels))
                return {"loss": loss, "nll": nll_B, "tokens": tokens_B}
            rows_B = torch.arange(len(input_ids), device=input_ids.device)
            return class_output(dense(states_BLH[rows_B, attention_mask.sum(1) - 1]), labels)

    return Recurrent()


def one_bias(lstm: Any) -> None:
    """Make the second bias of a one-layer torch LSTM a constant 0, so that it has the parameters that Keras has."""
    import torch

    zeros = torch.zeros_like(lstm.bias_hh_l0.detach())
    del lstm.bias_hh_l0
    lstm.register_buffer("bias_hh_l0", zeros, persistent=False)
    lstm._flat_weights = [getattr(lstm, name) for name in lstm._flat_weights_names]


def refuse_weights(request: llmbench.BuildRequest) -> None:
    """Raise UserError when `weights` are asked for."""
    if request.weights is not None:
        raise llmbench.UserError(f"weights: {request.weights!r} cannot be loaded into this model; leave `weights` out")


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the matmul FLOPs of a forward pass: four gates of each token, and what is predicted."""
    (rows, length), config = shapes["input_ids"], request.config
    gates = linear_flops(length, config["embedding"] + config["hidden"], GATES * config["hidden"])
    if request.head == "pretrain":
        return rows * (gates + linear_flops(length, config["hidden"], request.vocab_size))
    return rows * (gates + linear_flops(1, config["hidden"], request.num_labels))


def parameters(request: llmbench.BuildRequest) -> int:
    """Return the number of parameters; each gate has one bias."""
    config = request.config
    gates = linear_parameters(config["embedding"] + config["hidden"], GATES * config["hidden"])
    out = request.vocab_size if request.head == "pretrain" else request.num_labels
    return request.vocab_size * config["embedding"] + gates + linear_parameters(config["hidden"], out)


def wider(config: Mapping[str, Any], x: float) -> Mapping[str, Any]:
    """Return the configuration with both widths times `x`."""
    return {name: max(8, round(value * x / 8) * 8) for name, value in config.items()}


def spec(name: str, engine: str, build: Any, what: str) -> llmbench.ModelSpec:
    """Return one of them: they differ in name, engine and `build`."""
    return llmbench.ModelSpec(
        name=name,
        sizes=SIZES,
        layouts=LAYOUTS,
        build=build,
        description=f"Embedding, LSTM, Dense with softmax, {what}",
        reference="Hochreiter and Schmidhuber 1997; `small` has the widths of the Keras example imdb_lstm",
        engine=engine,
        learning_rate=RATES,
        flops=flops,
        parameters=parameters,
        wider=wider,
    )


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the model in Keras on each backend, and in torch."""
    backends = {"keras": "TensorFlow", "keras-torch": "torch", "keras-jax": "JAX"}
    found = [spec(name, engine, build_keras, f"in Keras on {backends[engine]}") for name, engine in KERAS.items()]
    return [*found, spec("torch-lstm", "torch", build_torch, "in torch: what `keras-lstm` is, without Keras")]
