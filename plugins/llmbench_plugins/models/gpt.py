"""GPT-2 (Radford et al. 2019), from transformers' modules: a causal transformer for every head.

The heads are those of every causal transformer: `llmbench_plugins.models.causal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench_plugins.models import causal
from llmbench_plugins.models.heads import (
    check_positions,
    layer_parameters,
    linear_parameters,
    resize_vocabulary,
    wider,
    with_lora,
)

SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"hidden": 64, "layers": 2, "heads": 2, "positions": 1024, "dropout": 0.0},
        "small": {"hidden": 256, "layers": 4, "heads": 4, "positions": 1024, "dropout": 0.1},
        "base": {"hidden": 768, "layers": 12, "heads": 12, "positions": 1024, "dropout": 0.1},
    }
)


def _config(request: llmbench.BuildRequest) -> Any:
    from transformers import GPT2Config

    size = request.config
    return GPT2Config(  # type: ignore[call-arg]
        vocab_size=request.vocab_size,
        n_positions=size["positions"],
        n_embd=size["hidden"],
        n_layer=size["layers"],
        n_head=size["heads"],
        resid_pdrop=size["dropout"],
        embd_pdrop=size["dropout"],
        attn_pdrop=size["dropout"],
        initializer_range=0.02 * (768 / size["hidden"]) ** 0.5,  # 0.02 is meant for a width of 768
        bos_token_id=request.special.bos,
        eos_token_id=request.special.eos,
        attn_implementation=request.attention,
    )


def _body(request: llmbench.BuildRequest) -> Any:
    """Return a GPT2Model: from `request.weights` where given, else with random weights."""
    from transformers import GPT2Model

    if request.weights is not None:
        body = GPT2Model.from_pretrained(request.weights, attn_implementation=request.attention)
        resize_vocabulary(body, request.vocab_size)
    else:
        body = GPT2Model(_config(request))
    body.config.pad_token_id = None  # padding is on the right and harmless; spares a check per step
    extra = request.target_len if request.head == "generate" else 0
    check_positions(request, body.config.n_positions, request.seq_len + extra)
    return body


def build(request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `request.head`.

    Raises Unsupported when the lengths asked for are beyond the position embeddings.
    """
    return with_lora(causal.build(request, _body(request)), request)


def _widths(request: llmbench.BuildRequest) -> causal.Widths:
    """Return the widths of the size, or of the weights' configuration."""
    if request.weights is None:
        layers, hidden = request.config["layers"], request.config["hidden"]
        return causal.Widths(layers, hidden, 4 * hidden, hidden, hidden, has_gate=False)
    from transformers import GPT2Config

    return causal.widths(GPT2Config.from_pretrained(request.weights))


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Return the matmul FLOPs of a forward pass; see `causal.flops`."""
    return causal.flops(request, shapes, _widths(request))


def parameters(request: llmbench.BuildRequest) -> int | None:
    """Return the number of parameters; the output projection is the embedding. None for downloaded weights."""
    if request.weights is not None or request.lora is not None:
        return None
    size, hidden = _widths(request), request.config["hidden"]
    body = (request.vocab_size + request.config["positions"] + 2) * hidden
    body += size.layers * layer_parameters(hidden, size.inner)
    outputs = {"classify": request.num_labels, "span": 2}.get(request.head)
    return body if outputs is None else body + linear_parameters(hidden, outputs)


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int
) -> float | None:
    """Return the bytes of keys and values; see `causal.cache_bytes`."""
    return causal.cache_bytes(request, shapes, element_bytes, _widths(request))


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the GPT-2 family."""
    return [
        llmbench.ModelSpec(
            name="gpt",
            options=("labelled_logits", "kv_cache", "lora"),
            sizes=SIZES,
            layouts=causal.LAYOUTS,
            build=build,
            description="causal transformer decoder",
            reference="GPT-2 124M: Radford et al. 2019, model card openai-community/gpt2",
            learning_rate={"pretrain": 1e-3, "finetune": 1e-3},
            preload=("transformers.models.gpt2.modeling_gpt2",),
            flops=flops,
            cache_bytes=cache_bytes,
            parameters=parameters,
            wider=wider,
            max_len=lambda size: SIZES[size]["positions"],
        )
    ]
