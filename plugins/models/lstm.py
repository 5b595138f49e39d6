"""LSTM language models: forward and backward, as in ELMo (Peters et al. 2018), and what is built on them.

Classification pools both directions, generation is an encoder-decoder with global attention (Luong et al. 2015),
reading pairs each context token with the question (Chen et al. 2017, Seo et al. 2017).

Shapes: `B` batch, `L` tokens of the input, `Q` of the question, `T` of the target, `H` hidden, `V` vocabulary.
Rows are padded on the right. The backward direction reads each row reversed within its own length, so that both
directions meet the padding last and need neither packing nor sorting.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench.layouts import IGNORE, CausalBlocks, EncoderDecoder, Single, TwoSequences
from llmbench_plugins.models.heads import (
    class_output,
    greedy,
    linear_flops,
    next_token_labels,
    span_output,
    take_pretrained,
    token_losses,
)

#: `base`: 4 layers of 1000 cells, 1000-dimensional embeddings, dropout 0.2 (Luong et al. 2015, section 4.1).
SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"hidden": 64, "layers": 2, "dropout": 0.0},
        "small": {"hidden": 256, "layers": 2, "dropout": 0.1},
        "base": {"hidden": 1000, "layers": 4, "dropout": 0.2},
    }
)
LAYOUTS: Mapping[str, Any] = MappingProxyType(
    {"pretrain": CausalBlocks(), "classify": Single(), "span": TwoSequences(), "generate": EncoderDecoder()}
)


def _lstm(inputs: int, request: llmbench.BuildRequest, layers: int) -> Any:
    from torch import nn

    dropout = request.config["dropout"] if layers > 1 else 0.0
    return nn.LSTM(inputs, request.config["hidden"], num_layers=layers, batch_first=True, dropout=dropout)


def reverse_rows(values: Any, mask_BL: Any) -> Any:
    """Return `values` (B, L) or (B, L, H) with each row's tokens in reverse order and its padding in place."""
    import torch

    lengths_B1, steps_L = mask_BL.sum(1, keepdim=True), torch.arange(mask_BL.shape[1], device=mask_BL.device)
    index = torch.where(steps_L < lengths_B1, lengths_B1 - 1 - steps_L, steps_L)
    return values.gather(1, index if values.dim() == 2 else index[:, :, None].expand_as(values))


def attend(query_BTH: Any, keys_BLH: Any, values_BLH: Any, mask_BL: Any) -> Any:
    """Return, for each query, the mean of `values_BLH` weighted by dot products; the softmax is in float32."""
    scores_BTL = (query_BTH @ keys_BLH.transpose(1, 2)).float()
    weights_BTL = scores_BTL.masked_fill(mask_BL[:, None] == 0, float("-inf")).softmax(-1)
    return weights_BTL.to(values_BLH.dtype) @ values_BLH


def _directions(inputs: int, request: llmbench.BuildRequest, layers: int) -> Any:
    """Return a module that reads (B, L, inputs) both ways and returns both states side by side (B, L, 2H)."""
    import torch
    from torch import nn

    class Directions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.forward_lstm = _lstm(inputs, request, layers)
            self.backward_lstm = _lstm(inputs, request, layers)

        def forward(self, inputs_BLE: Any, mask_BL: Any) -> Any:
            ahead_BLH, _ = self.forward_lstm(inputs_BLE)
            back_BLH, _ = self.backward_lstm(reverse_rows(inputs_BLE, mask_BL))
            return torch.cat([ahead_BLH, reverse_rows(back_BLH, mask_BL)], -1)

    return Directions()


def _body(request: llmbench.BuildRequest) -> Any:
    """Return what pretraining shares with every other head: the embedding and both stacks of layers."""
    from torch import nn

    hidden = request.config["hidden"]

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(request.vocab_size, hidden)
            nn.init.normal_(self.embedding.weight, std=hidden**-0.5)
            self.dropout = nn.Dropout(request.config["dropout"])
            self.directions = _directions(hidden, request, request.config["layers"])

        def embed(self, ids_BL: Any) -> Any:
            return self.dropout(self.embedding(ids_BL))

        def forward(self, ids_BL: Any, mask_BL: Any) -> Any:
            return self.dropout(self.directions(self.embed(ids_BL), mask_BL))

    return Body()


def _tied_head(body: Any) -> Any:
    """Return the output projection (H -> V) that shares `body`'s embedding and has a bias of its own."""
    from torch import nn

    vocab_size, hidden = body.embedding.weight.shape
    head = nn.Linear(hidden, vocab_size)
    head.weight = body.embedding.weight
    nn.init.zeros_(head.bias)
    return head


def _language_model(request: llmbench.BuildRequest) -> Any:
    """Return the module for `pretrain`.

    Both directions predict the same tokens, all but the mark at the beginning: forward from what is before,
    backward from `eos` and what is behind. They share embedding and softmax.
    """
    import torch
    from torch import nn

    class LSTMLanguageModels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _body(request)
            self.lm_head = _tied_head(self.body)

        def direction(self, lstm: Any, ids_BL: Any) -> Any:
            return self.lm_head(self.body.dropout(lstm(self.body.embed(ids_BL))[0]))

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            lstms = self.body.directions
            logits_BLV = self.direction(lstms.forward_lstm, input_ids)
            if labels is None:
                return {"logits": logits_BLV}
            loss, nll_B, tokens_B = token_losses(logits_BLV, next_token_labels(labels))
            behind_BL = reverse_rows(input_ids, attention_mask)
            eos_B1 = torch.full_like(behind_BL[:, :1], request.special.eos)
            inputs_BL = torch.cat([eos_B1, behind_BL[:, :-1]], 1)
            targets_BL = reverse_rows(labels.index_fill(1, labels.new_zeros(1), IGNORE), attention_mask)
            back, nll_back_B, _ = token_losses(self.direction(lstms.backward_lstm, inputs_BL), targets_BL)
            out = {"loss": (loss + back) / 2, "logits": logits_BLV}
            return {**out, "nll": nll_B, "nll_backward": nll_back_B, "tokens": tokens_B}

    return LSTMLanguageModels()


def _classifier(request: llmbench.BuildRequest) -> Any:
    """Return the module for `classify`: maximum and mean over all tokens (Conneau et al. 2017)."""
    import torch
    from torch import nn

    class LSTMClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _body(request)
            self.classifier = nn.Linear(4 * request.config["hidden"], request.num_labels)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            states_BLH = self.body(input_ids, attention_mask)
            mask_BL1 = attention_mask[:, :, None]
            highest = states_BLH.masked_fill(mask_BL1 == 0, float("-inf")).amax(1)
            mean = (states_BLH * mask_BL1).sum(1) / mask_BL1.sum(1)
            return class_output(self.classifier(torch.cat([highest, mean], -1)), labels)

    return LSTMClassifier()


def _reader(request: llmbench.BuildRequest) -> Any:
    """Return the module for `span`: context tokens meet the question, are read again, and are scored against it."""
    import torch
    from torch import nn

    hidden = request.config["hidden"]

    class LSTMReader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _body(request)
            self.merge = nn.Linear(7 * hidden + 1, hidden)
            self.reading = _directions(hidden, request, 1)
            self.summary = nn.Linear(2 * hidden, 1)
            self.span = nn.Linear(2 * hidden, 4 * hidden)

        def meet(self, question_ids: Any, question_mask: Any, input_ids: Any, question: Any, context: Any) -> Any:
            aligned = attend(context, question, question, question_mask)
            same = (input_ids[:, :, None] == question_ids[:, None]) & (question_mask[:, None] == 1)
            exact = same.any(-1, keepdim=True).to(context.dtype)
            parts = [self.body.embed(input_ids), context, aligned, context * aligned, exact]
            return torch.relu(self.merge(torch.cat(parts, -1)))

        def forward(
            self,
            question_ids: Any,
            question_mask: Any,
            input_ids: Any,
            attention_mask: Any,
            answer_mask: Any,
            offset: Any = None,
            start_positions: Any = None,
            end_positions: Any = None,
        ) -> dict[str, Any]:
            question_BQH = self.body(question_ids, question_mask)
            context_BLH = self.body(input_ids, attention_mask)
            met_BLH = self.meet(question_ids, question_mask, input_ids, question_BQH, context_BLH)
            read_BLH = self.reading(met_BLH, attention_mask)
            weights_BQ = self.summary(question_BQH).squeeze(-1).float()
            weights_BQ = weights_BQ.masked_fill(question_mask == 0, float("-inf")).softmax(-1)
            asked_BH = (weights_BQ.to(question_BQH.dtype)[:, None] @ question_BQH).squeeze(1)
            ends_BH2 = self.span(asked_BH).unflatten(-1, (2 * hidden, 2))
            return span_output(read_BLH @ ends_BH2.to(read_BLH.dtype), answer_mask, start_positions, end_positions)

    return LSTMReader()


def _generator(request: llmbench.BuildRequest) -> Any:
    """Return the module for `generate`; attention follows the recurrence, so training runs it over all T at once."""
    import torch
    from torch import nn

    hidden, layers = request.config["hidden"], request.config["layers"]

    class LSTMToLSTM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _body(request)
            self.bridge = nn.Linear(2 * hidden, 2 * layers * hidden)  # first decoder state, as Bahdanau et al. 2015
            self.keys = nn.Linear(2 * hidden, hidden, bias=False)  # Luong's "general" score
            self.decoder = _lstm(hidden, request, layers)
            self.combine = nn.Linear(3 * hidden, hidden, bias=False)
            self.lm_head = _tied_head(self.body)

        def load_pretrained(self, state: Mapping[str, Any]) -> list[str]:
            """Take embedding and both directions, and start the decoder from the forward language model."""
            return take_pretrained(self, state, {"body.directions.forward_lstm.": ("decoder.",)})

        def encode(self, ids_BL: Any, mask_BL: Any) -> tuple[tuple[Any, Any, Any], Any]:
            memory_BLH = self.body(ids_BL, mask_BL)
            rows = torch.arange(len(ids_BL), device=ids_BL.device)
            ahead, back = memory_BLH[rows, mask_BL.sum(1) - 1, :hidden], memory_BLH[:, 0, hidden:]
            first = torch.tanh(self.bridge(torch.cat([ahead, back], -1))).unflatten(-1, (2, layers, hidden))
            state = tuple(part.transpose(0, 1).contiguous() for part in first.unbind(1))
            return (self.keys(memory_BLH), memory_BLH, mask_BL), state

        def decode(self, ids_BT: Any, memory: tuple[Any, Any, Any], state: Any) -> tuple[Any, Any]:
            states_BTH, state = self.decoder(self.body.embed(ids_BT), state)
            context_BTH = attend(states_BTH, *memory)
            mixed_BTH = torch.tanh(self.combine(torch.cat([context_BTH, states_BTH], -1)))
            return self.lm_head(self.body.dropout(mixed_BTH)), state

        def forward(
            self,
            input_ids: Any,
            attention_mask: Any,
            decoder_input_ids: Any,
            decoder_attention_mask: Any = None,
            labels: Any = None,
        ) -> dict[str, Any]:
            logits_BTV, _ = self.decode(decoder_input_ids, *self.encode(input_ids, attention_mask))
            if labels is None:
                return {"logits": logits_BTV}
            return {"loss": token_losses(logits_BTV, labels)[0], "logits": logits_BTV}

        @torch.no_grad()
        def generate(self, arrays: dict[str, Any], max_new_tokens: int) -> Any:
            """Return greedy ids (B, T); the recurrent state is kept from token to token."""
            ids_BL = arrays["input_ids"]
            memory, state = self.encode(ids_BL, arrays["attention_mask"])

            def step(token_B: Any) -> Any:
                nonlocal state
                logits_B1V, state = self.decode(token_B[:, None], memory, state)
                return logits_B1V[:, 0]

            first = ids_BL.new_full((len(ids_BL),), request.special.bos)
            return greedy(step(first), step, max_new_tokens, request.special)

    return LSTMToLSTM()


def build(request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `request.head`. Raises UserError when `weights` are asked for: none are known."""
    if request.weights is not None:
        raise llmbench.UserError(f"weights: {request.weights!r} cannot be loaded into lstm; leave `weights` out")
    makers = {
        "pretrain": _language_model,
        "generate": _generator,
        "classify": _classifier,
        "span": _reader,
    }
    return makers[request.head](request)


def _directions_flops(tokens: float, hidden: int, layers: int) -> float:
    """Two directions of layers with H inputs: 4 gates of H cells, each from H inputs and H states."""
    return 2 * layers * linear_flops(tokens, 2 * hidden, 4 * hidden)


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the matmul FLOPs of a forward pass, 2 per multiply-add; gates as Hochreiter and Schmidhuber 1997.

    Generated tokens cost what target tokens cost: the state is kept.
    """
    hidden, layers, vocab_size = request.config["hidden"], request.config["layers"], request.vocab_size
    rows, length = shapes["input_ids"]
    body = _directions_flops(length, hidden, layers)
    if request.head == "pretrain":
        return rows * (body + 2 * linear_flops(length, hidden, vocab_size))
    if request.head == "classify":
        return rows * (body + linear_flops(1, 4 * hidden, request.num_labels))
    if request.head == "span":
        return rows * (body + _reading_flops(length, shapes["question_ids"][1], hidden, layers))
    made = shapes.get("decoder_input_ids", shapes.get("new_ids", (0, 0)))[1]
    first = linear_flops(1, 2 * hidden, 2 * layers * hidden) + linear_flops(length, 2 * hidden, hidden)
    decoder = layers * linear_flops(made, 2 * hidden, 4 * hidden) + linear_flops(made, 3 * hidden, hidden)
    attention = linear_flops(made, 3 * hidden, length)  # scores from H, mixing of 2H
    return rows * (body + first + decoder + attention + linear_flops(made, hidden, vocab_size))


def _reading_flops(length: int, asked: int, hidden: int, layers: int) -> float:
    """The question read, met by the context, the context read again, and both ends scored; for one row."""
    met = linear_flops(length, 4 * hidden, asked) + linear_flops(length, 7 * hidden + 1, hidden)
    read = _directions_flops(asked, hidden, layers) + _directions_flops(length, hidden, 1)
    summary = linear_flops(asked, 2 * hidden, 1) + linear_flops(1, asked, 2 * hidden)
    ends = linear_flops(1, 2 * hidden, 4 * hidden) + linear_flops(length, 2 * hidden, 2)
    return met + read + summary + ends


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int
) -> float | None:
    """Return the bytes of the decoder's state (H and C of each layer), whatever the output's length, and of what it
    attends to: keys (H) and values (2H) of each source token."""
    if "new_ids" not in shapes:
        return None
    hidden, (rows, length) = request.config["hidden"], shapes["input_ids"]
    return rows * (2 * request.config["layers"] * hidden + 3 * length * hidden) * element_bytes


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the LSTM family."""
    return [
        llmbench.ModelSpec(
            name="lstm",
            sizes=SIZES,
            layouts=LAYOUTS,
            build=build,
            description="forward and backward LSTMs; encoder-decoder with attention for generation",
            reference="layers as Luong et al. 2015 (arXiv 1508.04025), two directions as Peters et al. 2018 (ELMo)",
            learning_rate={"pretrain": 3e-3, "finetune": 3e-3},
            flops=flops,
            cache_bytes=cache_bytes,
        )
    ]
