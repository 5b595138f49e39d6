"""Every head on a causal transformer of transformers: what GPT-2, Llama and their like have in common.

Shapes: `B` batch, `L` tokens, `H` hidden, `V` vocabulary. Rows are padded on the right, where a causal model never
looks, so that no mask is needed; only prompts are padded on the left, and get a mask and positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench.layouts import CausalBlocks, Pair, PromptCompletion, Single
from llmbench_plugins.models.heads import (
    class_output,
    greedy,
    linear_flops,
    losses_and_logits,
    next_token_labels,
    plain_linear,
    span_output,
)

LAYOUTS: Mapping[str, Any] = MappingProxyType(
    {"pretrain": CausalBlocks(), "classify": Single(), "span": Pair(), "generate": PromptCompletion()}
)


def _language_model(request: llmbench.BuildRequest, body: Any, head: Any) -> Any:
    """Return the module for `pretrain` and `generate`; without a `head` it is the embedding's transpose."""
    import torch
    from torch import nn

    places = "position_ids" in inspect.signature(body.forward).parameters  # some find them from the mask

    def at(positions_BL: Any) -> dict[str, Any]:
        return {"position_ids": positions_BL} if places else {}

    class CausalLanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.lm_head = make_tied_head(body) if head is None else head

        def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None) -> dict[str, Any]:
            hidden_BLH = self.body(input_ids, use_cache=False).last_hidden_state
            if labels is None:
                return {"logits": self.lm_head(hidden_BLH)}
            targets_BL, labelled = next_token_labels(labels), request.labelled_logits
            loss, nll_B, tokens_B, logits_BLV = losses_and_logits(self.lm_head, hidden_BLH, targets_BL, labelled)
            if request.head == "pretrain":
                return {"loss": loss, "logits": logits_BLV, "nll": nll_B, "tokens": tokens_B}
            return {"loss": loss, "logits": logits_BLV}

        @torch.no_grad()
        def generate(self, arrays: dict[str, Any], max_new_tokens: int) -> Any:
            """Return greedy ids (B, T) after prompts that are padded on the left."""
            if not request.kv_cache:
                return self.generate_again(arrays, max_new_tokens)
            mask_BL = arrays["attention_mask"]
            positions = (mask_BL.cumsum(1) - 1).clamp(min=0)
            out = self.body(arrays["input_ids"], attention_mask=mask_BL, use_cache=True, **at(positions))
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
                    past_key_values=cache,
                    use_cache=True,
                    **at(next_position),
                ).last_hidden_state
                return self.lm_head(hidden[:, -1])

            return greedy(self.lm_head(out.last_hidden_state[:, -1]), step, max_new_tokens, request.special)

        def generate_again(self, arrays: dict[str, Any], max_new_tokens: int) -> Any:
            """Generate as `generate` does, but read everything again for every token."""
            ids_BL, mask_BL = arrays["input_ids"], arrays["attention_mask"]

            def logits() -> Any:
                positions = (mask_BL.cumsum(1) - 1).clamp(min=0)
                out = self.body(ids_BL, attention_mask=mask_BL, use_cache=False, **at(positions))
                return self.lm_head(out.last_hidden_state[:, -1])

            def step(token_B: Any) -> Any:
                nonlocal ids_BL, mask_BL
                ids_BL = torch.cat([ids_BL, token_B[:, None]], 1)
                mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(mask_BL), 1)], 1)
                return logits()

            return greedy(logits(), step, max_new_tokens, request.special)

    return CausalLanguageModel()


def _classifier(request: llmbench.BuildRequest, body: Any) -> Any:
    """Return the module for `classify`: the class is read from the last token, which has seen all others."""
    import torch
    from torch import nn

    class CausalClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.classifier = plain_linear(body.config.hidden_size, request.num_labels)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            hidden_BLH = self.body(input_ids, use_cache=False).last_hidden_state
            rows = torch.arange(len(input_ids), device=input_ids.device)
            return class_output(self.classifier(hidden_BLH[rows, attention_mask.sum(1) - 1]), labels)

    return CausalClassifier()


def _reader(body: Any) -> Any:
    """Return the module for `span`: the question comes first, so that every context token has seen it."""
    from torch import nn

    class CausalReader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.span = plain_linear(body.config.hidden_size, 2)

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

    return CausalReader()


def make_tied_head(body: Any) -> Any:
    """Return the output projection (H -> V) that is the embedding's transpose."""
    from torch import nn

    weight = body.get_input_embeddings().weight
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    head.weight = weight
    return head


def build(request: llmbench.BuildRequest, body: Any, head: Any = None) -> Any:
    """Return the torch module for `request.head` on `body`; an untied `head` projects onto the vocabulary."""
    if request.head == "classify":
        return _classifier(request, body)
    if request.head == "span":
        return _reader(body)
    return _language_model(request, body, head)


# --- what it costs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Widths:
    """The sizes of a transformer's matrices: `queries` and `keys` are heads times their width."""

    layers: int
    hidden_size: int
    inner: int
    queries: int
    keys: int
    has_gate: bool  # a third matrix in the feed-forward layer (GLU)

    def layer_flops(self, tokens: float, keys: float) -> float:
        """Return the matmul FLOPs, 2 per multiply-add, of a layer over `tokens` that see `keys` tokens each.

        As `heads.layer_flops`, with fewer keys and values than queries where those are grouped.
        """
        projections = linear_flops(tokens, self.hidden_size, 2 * self.queries + 2 * self.keys)
        feed_forward = linear_flops(tokens, self.hidden_size, (3 if self.has_gate else 2) * self.inner)
        return projections + feed_forward + 4 * tokens * keys * self.queries


def widths(config: Any) -> Widths:
    """Return the widths of a configuration of GPT-2, Llama or one of its like."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    gated = config.model_type != "gpt2"
    return Widths(config.num_hidden_layers, config.hidden_size, inner, heads * width, groups * width, gated)


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], size: Widths) -> float | None:
    """Return the matmul FLOPs of a forward pass: layers and output projection.

    Generated tokens but the last one run through the layers one by one, each seeing all before it. None where shapes do
    not tell: generation without a cache, and completions of which only labels are projected; and with adapters, whose
    training steps have no gradients of the weights, so that three times this would be too much.
    """
    generates = "new_ids" in shapes
    hidden = not request.kv_cache if generates else request.labelled_logits and request.head == "generate"
    if hidden or request.lora is not None:
        return None
    rows, length = shapes["input_ids"]
    body = size.layers * size.layer_flops(length, length)
    if request.head == "classify":
        return rows * (body + linear_flops(1, size.hidden_size, request.num_labels))
    if request.head == "span":
        return rows * (body + linear_flops(length, size.hidden_size, 2))
    if not generates:
        return rows * (body + linear_flops(length, size.hidden_size, request.vocab_size))
    made = shapes["new_ids"][1]
    decoded = size.layers * size.layer_flops(made - 1, length + made / 2)  # on average length + made / 2 keys
    return rows * (body + decoded + linear_flops(made, size.hidden_size, request.vocab_size))


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int, size: Widths
) -> float | None:
    """Return the bytes of keys and values: of the prompt and of all new tokens but the last, which nobody reads."""
    if "new_ids" not in shapes:
        return None
    if not request.kv_cache:
        return 0.0
    rows, length = shapes["input_ids"]
    return rows * 2 * (length + shapes["new_ids"][1] - 1) * size.layers * size.keys * element_bytes
