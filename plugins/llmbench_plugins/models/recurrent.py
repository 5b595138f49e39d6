"""Recurrent language models of plain, gated and LSTM cells: forward and backward, as in ELMo (Peters et al. 2018).

The three differ in their cell alone, so that a table shows what the cell costs and gives. Classification pools both
directions, generation is an encoder-decoder with global attention (Luong et al. 2015), reading pairs each context token
with the question (Chen et al. 2017, Seo et al. 2017).

Shapes: `B` batch, `L` tokens of the input, `Q` of the question, `T` of the target, `H` hidden, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench.layouts import IGNORE, CausalBlocks, EncoderDecoder, Single, TwoSequences
from llmbench_plugins.models._cells import (
    attend,
    body,
    directions,
    ends,
    make_tied_head,
    refuse_weights,
    reverse_rows,
    stack,
    stack_flops,
    stack_parameters,
    states_of,
)
from llmbench_plugins.models.heads import (
    class_output,
    greedy,
    linear_flops,
    linear_parameters,
    losses_and_logits,
    next_token_labels,
    span_output,
    take_pretrained,
    wider,
)


def _sizes(cell: str) -> Mapping[str, Mapping[str, Any]]:
    """`base`: 4 layers of 1000 cells, 1000-dimensional embeddings, dropout 0.2 (Luong et al. 2015, section 4.1)."""
    return MappingProxyType(
        {
            "tiny": {"cell": cell, "hidden": 64, "layers": 2, "dropout": 0.0},
            "small": {"cell": cell, "hidden": 256, "layers": 2, "dropout": 0.1},
            "base": {"cell": cell, "hidden": 1000, "layers": 4, "dropout": 0.2},
        }
    )


LAYOUTS: Mapping[str, Any] = MappingProxyType(
    {"pretrain": CausalBlocks(), "classify": Single(), "span": TwoSequences(), "generate": EncoderDecoder()}
)


def _language_model(request: llmbench.BuildRequest) -> Any:
    """Return the module for `pretrain`.

    Both directions predict the same tokens, all but the mark at the beginning: forward from what is before,
    backward from `eos` and the tokens after it. They share embedding and softmax.
    """
    import torch
    from torch import nn

    class RecurrentLanguageModels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body(request)
            self.lm_head = make_tied_head(self.body)

        def direction(self, layers: Any, ids_BL: Any) -> Any:
            return self.body.dropout(layers(self.body.embed(ids_BL))[0])

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            both, labelled = self.body.directions, request.labelled_logits
            ahead_BLH = self.direction(both.ahead, input_ids)
            if labels is None:
                return {"logits": self.lm_head(ahead_BLH)}
            ahead = losses_and_logits(self.lm_head, ahead_BLH, next_token_labels(labels), labelled)
            loss, nll_B, tokens_B, logits_BLV = ahead
            behind_BL = reverse_rows(input_ids, attention_mask)
            eos_B1 = torch.full_like(behind_BL[:, :1], request.special.eos)
            inputs_BL = torch.cat([eos_B1, behind_BL[:, :-1]], 1)
            targets_BL = reverse_rows(labels.index_fill(1, labels.new_zeros(1), IGNORE), attention_mask)
            back_BLH = self.direction(both.back, inputs_BL)
            back, nll_back_B, _, _ = losses_and_logits(self.lm_head, back_BLH, targets_BL, labelled)
            out = {"loss": (loss + back) / 2, "logits": logits_BLV}
            return {**out, "nll": nll_B, "nll_backward": nll_back_B, "tokens": tokens_B}

    return RecurrentLanguageModels()


def _classifier(request: llmbench.BuildRequest) -> Any:
    """Return the module for `classify`: maximum and mean over all tokens (Conneau et al. 2017)."""
    import torch
    from torch import nn

    class RecurrentClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body(request)
            self.classifier = nn.Linear(4 * request.config["hidden"], request.num_labels)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            states_BLH = self.body(input_ids, attention_mask)
            mask_BL1 = attention_mask[:, :, None]
            highest = states_BLH.masked_fill(mask_BL1 == 0, float("-inf")).amax(1)
            mean = (states_BLH * mask_BL1).sum(1) / mask_BL1.sum(1)
            return class_output(self.classifier(torch.cat([highest, mean], -1)), labels)

    return RecurrentClassifier()


def _reader(request: llmbench.BuildRequest) -> Any:
    """Return the module for `span`: context tokens meet the question, are read again, and are scored against it."""
    import torch
    from torch import nn

    hidden = request.config["hidden"]

    class RecurrentReader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body(request)
            self.merge = nn.Linear(7 * hidden + 1, hidden)
            self.reading = directions(hidden, request, 1)
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

    return RecurrentReader()


def _generator(request: llmbench.BuildRequest) -> Any:
    """Return the module for `generate`; attention follows the recurrence, so training runs it over all T at once."""
    import torch
    from torch import nn

    hidden, layers = request.config["hidden"], request.config["layers"]
    states = states_of(request.config["cell"])

    class RecurrentToRecurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body(request)
            self.bridge = nn.Linear(
                2 * hidden, states * layers * hidden
            )  # first decoder state, as Bahdanau et al. 2015
            self.keys = nn.Linear(2 * hidden, hidden, bias=False)  # Luong's "general" score
            self.decoder = stack(hidden, request, layers)
            self.combine = nn.Linear(3 * hidden, hidden, bias=False)
            self.lm_head = make_tied_head(self.body)

        def load_pretrained(self, state: Mapping[str, Any]) -> list[str]:
            """Take embedding and both directions, and start the decoder from the forward language model."""
            return take_pretrained(self, state, {"body.directions.ahead.": ("decoder.",)})

        def encode(self, ids_BL: Any, mask_BL: Any) -> tuple[tuple[Any, Any, Any], Any]:
            memory_BLH = self.body(ids_BL, mask_BL)
            first = torch.tanh(self.bridge(torch.cat(ends(memory_BLH, mask_BL), -1)))
            parts = first.unflatten(-1, (states, layers, hidden)).unbind(1)
            state = tuple(part.transpose(0, 1).contiguous() for part in parts)
            keys_BLH = self.keys(memory_BLH)
            memory = keys_BLH, memory_BLH.to(keys_BLH.dtype), mask_BL  # autocast lets some cells return float32
            return memory, state if states > 1 else state[0]

        def decode(self, ids_BT: Any, memory: tuple[Any, Any, Any], state: Any) -> tuple[Any, Any]:
            mixed_BTH, state = self.mix(ids_BT, memory, state)
            return self.lm_head(mixed_BTH), state

        def mix(self, ids_BT: Any, memory: tuple[Any, Any, Any], state: Any) -> tuple[Any, Any]:
            states_BTH, state = self.decoder(self.body.embed(ids_BT), state)
            context_BTH = attend(states_BTH, *memory)
            mixed_BTH = torch.tanh(self.combine(torch.cat([context_BTH, states_BTH], -1)))
            return self.body.dropout(mixed_BTH), state

        def forward(
            self,
            input_ids: Any,
            attention_mask: Any,
            decoder_input_ids: Any,
            decoder_attention_mask: Any = None,
            labels: Any = None,
        ) -> dict[str, Any]:
            mixed_BTH, _ = self.mix(decoder_input_ids, *self.encode(input_ids, attention_mask))
            if labels is None:
                return {"logits": self.lm_head(mixed_BTH)}
            loss, _, _, logits_BTV = losses_and_logits(self.lm_head, mixed_BTH, labels, request.labelled_logits)
            return {"loss": loss, "logits": logits_BTV}

        @torch.no_grad()
        def generate(self, arrays: dict[str, Any], max_new_tokens: int) -> Any:
            """Return greedy ids (B, T); `kv_cache` keeps the recurrent state from token to token."""
            ids_BL = arrays["input_ids"]
            memory, state = self.encode(ids_BL, arrays["attention_mask"])
            first_state, seen_BT = state, ids_BL[:, :0]

            def step(token_B: Any) -> Any:
                nonlocal state, seen_BT
                if request.kv_cache:
                    logits_BTV, state = self.decode(token_B[:, None], memory, state)
                else:
                    seen_BT = torch.cat([seen_BT, token_B[:, None]], 1)
                    logits_BTV, _ = self.decode(seen_BT, memory, first_state)
                return logits_BTV[:, -1]

            first = ids_BL.new_full((len(ids_BL),), request.special.bos)
            return greedy(step(first), step, max_new_tokens, request.special)

    return RecurrentToRecurrent()


def build(request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `request.head`. Raises UserError when `weights` are asked for: none are known."""
    refuse_weights(request.config["cell"], request)
    makers = {
        "pretrain": _language_model,
        "generate": _generator,
        "classify": _classifier,
        "span": _reader,
    }
    return makers[request.head](request)


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Return the matmul FLOPs of a forward pass, 2 per multiply-add.

    Generated tokens cost what target tokens cost: the state is kept. None where shapes do not tell: generation without
    that, and targets of which only labels are projected.
    """
    config, vocab_size = request.config, request.vocab_size
    hidden, layers = config["hidden"], config["layers"]
    rows, length = shapes["input_ids"]
    both = 2 * stack_flops(length, hidden, config, layers)
    if request.head == "pretrain":
        return rows * (both + 2 * linear_flops(length, hidden, vocab_size))
    if request.head == "classify":
        return rows * (both + linear_flops(1, 4 * hidden, request.num_labels))
    if request.head == "span":
        return rows * (both + _reading_flops(length, shapes["question_ids"][1], config))
    if (request.labelled_logits and "new_ids" not in shapes) or (not request.kv_cache and "new_ids" in shapes):
        return None
    made = shapes.get("decoder_input_ids", shapes.get("new_ids", (0, 0)))[1]
    states = states_of(config["cell"])
    first = linear_flops(1, 2 * hidden, states * layers * hidden) + linear_flops(length, 2 * hidden, hidden)
    decoder = stack_flops(made, hidden, config, layers) + linear_flops(made, 3 * hidden, hidden)
    attention = linear_flops(made, 3 * hidden, length)  # scores from H, mixing of 2H
    return rows * (both + first + decoder + attention + linear_flops(made, hidden, vocab_size))


def _reading_flops(length: int, asked: int, config: Mapping[str, Any]) -> float:
    """The question read, met by the context, the context read again, and both ends scored; for one row."""
    hidden = config["hidden"]
    met = linear_flops(length, 4 * hidden, asked) + linear_flops(length, 7 * hidden + 1, hidden)
    read = 2 * stack_flops(asked, hidden, config, config["layers"]) + 2 * stack_flops(length, hidden, config, 1)
    summary = linear_flops(asked, 2 * hidden, 1) + linear_flops(1, asked, 2 * hidden)
    ends = linear_flops(1, 2 * hidden, 4 * hidden) + linear_flops(length, 2 * hidden, 2)
    return met + read + summary + ends


def parameters(request: llmbench.BuildRequest) -> int:
    """Return the number of parameters; the output projection is the embedding, with a bias of its own."""
    config, vocab_size = request.config, request.vocab_size
    hidden, layers = config["hidden"], config["layers"]
    both = vocab_size * hidden + 2 * stack_parameters(hidden, config, layers)
    if request.head == "pretrain":
        return both + vocab_size
    if request.head == "classify":
        return both + linear_parameters(4 * hidden, request.num_labels)
    if request.head == "span":
        ends = linear_parameters(2 * hidden, 1) + linear_parameters(2 * hidden, 4 * hidden)
        return both + linear_parameters(7 * hidden + 1, hidden) + 2 * stack_parameters(hidden, config, 1) + ends
    bridge = linear_parameters(2 * hidden, states_of(config["cell"]) * layers * hidden)
    attention = 2 * hidden * hidden + 3 * hidden * hidden  # keys, and what combines context and state; no biases
    return both + bridge + attention + stack_parameters(hidden, config, layers) + vocab_size


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int
) -> float | None:
    """Return the bytes of the decoder's states (H per layer, twice that for an LSTM), whatever the output's length, and
    of what it attends to: keys (H) and values (2H) of each source token."""
    if "new_ids" not in shapes:
        return None
    if not request.kv_cache:
        return 0.0
    config, (rows, length) = request.config, shapes["input_ids"]
    kept = states_of(config["cell"]) * config["layers"] + 3 * length
    return rows * kept * config["hidden"] * element_bytes


#: Cell -> what it is, where it comes from, and the peak learning rate.
FAMILY: Mapping[str, tuple[str, str, float]] = MappingProxyType(
    {
        "rnn": ("plain recurrent cells (tanh)", "Elman 1990 (Finding Structure in Time)", 1e-3),
        "gru": ("gated recurrent units", "Cho et al. 2014 (arXiv 1406.1078)", 3e-3),
        "lstm": ("long short-term memory", "Hochreiter and Schmidhuber 1997", 3e-3),
    }
)


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return rnn, gru and lstm."""
    layers = "layers as Luong et al. 2015 (arXiv 1508.04025), two directions as Peters et al. 2018 (ELMo)"
    return [
        llmbench.ModelSpec(
            name=cell,
            options=("labelled_logits", "kv_cache"),
            sizes=_sizes(cell),
            layouts=LAYOUTS,
            build=build,
            description=f"{what}, forward and backward; encoder-decoder with attention for generation",
            reference=f"cell: {reference}; {layers}",
            learning_rate={"pretrain": rate, "finetune": rate},
            flops=flops,
            cache_bytes=cache_bytes,
            parameters=parameters,
            wider=wider,
        )
        for cell, (what, reference, rate) in FAMILY.items()
    ]
