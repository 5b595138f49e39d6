"""T5 (Raffel et al. 2020), from transformers' modules: an encoder-decoder transformer for every head.

The heads are those of every encoder-decoder: `llmbench_plugins.models.seq2seq`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench_plugins.models import seq2seq
from llmbench_plugins.models.causal import Widths
from llmbench_plugins.models.heads import (
    linear_parameters,
    resize_vocabulary,
    wider,
    with_lora,
)

BUCKETS = 32  # of relative positions
#: `layers` of the encoder, and as many of the decoder. Positions are relative: any length can be read.
SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"hidden": 64, "layers": 2, "heads": 2, "dropout": 0.0},
        "small": {"hidden": 256, "layers": 4, "heads": 4, "dropout": 0.1},
        "base": {"hidden": 768, "layers": 12, "heads": 12, "dropout": 0.1},
    }
)


def _config(request: llmbench.BuildRequest) -> Any:
    from transformers import T5Config

    size = request.config
    return T5Config(  # type: ignore[call-arg]
        vocab_size=request.vocab_size + seq2seq.SENTINELS,
        d_model=size["hidden"],
        d_kv=size["hidden"] // size["heads"],
        d_ff=4 * size["hidden"],
        num_layers=size["layers"],
        num_heads=size["heads"],
        relative_attention_num_buckets=BUCKETS,
        dropout_rate=size["dropout"],
        pad_token_id=request.special.pad,
        eos_token_id=request.special.eos,
        decoder_start_token_id=request.special.bos,
        attn_implementation=request.attention,
    )


def _body(request: llmbench.BuildRequest) -> Any:
    """Return a T5ForConditionalGeneration: from `request.weights` where given, else with random weights."""
    from transformers import T5ForConditionalGeneration

    if request.weights is None:
        return T5ForConditionalGeneration(_config(request))
    body = T5ForConditionalGeneration.from_pretrained(request.weights, attn_implementation=request.attention)
    return resize_vocabulary(body, request.vocab_size + seq2seq.SENTINELS)


def build(request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `request.head`."""
    return with_lora(seq2seq.build(request, _body(request)), request)


def widths(config: Any) -> tuple[Widths, Widths]:
    """Return the widths of encoder and decoder."""
    inside = config.num_heads * config.d_kv
    stacks = (config.num_layers, config.num_decoder_layers)
    first, second = (Widths(n, config.d_model, config.d_ff, inside, inside, config.is_gated_act) for n in stacks)
    return first, second


def _widths(request: llmbench.BuildRequest) -> tuple[Widths, Widths]:
    """Return the widths of encoder and decoder: of the size, or of the weights' configuration."""
    if request.weights is None:
        layers, hidden = request.config["layers"], request.config["hidden"]
        stack = Widths(layers, hidden, 4 * hidden, hidden, hidden, has_gate=False)
        return stack, stack
    from transformers import T5Config

    return widths(T5Config.from_pretrained(request.weights))


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Return the matmul FLOPs of a forward pass; see `seq2seq.flops`. Not known with adapters."""
    if request.lora is not None:
        return None
    return seq2seq.flops(request, shapes, *_widths(request))


def parameters(request: llmbench.BuildRequest) -> int | None:
    """Return the number of parameters; the embedding, sentinels included, is shared by all. None for weights.

    Without biases; each stack has one more normalization, and its first layer the biases of relative positions.
    """
    if request.weights is not None or request.lora is not None:
        return None
    encoder, decoder = _widths(request)
    hidden, places = encoder.hidden_size, BUCKETS * request.config["heads"]
    layer = hidden * (4 * encoder.queries + 2 * encoder.inner + 2)
    embedding = (request.vocab_size + seq2seq.SENTINELS) * hidden
    first = encoder.layers * layer + places + hidden
    if request.head == "span":
        return embedding + first + linear_parameters(hidden, 2)
    second = decoder.layers * (layer + hidden * (4 * decoder.queries + 1)) + places + hidden
    head = linear_parameters(hidden, request.num_labels) if request.head == "classify" else 0
    return embedding + first + second + head


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int
) -> float | None:
    """Return the bytes of the decoder's keys and values; see `seq2seq.cache_bytes`."""
    return seq2seq.cache_bytes(request, shapes, element_bytes, _widths(request)[1])


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the T5 family."""
    return [
        llmbench.ModelSpec(
            name="t5",
            sizes=SIZES,
            layouts=seq2seq.LAYOUTS,
            build=build,
            description="encoder-decoder transformer, pretrained on masked spans",
            reference="T5-base 220M: Raffel et al. 2020 (arXiv 1910.10683), model card google-t5/t5-base",
            learning_rate={"pretrain": 2e-3, "finetune": 1e-3},
            preload=("transformers.models.t5.modeling_t5",),
            masked=True,
            flops=flops,
            cache_bytes=cache_bytes,
            parameters=parameters,
            wider=wider,
            options=("lora",),
        )
    ]
