"""Every head on an encoder-decoder transformer of transformers: what T5, BART and their like have in common.

Pretraining is T5's span corruption. A class is read from a decoder that is asked one token (EncT5, Liu et al. 2021,
arXiv 2110.08426), a span from the encoder alone.

Shapes: `B` batch, `L` tokens of the input, `T` of the target, `H` hidden, `V` vocabulary. Behind the vocabulary come
the `SENTINELS`, marks that stand for a masked span; they are embedded and predicted, but never generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

import llmbench
from llmbench.layouts import IGNORE, EncoderDecoder, Pair, Single, content_rng, mask_of, pad_rows
from llmbench_plugins.models.causal import Widths
from llmbench_plugins.models.heads import (
    class_output,
    greedy,
    linear_flops,
    plain_linear,
    span_output,
    take_pretrained,
    token_losses,
)

SENTINELS = 100  # Raffel et al. 2020 (arXiv 1910.10683), section 3.1.4


@dataclass(frozen=True)
class SpanCorruption:
    """`pretrain` on masked spans: 15 % of the tokens, in spans of 3 on average (Raffel et al. 2020, section 3.1.4).

    `input_ids`, `attention_mask` (B, L): each span is one sentinel. `decoder_input_ids`, `labels` (B, T): each sentinel
    and what it stands for, then `eos`. `scored` (B, T): 1 where a label is a masked token; perplexity is of those.
    """

    rate: float = 0.15
    span: float = 3.0

    def length(self, feature: Mapping[str, Any]) -> int:
        """Tokens of the window."""
        return len(feature["ids"])

    def collate(self, features: Sequence[Any], ctx: llmbench.CollateContext) -> llmbench.Batch:
        """Draw the spans from the seed and the content of the batch, and pad on the right."""
        rows = [list(f["ids"][: ctx.seq_len]) for f in features]
        rng = content_rng(ctx, rows)
        corrupted = [self._corrupt(row, rng, ctx) for row in rows]
        inputs, targets = [source for source, _ in corrupted], [target for _, target in corrupted]
        decoder = [[ctx.special.bos, *target[:-1]] for target in targets]
        mask, decoder_mask = mask_of(inputs), mask_of(decoder)
        labels = pad_rows(targets, IGNORE)
        marks = [ctx.special.pad, ctx.special.bos, ctx.special.eos, ctx.special.sep]
        arrays = {
            "input_ids": pad_rows(inputs, ctx.special.pad),
            "attention_mask": mask,
            "decoder_input_ids": pad_rows(decoder, ctx.special.pad),
            "labels": labels,
            "scored": ((labels >= 0) & (labels < ctx.vocab_size) & ~np.isin(labels, marks)).astype(np.int64),
        }
        tokens = int(mask.sum() + decoder_mask.sum())
        return llmbench.Batch(arrays, len(rows), tokens, mask.size + decoder_mask.size - tokens)

    def _corrupt(
        self, row: list[int], rng: np.random.Generator, ctx: llmbench.CollateContext
    ) -> tuple[list[int], list[int]]:
        """Return the row with sentinels, and the sentinels with what they stand for; a row of one token has none."""
        masked = min(max(1, round(self.rate * len(row))), len(row) - 1)
        spans = min(max(1, round(masked / self.span)), masked, len(row) - masked, SENTINELS)
        source: list[int] = []
        target: list[int] = []
        place = 0
        if masked:
            for i, (kept, hidden) in enumerate(
                zip(_parts(len(row) - masked, spans, rng), _parts(masked, spans, rng), strict=True)
            ):
                source += [*row[place : place + kept], ctx.vocab_size + i]
                target += [ctx.vocab_size + i, *row[place + kept : place + kept + hidden]]
                place += kept + hidden
        return source + row[place:], [*target, ctx.special.eos]


def _parts(total: int, parts: int, rng: np.random.Generator) -> list[int]:
    """Return `parts` random numbers of at least 1 that add up to `total`."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1 if parts > 1 else np.array([], dtype=int)
    return np.diff([0, *cuts.tolist(), total]).tolist()


LAYOUTS: Mapping[str, Any] = MappingProxyType(
    {"pretrain": SpanCorruption(), "classify": Single(), "span": Pair(), "generate": EncoderDecoder()}
)


def _language_model(request: llmbench.BuildRequest, body: Any) -> Any:
    """Return the module for `pretrain` and `generate`: the whole model."""
    import torch
    from torch import nn
    from transformers.modeling_outputs import BaseModelOutput

    class EncoderDecoderLM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(
            self,
            input_ids: Any,
            attention_mask: Any,
            decoder_input_ids: Any,
            decoder_attention_mask: Any = None,
            labels: Any = None,
            scored: Any = None,
        ) -> dict[str, Any]:
            logits_BTV = self.body(  # targets are padded on the right: the causal mask hides it
                input_ids=input_ids,
                attention_mask=attention_mask,
                decoder_input_ids=decoder_input_ids,
                use_cache=False,
            ).logits
            if labels is None:
                return {"logits": logits_BTV[..., : request.vocab_size]}
            loss, _, _ = token_losses(logits_BTV, labels)
            if scored is None:
                return {"loss": loss, "logits": logits_BTV[..., : request.vocab_size]}
            out = {"loss": loss, "logits": logits_BTV}
            if self.training:
                return out
            _, nll_B, tokens_B = token_losses(logits_BTV, labels.masked_fill(scored == 0, IGNORE))
            return {**out, "nll": nll_B, "tokens": tokens_B}

        @torch.no_grad()
        def generate(self, arrays: dict[str, Any], max_new_tokens: int) -> Any:
            """Return greedy ids (B, T); keys and values of earlier tokens and of the source are kept."""
            ids_BL, mask_BL = arrays["input_ids"], arrays["attention_mask"]
            memory_BLH = self.body.get_encoder()(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
            cache = None

            def step(token_B: Any) -> Any:
                nonlocal cache
                out = self.body(
                    encoder_outputs=BaseModelOutput(last_hidden_state=memory_BLH),
                    attention_mask=mask_BL,
                    decoder_input_ids=token_B[:, None],
                    past_key_values=cache,
                    use_cache=True,
                )
                cache = out.past_key_values
                return out.logits[:, -1, : request.vocab_size]

            first = ids_BL.new_full((len(ids_BL),), request.special.bos)
            return greedy(step(first), step, max_new_tokens, request.special)

    return EncoderDecoderLM()


def _classifier(request: llmbench.BuildRequest, body: Any) -> Any:
    """Return the module for `classify`: the class is read where the decoder is asked for its first token."""
    from torch import nn

    class EncoderDecoderClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.classifier = plain_linear(body.config.hidden_size, request.num_labels)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            memory_BLH = body.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            asked_BH = body.get_decoder()(
                input_ids=input_ids.new_full((len(input_ids), 1), request.special.bos),
                encoder_hidden_states=memory_BLH,
                encoder_attention_mask=attention_mask,
                use_cache=False,
            ).last_hidden_state[:, 0]
            return class_output(self.classifier(asked_BH), labels)

    return EncoderDecoderClassifier()


def _reader(body: Any) -> Any:
    """Return the module for `span`: the encoder alone, which has seen question and context."""
    from torch import nn

    hidden, encoder = body.config.hidden_size, body.get_encoder()
    prefix = next(name for name, module in body.named_modules() if module is encoder)
    embeddings = tuple(name for name, p in body.named_parameters(remove_duplicate=False) if p is _embedding(body))

    class EncoderReader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.span = plain_linear(hidden, 2)

        def load_pretrained(self, state: Mapping[str, Any]) -> list[str]:
            """Take the encoder; its embedding is stored under the name of any of those that share it."""
            own = next(name for name, p in self.named_parameters() if p is self.encoder.get_input_embeddings().weight)
            copies = {f"body.{prefix}.": ("encoder.",), **{f"body.{name}": (own,) for name in embeddings}}
            return take_pretrained(self, state, copies)

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
            hidden_BLH = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return span_output(self.span(hidden_BLH), answer_mask, start_positions, end_positions)

    return EncoderReader()


def _embedding(body: Any) -> Any:
    return body.get_input_embeddings().weight


def build(request: llmbench.BuildRequest, body: Any) -> Any:
    """Return the torch module for `request.head` on `body`, a model for conditional generation with sentinels."""
    if request.head == "classify":
        return _classifier(request, body)
    if request.head == "span":
        return _reader(body)
    return _language_model(request, body)


# --- what it costs --------------------------------------------------------------------------------------


def flops(
    request: llmbench.BuildRequest,
    shapes: Mapping[str, tuple[int, ...]],
    encoder: Widths,
    decoder: Widths,
) -> float:
    """Return the matmul FLOPs of a forward pass: both stacks and the output projection.

    A decoder layer has a second attention: query and output per target token, key and value per source token.
    Generated tokens run through it one by one, each seeing those before it and itself.
    """
    rows, length = shapes["input_ids"]
    body = encoder.layers * encoder.layer_flops(length, length)
    if request.head == "span":
        return rows * (body + linear_flops(length, encoder.hidden_size, 2))
    made = 1 if request.head == "classify" else shapes.get("decoder_input_ids", shapes.get("new_ids", (0, 0)))[1]
    keys = (made + 1) / 2 if "new_ids" in shapes else made  # on average
    cross = linear_flops(made, decoder.hidden_size, 2 * decoder.queries)
    cross += linear_flops(length, decoder.hidden_size, 2 * decoder.keys) + 4 * made * length * decoder.queries
    body += decoder.layers * (decoder.layer_flops(made, keys) + cross)
    if request.head == "classify":
        return rows * (body + linear_flops(1, decoder.hidden_size, request.num_labels))
    return rows * (body + linear_flops(made, decoder.hidden_size, request.vocab_size + SENTINELS))


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int, decoder: Widths
) -> float | None:
    """Return the bytes of the decoder's keys and values: of the target (`bos` and all tokens but the last) and, for its
    second attention, of the source."""
    if "new_ids" not in shapes:
        return None
    rows, length = shapes["input_ids"]
    return rows * 2 * (shapes["new_ids"][1] + length) * decoder.layers * decoder.keys * element_bytes
