"""GPT-2 (Radford et al. 2019), from transformers' modules: a causal transformer for every head.

Shapes: `B` batch, `L` tokens, `H` hidden, `V` vocabulary. Rows are padded on the right, where a causal model never
looks, so that no mask is needed; only prompts are padded on the left, and get a mask and positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench.layouts import CausalBlocks, Pair, PromptCompletion, Single
from llmbench_plugins.models.heads import (
    attention_cache_elements,
    check_positions,
    class_output,
    greedy,
    layer_flops,
    linear_flops,
    next_token_labels,
    plain_linear,
    resize_vocabulary,
    span_output,
    token_losses,
)

SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"hidden": 64, "layers": 2, "heads": 2, "positions": 1024, "dropout": 0.0},
        "small": {"hidden": 256, "layers": 4, "heads": 4, "positions": 1024, "dropout": 0.1},
        "base": {"hidden": 768, "layers": 12, "heads": 12, "positions": 1024, "dropout": 0.1},
    }
)
LAYOUTS: Mapping[str, Any] = MappingProxyType(
    {"pretrain": CausalBlocks(), "classify": Single(), "span": Pair(), "generate": PromptCompletion()}
)


def _body(request: llmbench.BuildRequest) -> Any:
    """Return a GPT2Model: from `request.weights` where given, else with random weights."""
    from transformers import GPT2Config, GPT2Model

    if request.weights is not None:
        body = GPT2Model.from_pretrained(request.weights, attn_implementation=request.attention)
        resize_vocabulary(body, request.vocab_size)
    else:
        size = request.config
        config = GPT2Config(  # type: ignore[call-arg]
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
        body = GPT2Model(config)
    body.config.pad_token_id = None  # padding is on the right and harmless; spares a check per step
    extra = request.target_len if request.head == "generate" else 0
    check_positions(request, body.config.n_positions, request.seq_len + extra)
    return body


def _language_model(request: llmbench.BuildRequest) -> Any:
    """Return the module for `pretrain` and `generate`; the output projection is the embedding's transpose."""
    import torch
    from torch import nn

    class GPTLanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _body(request)
            self.lm_head = nn.Linear(self.body.config.n_embd, request.vocab_size, bias=False, device="meta")
            self.lm_head.weight = self.body.wte.weight

        def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None) -> dict[str, Any]:
            logits_BLV = self.lm_head(self.body(input_ids, use_cache=False).last_hidden_state)
            if labels is None:
                return {"logits": logits_BLV}
            loss, nll_B, tokens_B = token_losses(logits_BLV, next_token_labels(labels))
            if request.head == "pretrain":
                return {"loss": loss, "logits": logits_BLV, "nll": nll_B, "tokens": tokens_B}
            return {"loss": loss, "logits": logits_BLV}

        @torch.no_grad()
        def generate(self, arrays: dict[str, Any], max_new_tokens: int) -> Any:
            """Return greedy ids (B, T) behind prompts that are padded on the left."""
            mask_BL = arrays["attention_mask"]
            positions = (mask_BL.cumsum(1) - 1).clamp(min=0)
            out = self.body(arrays["input_ids"], attention_mask=mask_BL, position_ids=positions, use_cache=True)
            cache = out.past_key_values
            mask_all = torch.cat([mask_BL, mask_BL.new_ones(len(mask_BL), max_new_tokens)], 1)
            next_position = positions[:, -1:]

            def step(token_B: Any) -> Any:
                nonlocal next_position
                next_position = next_position + 1
                seen = cache.get_seq_length() + 1
                hidden = self.body(
                    token_B[:, None],
                    attention_mask=mask_all[:, :seen],
                    position_ids=next_position,
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
                return self.lm_head(hidden[:, -1])

            return greedy(self.lm_head(out.last_hidden_state[:, -1]), step, max_new_tokens, request.special)

    return GPTLanguageModel()


def _classifier(request: llmbench.BuildRequest) -> Any:
    """Return the module for `classify`: the class is read from the last token, which has seen all others."""
    import torch
    from torch import nn

    class GPTClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _body(request)
            self.classifier = plain_linear(self.body.config.n_embd, request.num_labels)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            hidden_BLH = self.body(input_ids, use_cache=False).last_hidden_state
            rows = torch.arange(len(input_ids), device=input_ids.device)
            return class_output(self.classifier(hidden_BLH[rows, attention_mask.sum(1) - 1]), labels)

    return GPTClassifier()


def _reader(request: llmbench.BuildRequest) -> Any:
    """Return the module for `span`: the question comes first, so that every context token has seen it."""
    from torch import nn

    class GPTReader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _body(request)
            self.span = plain_linear(self.body.config.n_embd, 2)

        def forward(
            self,
            input_ids: Any,
            attention_mask: Any,
            answer_mask: Any,
            token_type_ids: Any = None,
            offset: Any = None,
            start_positions: Any = None,
            end_positions: Any = None,
        ) -> dict[str, Any]:
            hidden_BLH = self.body(input_ids, use_cache=False).last_hidden_state
            return span_output(self.span(hidden_BLH), answer_mask, start_positions, end_positions)

    return GPTReader()


def build(request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `request.head`.

    Raises Unsupported when the lengths asked for are beyond the position embeddings.
    """
    makers = {
        "pretrain": _language_model,
        "generate": _language_model,
        "classify": _classifier,
        "span": _reader,
    }
    return makers[request.head](request)


def _widths(request: llmbench.BuildRequest) -> tuple[int, int, int]:
    """Return layers, hidden and inner width: of the size, or of the weights' configuration."""
    if request.weights is None:
        return request.config["layers"], request.config["hidden"], 4 * request.config["hidden"]
    from transformers import GPT2Config

    config = GPT2Config.from_pretrained(request.weights)
    return config.n_layer, config.n_embd, config.n_inner or 4 * config.n_embd


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the matmul FLOPs of a forward pass: layers and output projection; see `heads.layer_flops`.

    Generated tokens but the last one run through the layers one by one, each seeing all before it.
    """
    layers, hidden, inner = _widths(request)
    rows, length = shapes["input_ids"]
    body = layers * layer_flops(length, length, hidden, inner)
    if request.head == "classify":
        return rows * (body + linear_flops(1, hidden, request.num_labels))
    if request.head == "span":
        return rows * (body + linear_flops(length, hidden, 2))
    if "new_ids" not in shapes:
        return rows * (body + linear_flops(length, hidden, request.vocab_size))
    made = shapes["new_ids"][1]
    decoded = layers * layer_flops(made - 1, length + made / 2, hidden, inner)  # on average length + made / 2 keys
    return rows * (body + decoded + linear_flops(made, hidden, request.vocab_size))


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int
) -> float | None:
    """Return the bytes of keys and values: of the prompt and of all new tokens but the last, which nobody reads."""
    if "new_ids" not in shapes:
        return None
    layers, hidden, _ = _widths(request)
    rows, length = shapes["input_ids"]
    return rows * attention_cache_elements(length + shapes["new_ids"][1] - 1, layers, hidden) * element_bytes


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the GPT-2 family."""
    return [
        llmbench.ModelSpec(
            name="gpt",
            sizes=SIZES,
            layouts=LAYOUTS,
            build=build,
            description="causal transformer decoder",
            reference="GPT-2 124M: Radford et al. 2019, model card openai-community/gpt2",
            learning_rate={"pretrain": 1e-3, "finetune": 1e-3},
            preload=("transformers.models.gpt2.modeling_gpt2",),
            flops=flops,
            cache_bytes=cache_bytes,
            max_len=lambda size: SIZES[size]["positions"],
        )
    ]
