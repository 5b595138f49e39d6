"""The recurrent encoder-decoder with attention and without: what attention costs and what it gives.

`attention-rnn` is RNNsearch of Bahdanau et al. 2015 (arXiv 1409.0473): a bidirectional encoder, and a decoder that
looks at the source again before each word, so that its steps wait for each other in training too.
`encoder-decoder-rnn` is the same model with one look: the vector that the encoder ends with stands at every step (RNN
Encoder-Decoder, Cho et al. 2014, arXiv 1406.1078). Both are trained from scratch, as in the papers; their deep output
is a single tanh layer here.

Shapes: `B` batch, `L` tokens of the source, `T` of the target, `H` hidden, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench.layouts import EncoderDecoder
from llmbench_plugins.models._cells import (
    body,
    ends,
    make_tied_head,
    refuse_weights,
    softmax_mean,
    stack_flops,
    stack_parameters,
)
from llmbench_plugins.models.heads import greedy, linear_flops, linear_parameters, token_losses, wider

LAYOUTS: Mapping[str, Any] = MappingProxyType({"generate": EncoderDecoder()})


def _sizes(attention: bool) -> Mapping[str, Mapping[str, Any]]:
    """`base`: 1 layer of 1000 units (Bahdanau et al. 2015, appendix A; their embeddings have 620 dimensions)."""
    shared = {"cell": "gru", "layers": 1, "look": attention}
    return MappingProxyType(
        {
            "tiny": {**shared, "hidden": 64, "dropout": 0.0},
            "small": {**shared, "hidden": 256, "dropout": 0.1},
            "base": {**shared, "hidden": 1000, "dropout": 0.2},
        }
    )


def build(request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `generate`. Raises UserError when `weights` are asked for: none are known."""
    import torch
    from torch import nn

    hidden, look = request.config["hidden"], request.config["look"]
    refuse_weights("attention-rnn", request)

    class Looks(nn.Module):
        """A decoder step: the context of the last state, and the next state."""

        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(hidden, hidden, bias=False)
            self.score = nn.Linear(hidden, 1, bias=False)
            self.cell = nn.GRUCell(3 * hidden, hidden)

        def forward(self, embedded_BH: Any, memory: tuple[Any, Any, Any], state_BH: Any) -> tuple[Any, Any]:
            keys_BLH, values_BLE, mask_BL = memory
            scores_BL1 = self.score(torch.tanh(self.query(state_BH)[:, None] + keys_BLH))
            context_BE = softmax_mean(scores_BL1.transpose(1, 2), values_BLE, mask_BL)[:, 0]
            return self.cell(torch.cat([embedded_BH, context_BE], -1), state_BH), context_BE

    class EncoderDecoderRNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body(request)
            self.bridge = nn.Linear(hidden, hidden)  # first state, from the backward direction's last (appendix A.2.2)
            self.keys = nn.Linear(2 * hidden, hidden) if look else None
            self.decoder = Looks() if look else nn.GRU(3 * hidden, hidden, batch_first=True)
            self.combine = nn.Linear(4 * hidden, hidden, bias=False)
            self.lm_head = make_tied_head(self.body)

        def encode(self, ids_BL: Any, mask_BL: Any) -> tuple[Any, Any]:
            states_BLE = self.body(ids_BL, mask_BL)
            both = ends(states_BLE, mask_BL)
            first_BH = torch.tanh(self.bridge(both[1]))
            kept = first_BH.dtype  # autocast lets the encoder return float32
            if self.keys is None:
                return torch.cat(both, -1).to(kept), first_BH
            return (self.keys(states_BLE), states_BLE.to(kept), mask_BL), first_BH

        def steps(self, embedded_BTH: Any, memory: Any, state_BH: Any) -> tuple[Any, Any, Any]:
            """Return states and contexts of T steps, and the last state."""
            if self.keys is None:
                context_BTE = memory[:, None].expand(-1, embedded_BTH.shape[1], -1)
                states_BTH, last = self.decoder(torch.cat([embedded_BTH, context_BTE], -1), state_BH[None])
                return states_BTH, context_BTE, last[0]
            states, contexts = [], []
            for embedded_BH in embedded_BTH.unbind(1):
                state_BH, context_BE = self.decoder(embedded_BH, memory, state_BH)
                states.append(state_BH)
                contexts.append(context_BE)
            return torch.stack(states, 1), torch.stack(contexts, 1), state_BH

        def decode(self, ids_BT: Any, memory: Any, state_BH: Any) -> tuple[Any, Any]:
            embedded_BTH = self.body.embed(ids_BT)
            states_BTH, context_BTE, last_BH = self.steps(embedded_BTH, memory, state_BH)
            mixed_BTH = torch.tanh(self.combine(torch.cat([embedded_BTH, states_BTH, context_BTE], -1)))
            return self.lm_head(self.body.dropout(mixed_BTH)), last_BH

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
            memory, state_BH = self.encode(ids_BL, arrays["attention_mask"])

            def step(token_B: Any) -> Any:
                nonlocal state_BH
                logits_B1V, state_BH = self.decode(token_B[:, None], memory, state_BH)
                return logits_B1V[:, 0]

            first = ids_BL.new_full((len(ids_BL),), request.special.bos)
            return greedy(step(first), step, max_new_tokens, request.special)

    return EncoderDecoderRNN()


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the matmul FLOPs of a forward pass, 2 per multiply-add; generated tokens cost what target tokens cost."""
    config, hidden = request.config, request.config["hidden"]
    rows, length = shapes["input_ids"]
    made = shapes.get("decoder_input_ids", shapes.get("new_ids", (0, 0)))[1]
    encoder = 2 * stack_flops(length, hidden, config, config["layers"]) + linear_flops(1, hidden, hidden)
    decoder = stack_flops(made, 3 * hidden, config, 1) + linear_flops(made, 4 * hidden, hidden)
    if config["look"]:
        encoder += linear_flops(length, 2 * hidden, hidden)
        decoder += linear_flops(made, hidden, hidden) + linear_flops(made * length, hidden, 3)  # scores H, mixing 2H
    return rows * (encoder + decoder + linear_flops(made, hidden, request.vocab_size))


def parameters(request: llmbench.BuildRequest) -> int:
    """Return the number of parameters; the output projection is the embedding, with a bias of its own."""
    config, hidden = request.config, request.config["hidden"]
    encoder = request.vocab_size * (hidden + 1) + 2 * stack_parameters(hidden, config, config["layers"])
    decoder = linear_parameters(hidden, hidden) + stack_parameters(3 * hidden, config, 1) + 4 * hidden * hidden
    look = linear_parameters(2 * hidden, hidden) + hidden * hidden + hidden  # keys, query, score
    return encoder + decoder + (look if config["look"] else 0)


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int
) -> float | None:
    """Return the bytes of the decoder's state (H), and of what it looks at: keys (H) and values (2H) of each source
    token with attention, 2H in all without."""
    if "new_ids" not in shapes:
        return None
    rows, length = shapes["input_ids"]
    seen = 3 * length if request.config["look"] else 2
    return rows * (1 + seen) * request.config["hidden"] * element_bytes


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the encoder-decoder with attention and without."""
    kinds = {
        "attention-rnn": (True, "with attention before each word", "RNNsearch: Bahdanau et al. 2015 (arXiv 1409.0473)"),
        "encoder-decoder-rnn": (False, "without attention", "Cho et al. 2014 (arXiv 1406.1078)"),
    }
    return [
        llmbench.ModelSpec(
            name=name,
            sizes=_sizes(look),
            layouts=LAYOUTS,
            build=build,
            description=f"recurrent encoder-decoder {what}",
            reference=reference,
            learning_rate={"finetune": 3e-3},
            flops=flops,
            cache_bytes=cache_bytes,
            parameters=parameters,
            wider=wider,
        )
        for name, (look, what, reference) in kinds.items()
    ]
