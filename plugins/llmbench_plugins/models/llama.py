"""Llama (Touvron et al. 2023), from transformers' modules: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

The heads are those of every causal transformer: `llmbench_plugins.models.causal`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench_plugins.models import causal
from llmbench_plugins.models.heads import (
    check_positions,
    linear_parameters,
    resize_vocabulary,
    wider,
    with_lora,
)

SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"hidden": 64, "inner": 176, "layers": 2, "heads": 4, "kv_heads": 2, "positions": 2048},
        "small": {"hidden": 256, "inner": 688, "layers": 4, "heads": 4, "kv_heads": 2, "positions": 2048},
        "base": {"hidden": 576, "inner": 1536, "layers": 30, "heads": 9, "kv_heads": 3, "positions": 8192},
    }
)


def _config(request: llmbench.BuildRequest) -> Any:
    from transformers import LlamaConfig

    size = request.config
    return LlamaConfig(  # type: ignore[call-arg]
        vocab_size=request.vocab_size,
        hidden_size=size["hidden"],
        intermediate_size=size["inner"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        max_position_embeddings=size["positions"],
        initializer_range=0.02 * (768 / size["hidden"]) ** 0.5,  # as the other models' of this width
        tie_word_embeddings=True,
        bos_token_id=request.special.bos,
        eos_token_id=request.special.eos,
        pad_token_id=None,
        attn_implementation=request.attention,
    )


def _body(request: llmbench.BuildRequest) -> Any:
    """Return a LlamaModel: from `request.weights` where given, else with random weights."""
    from transformers import LlamaModel

    if request.weights is not None:
        body = LlamaModel.from_pretrained(request.weights, attn_implementation=request.attention)
        resize_vocabulary(body, request.vocab_size)
    else:
        body = LlamaModel(_config(request))
    body.rotary_emb.register_forward_hook(_in_autocast)
    extra = request.target_len if request.head == "generate" else 0
    check_positions(request, body.config.max_position_embeddings, request.seq_len + extra)
    return body


def _in_autocast(_module: Any, _args: Any, turns: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return cosines and sines in autocast's type: in float32 they would make keys, values and their cache float32."""
    import torch

    device = turns[0].device.type
    if not torch.is_autocast_enabled(device):
        return turns
    dtype = torch.get_autocast_dtype(device)
    return turns[0].to(dtype), turns[1].to(dtype)


def build(request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `request.head`.

    Raises Unsupported when the lengths asked for are beyond what the size is made for.
    """
    return with_lora(causal.build(request, _body(request)), request)


def _widths(request: llmbench.BuildRequest) -> causal.Widths:
    """Return the widths of the size, or of the weights' configuration."""
    if request.weights is None:
        size, hidden = request.config, request.config["hidden"]
        keys = hidden * size["kv_heads"] // size["heads"]
        return causal.Widths(size["layers"], hidden, size["inner"], hidden, keys, has_gate=True)
    from transformers import LlamaConfig

    return causal.widths(LlamaConfig.from_pretrained(request.weights))


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Return the matmul FLOPs of a forward pass; see `causal.flops`."""
    return causal.flops(request, shapes, _widths(request))


def parameters(request: llmbench.BuildRequest) -> int | None:
    """Return the number of parameters, without biases; the output projection is the embedding. None for weights."""
    if request.weights is not None or request.lora is not None:
        return None
    size = _widths(request)
    layer = size.hidden_size * (2 * size.queries + 2 * size.keys + 3 * size.inner + 2)  # two normalizations
    body = (request.vocab_size + 1) * size.hidden_size + size.layers * layer
    outputs = {"classify": request.num_labels, "span": 2}.get(request.head)
    return body if outputs is None else body + linear_parameters(size.hidden_size, outputs)


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int
) -> float | None:
    """Return the bytes of keys and values, of fewer heads than there are queries'."""
    return causal.cache_bytes(request, shapes, element_bytes, _widths(request))


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the Llama family."""
    return [
        llmbench.ModelSpec(
            name="llama",
            options=("labelled_logits", "kv_cache", "lora"),
            sizes=SIZES,
            layouts=causal.LAYOUTS,
            build=build,
            description="causal transformer decoder as trained today: RMSNorm, rotary, grouped-query attention, SwiGLU",
            reference="SmolLM2-135M, model card HuggingFaceTB/SmolLM2-135M; Touvron et al. 2023 (arXiv 2302.13971)",
            learning_rate={"pretrain": 2e-3, "finetune": 2e-3},
            preload=("transformers.models.llama.modeling_llama",),
            flops=flops,
            cache_bytes=cache_bytes,
            parameters=parameters,
            wider=functools.partial(wider, per_head=2),  # rotary positions turn pairs
            max_len=lambda size: SIZES[size]["positions"],
        )
    ]
