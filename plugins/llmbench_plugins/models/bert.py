"""BERT (Devlin et al. 2019), from transformers' modules; generation is BERT-to-BERT (Rothe et al. 2020).

Shapes: `B` batch, `L` tokens of the input, `T` of the target, `H` hidden, `V` vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench.layouts import EncoderDecoder, MaskedBlocks, Pair, Single
from llmbench_plugins.models.heads import (
    attention_cache_elements,
    check_positions,
    class_output,
    greedy,
    layer_flops,
    layer_parameters,
    linear_flops,
    linear_parameters,
    losses_and_logits,
    plain_linear,
    resize_vocabulary,
    span_output,
    take_pretrained,
    wider,
)

SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"hidden": 64, "layers": 2, "heads": 2, "positions": 1024, "dropout": 0.0},
        "small": {"hidden": 256, "layers": 4, "heads": 4, "positions": 1024, "dropout": 0.1},
        "base": {"hidden": 768, "layers": 12, "heads": 12, "positions": 512, "dropout": 0.1},
    }
)
LAYOUTS: Mapping[str, Any] = MappingProxyType(
    {"pretrain": MaskedBlocks(), "classify": Single(), "span": Pair(), "generate": EncoderDecoder()}
)


def _config(request: llmbench.BuildRequest) -> Any:
    from transformers import BertConfig

    size = request.config
    return BertConfig(  # type: ignore[call-arg]
        vocab_size=request.vocab_size,
        hidden_size=size["hidden"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        intermediate_size=4 * size["hidden"],
        max_position_embeddings=size["positions"],
        hidden_dropout_prob=size["dropout"],
        attention_probs_dropout_prob=size["dropout"],
        initializer_range=0.02 * (768 / size["hidden"]) ** 0.5,  # 0.02 is meant for a width of 768
        pad_token_id=request.special.pad,
        attn_implementation=request.attention,
    )


def _body(request: llmbench.BuildRequest, pooler: bool = False) -> Any:
    """Return a BertModel: from `request.weights` where given, else with random weights."""
    from transformers import BertModel

    if request.weights is None:
        body = BertModel(_config(request), add_pooling_layer=pooler)
    else:
        body = BertModel.from_pretrained(
            request.weights, add_pooling_layer=pooler, attn_implementation=request.attention
        )
        resize_vocabulary(body, request.vocab_size)
    check_positions(request, body.config.max_position_embeddings, request.seq_len)
    return body


def _load_masked_lm(request: llmbench.BuildRequest) -> tuple[Any, Any]:
    """Return body and masked-LM head, whose output projection is the embedding's transpose."""
    from transformers import BertForMaskedLM

    if request.weights is None:
        model = BertForMaskedLM(_config(request))
    else:
        model = BertForMaskedLM.from_pretrained(request.weights, attn_implementation=request.attention)
        resize_vocabulary(model, request.vocab_size)
    longest = max(request.seq_len, request.target_len if request.head == "generate" else 0)
    check_positions(request, model.config.max_position_embeddings, longest)
    return model.bert, model.cls


def _language_model(request: llmbench.BuildRequest) -> Any:
    """Return the module for `pretrain`."""
    from torch import nn

    class BertLanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.lm_head = _load_masked_lm(request)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            hidden_BLH = self.body(input_ids, attention_mask).last_hidden_state
            if labels is None:
                return {"logits": self.lm_head(hidden_BLH)}
            labelled = request.labelled_logits
            loss, nll_B, tokens_B, logits_BLV = losses_and_logits(self.lm_head, hidden_BLH, labels, labelled)
            return {"loss": loss, "logits": logits_BLV, "nll": nll_B, "tokens": tokens_B}

    return BertLanguageModel()


def _classifier(request: llmbench.BuildRequest) -> Any:
    """Return the module for `classify`: the class is read from the first token, through BERT's pooler."""
    from torch import nn

    class BertClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _body(request, pooler=True)
            self.dropout = nn.Dropout(self.body.config.hidden_dropout_prob)
            self.classifier = plain_linear(self.body.config.hidden_size, request.num_labels)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            pooled_BH = self.body(input_ids, attention_mask).pooler_output
            return class_output(self.classifier(self.dropout(pooled_BH)), labels)

    return BertClassifier()


def _reader(request: llmbench.BuildRequest) -> Any:
    """Return the module for `span`."""
    from torch import nn

    class BertReader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _body(request)
            self.span = plain_linear(self.body.config.hidden_size, 2)

        def forward(
            self,
            input_ids: Any,
            attention_mask: Any,
            token_type_ids: Any,
            answer_mask: Any,
            offset: Any = None,
            start_positions: Any = None,
            end_positions: Any = None,
        ) -> dict[str, Any]:
            hidden_BLH = self.body(input_ids, attention_mask, token_type_ids).last_hidden_state
            return span_output(self.span(hidden_BLH), answer_mask, start_positions, end_positions)

    return BertReader()


def _decoder(body: Any, pretrained: bool) -> Any:
    """Return a causal BertModel with cross-attention that shares `body`'s word embeddings."""
    from transformers import BertModel

    config = copy.deepcopy(body.config)
    config.is_decoder, config.add_cross_attention = True, True
    decoder = BertModel(config, add_pooling_layer=False)
    if pretrained:
        decoder.load_state_dict(body.state_dict(), strict=False)
    decoder.embeddings.word_embeddings = body.embeddings.word_embeddings
    return decoder


def _generator(request: llmbench.BuildRequest) -> Any:
    """Return the module for `generate`: two BERTs, the second one causal and attending to the first."""
    import torch
    from torch import nn

    class BertToBert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.lm_head = _load_masked_lm(request)
            self.decoder = _decoder(self.body, request.weights is not None)

        def load_pretrained(self, state: Mapping[str, Any]) -> list[str]:
            """Start encoder and decoder from the same pretraining; the cross-attention has none."""
            return take_pretrained(self, state, {"body.": ("decoder.",)})

        def forward(
            self,
            input_ids: Any,
            attention_mask: Any,
            decoder_input_ids: Any,
            decoder_attention_mask: Any = None,
            labels: Any = None,
        ) -> dict[str, Any]:
            memory_BLH = self.body(input_ids, attention_mask).last_hidden_state
            hidden_BTH = self.decoder(  # padded on the right: the causal mask hides it
                decoder_input_ids,
                encoder_hidden_states=memory_BLH,
                encoder_attention_mask=attention_mask,
                use_cache=False,
            ).last_hidden_state
            if labels is None:
                return {"logits": self.lm_head(hidden_BTH)}
            loss, _, _, logits_BTV = losses_and_logits(self.lm_head, hidden_BTH, labels, request.labelled_logits)
            return {"loss": loss, "logits": logits_BTV}

        @torch.no_grad()
        def generate(self, arrays: dict[str, Any], max_new_tokens: int) -> Any:
            """Return greedy ids (B, T); `kv_cache` keeps keys and values of earlier tokens and of the source."""
            ids_BL, mask_BL = arrays["input_ids"], arrays["attention_mask"]
            memory_BLH, cache = self.body(ids_BL, mask_BL).last_hidden_state, None
            seen_BT = ids_BL[:, :0]

            def step(token_B: Any) -> Any:
                nonlocal cache, seen_BT
                seen_BT = token_B[:, None] if request.kv_cache else torch.cat([seen_BT, token_B[:, None]], 1)
                out = self.decoder(
                    seen_BT,
                    encoder_hidden_states=memory_BLH,
                    encoder_attention_mask=mask_BL,
                    past_key_values=cache,
                    use_cache=request.kv_cache,
                )
                cache = out.past_key_values
                return self.lm_head(out.last_hidden_state[:, -1])

            first = ids_BL.new_full((len(ids_BL),), request.special.bos)
            return greedy(step(first), step, max_new_tokens, request.special)

    return BertToBert()


def build(request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `request.head`.

    Raises Unsupported when the lengths asked for are beyond the position embeddings.
    """
    makers = {
        "pretrain": _language_model,
        "generate": _generator,
        "classify": _classifier,
        "span": _reader,
    }
    return makers[request.head](request)


def _widths(request: llmbench.BuildRequest) -> tuple[int, int, int]:
    """Return layers, hidden and inner width: of the size, or of the weights' configuration."""
    if request.weights is None:
        return request.config["layers"], request.config["hidden"], 4 * request.config["hidden"]
    from transformers import BertConfig

    config = BertConfig.from_pretrained(request.weights)
    return config.num_hidden_layers, config.hidden_size, config.intermediate_size


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Return the matmul FLOPs of a forward pass: layers, heads and output projection; see `heads.layer_flops`.

    A decoder layer has a second attention: query and output per target token, key and value per source token.
    Generated tokens run through it one by one, each seeing those before it and itself. Where only labels are projected,
    their number is what masking chooses on average. None where shapes do not tell: generation without a cache, and
    targets of which only labels are projected.
    """
    layers, hidden, inner = _widths(request)
    rows, length = shapes["input_ids"]
    body = layers * layer_flops(length, length, hidden, inner)
    if request.head == "classify":
        return rows * (body + linear_flops(1, hidden, hidden) + linear_flops(1, hidden, request.num_labels))
    if request.head == "span":
        return rows * (body + linear_flops(length, hidden, 2))
    made, keys = length, 0.0
    if request.head == "pretrain" and request.labelled_logits:
        made = length * LAYOUTS["pretrain"].rate
    if request.head == "generate":
        if (not request.kv_cache and "new_ids" in shapes) or (request.labelled_logits and "new_ids" not in shapes):
            return None
        made = shapes.get("decoder_input_ids", shapes.get("new_ids", (0, 0)))[1]
        keys = made if "decoder_input_ids" in shapes else (made + 1) / 2  # on average
        cross = linear_flops(made + length, hidden, 2 * hidden) + 4 * hidden * made * length
        body += layers * (layer_flops(made, keys, hidden, inner) + cross)
    return rows * (body + linear_flops(made, hidden, hidden) + linear_flops(made, hidden, request.vocab_size))


def parameters(request: llmbench.BuildRequest) -> int | None:
    """Return the number of parameters; word embeddings are shared with output and decoder. None for downloaded weights.

    Embeddings are those of words, positions, two kinds of segment and their normalization; a decoder layer has a second
    attention with its normalization.
    """
    if request.weights is not None:
        return None
    layers, hidden, inner = _widths(request)
    embeddings, stack = (request.config["positions"] + 4) * hidden, layers * layer_parameters(hidden, inner)
    body = request.vocab_size * hidden + embeddings + stack
    if request.head == "classify":
        return body + linear_parameters(hidden, hidden) + linear_parameters(hidden, request.num_labels)
    if request.head == "span":
        return body + linear_parameters(hidden, 2)
    output = linear_parameters(hidden, hidden) + 2 * hidden + request.vocab_size
    second = layers * (4 * linear_parameters(hidden, hidden) + 2 * hidden)
    return body + output + (embeddings + stack + second if request.head == "generate" else 0)


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int
) -> float | None:
    """Return the bytes of the decoder's keys and values: of the target (`bos` and all tokens but the last) and, for its
    second attention, of the source."""
    if "new_ids" not in shapes:
        return None
    if not request.kv_cache:
        return 0.0
    layers, hidden, _ = _widths(request)
    rows, length = shapes["input_ids"]
    return rows * attention_cache_elements(shapes["new_ids"][1] + length, layers, hidden) * element_bytes


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the BERT family."""
    return [
        llmbench.ModelSpec(
            name="bert",
            options=("labelled_logits", "kv_cache"),
            sizes=SIZES,
            layouts=LAYOUTS,
            build=build,
            description="bidirectional transformer encoder; encoder-decoder of two for generation",
            reference="BERT-base 110M: Devlin et al. 2019 (arXiv 1810.04805), model card google-bert/bert-base-uncased",
            learning_rate={"pretrain": 1e-3, "finetune": 1e-3},
            preload=("transformers.models.bert.modeling_bert",),
            masked=True,
            flops=flops,
            cache_bytes=cache_bytes,
            parameters=parameters,
            wider=wider,
            max_len=lambda size: SIZES[size]["positions"],
        )
    ]
