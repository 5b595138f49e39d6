"""`hf:NAME_OR_PATH`: any causal, masked or sequence-to-sequence model of transformers, from a folder or the hub.

A causal model serves every head, as GPT-2 does; a masked one all but generation; a sequence-to-sequence one every head,
as T5 does. A cell reads its text with the tokenizer that lies with the weights, because what they have learned is about
those ids; where none lies there (weights saved without), with the suite's. The embedding is cut or grown to fit.

Shapes: `B` batch, `L` tokens, `H` hidden, `V` vocabulary.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench.layouts import MaskedBlocks, Pair, Single
from llmbench_plugins.models import bert, causal, seq2seq, t5
from llmbench_plugins.models.heads import (
    check_positions,
    class_output,
    plain_linear,
    resize_vocabulary,
    span_output,
    take_pretrained,
    token_losses,
    with_lora,
)

MASKED_LAYOUTS: Mapping[str, Any] = MappingProxyType({"pretrain": MaskedBlocks(), "classify": Single(), "span": Pair()})
SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType({"own": {}})
LEARNING_RATE: Mapping[str, float] = MappingProxyType({"pretrain": 5e-4, "finetune": 5e-4})
#: Ends of transformers' class names -> what kind of model that is.
ENDS = {
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForMaskedLM": "masked",
    "ForPreTraining": "masked",
    "ForConditionalGeneration": "seq2seq",
    "MTModel": "seq2seq",
}
#: In the configuration of models that do something between the output projection and the softmax.
SCALED = ("logit_scale", "logits_scaling", "final_logit_softcapping")
#: Models with the layers of Llama, whose matrices alone decide the FLOPs.
LLAMAS = ("llama", "mistral", "qwen2", "qwen3", "gpt2")


def kind_of(config: Mapping[str, Any], where: str) -> str:
    """Return causal, masked or seq2seq, from the names of the classes that a configuration was saved by."""
    names = config.get("architectures") or []
    for name in names:
        for end, kind in ENDS.items():
            if name.endswith(end):
                return kind
    known = ", ".join(f"...{end}" for end in ENDS)
    raise llmbench.UserError(
        f"model hf:{where}: its architecture is {' or '.join(names) or 'not named'}; save one of {known}"
    )


def _longest(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens the model can read; None where positions are relative."""
    found = config.get("max_position_embeddings") or config.get("n_positions")
    if found is None or config.get("model_type") in ("t5", "mt5"):
        return None
    offset = 2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert") else 0  # of its position ids
    return int(found) - offset


def _load(auto: str, request: llmbench.BuildRequest, rows: int) -> Any:
    """Return the model of a class of transformers' Auto classes, its embedding with `rows` rows."""
    import transformers

    model = getattr(transformers, auto).from_pretrained(request.weights, attn_implementation=request.attention)
    return resize_vocabulary(model, rows)


def _causal(request: llmbench.BuildRequest) -> Any:
    model = _load("AutoModelForCausalLM", request, request.vocab_size)
    scaled = [name for name in SCALED if getattr(model.config, name, None) not in (None, 1, 1.0)]
    if scaled:
        raise llmbench.Unsupported(f"its configuration has {scaled[0]}, which is not known here")
    model.base_model.config.pad_token_id = None  # padding is on the right and harmless
    return causal.build(request, model.base_model, model.get_output_embeddings())


def _seq2seq(request: llmbench.BuildRequest) -> Any:
    return seq2seq.build(request, _load("AutoModelForSeq2SeqLM", request, request.vocab_size + seq2seq.SENTINELS))


def _encoder(request: llmbench.BuildRequest) -> Any:
    """Return the module for `pretrain`, `classify` (from the first token) or `span`."""
    from torch import nn

    model = _load("AutoModelForMaskedLM", request, request.vocab_size)
    body = model.base_model
    typed = "token_type_ids" in inspect.signature(body.forward).parameters
    typed = typed and getattr(body.config, "type_vocab_size", 0) > 1

    class MaskedLanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            logits_BLV = self.body(input_ids, attention_mask=attention_mask).logits
            if labels is None:
                return {"logits": logits_BLV}
            loss, nll_B, tokens_B = token_losses(logits_BLV, labels)
            return {"loss": loss, "logits": logits_BLV, "nll": nll_B, "tokens": tokens_B}

    class OnTheBody(nn.Module):
        """What needs the transformer without its output projection."""

        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def load_pretrained(self, state: Mapping[str, Any]) -> list[str]:
            """Take the transformer out of the language model."""
            return take_pretrained(self, state, {f"body.{model.base_model_prefix}.": ("body.",)})

    class MaskedClassifier(OnTheBody):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = plain_linear(body.config.hidden_size, request.num_labels)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            hidden_BLH = self.body(input_ids, attention_mask=attention_mask).last_hidden_state
            return class_output(self.classifier(hidden_BLH[:, 0]), labels)

    class MaskedReader(OnTheBody):
        def __init__(self) -> None:
            super().__init__()
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
            types = {"token_type_ids": token_type_ids} if typed else {}
            hidden_BLH = self.body(input_ids, attention_mask=attention_mask, **types).last_hidden_state
            return span_output(self.span(hidden_BLH), answer_mask, start_positions, end_positions)

    return {"pretrain": MaskedLanguageModel, "classify": MaskedClassifier, "span": MaskedReader}[request.head]()


BUILDERS: Mapping[str, tuple[Callable[[llmbench.BuildRequest], Any], Mapping[str, Any]]] = MappingProxyType(
    {
        "causal": (_causal, causal.LAYOUTS),
        "masked": (_encoder, MASKED_LAYOUTS),
        "seq2seq": (_seq2seq, seq2seq.LAYOUTS),
    }
)


def build(kind: str, longest: int | None, request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `request.head`, with low-rank adapters where they are asked for."""
    if longest is not None:
        extra = request.target_len if request.head == "generate" and kind == "causal" else 0
        check_positions(request, longest, request.seq_len + extra)
    return with_lora(BUILDERS[kind][0](request), request)


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Return the matmul FLOPs of a forward pass where the architecture is known; None with adapters.

    A step that trains adapters has no gradients of the weights, so three times this would be too much.
    """
    config = _config(request)
    if request.lora is not None:
        return None
    if config.model_type in LLAMAS:
        return causal.flops(request, shapes, causal.widths(config))
    if config.model_type == "t5":
        return seq2seq.flops(request, shapes, *t5.widths(config))
    if config.model_type == "bert" and request.head != "classify":  # there no pooler is used
        return bert.flops(request, shapes)
    return None


def cache_bytes(
    request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]], element_bytes: int
) -> float | None:
    """Return the bytes of keys and values where the architecture is known.

    Under autocast rotary positions make those of a Llama float32, whatever the precision; then it is not known.
    """
    config = _config(request)
    if config.model_type == "gpt2" or (config.model_type in LLAMAS and element_bytes == 4):
        return causal.cache_bytes(request, shapes, element_bytes, causal.widths(config))
    if config.model_type == "t5":
        return seq2seq.cache_bytes(request, shapes, element_bytes, t5.widths(config)[1])
    return None


def _config(request: llmbench.BuildRequest) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(request.weights))


def of_weights(folder: str) -> llmbench.ModelSpec:
    """Return the spec of the model in `folder`. Raises UserError, one line, where its kind is not known."""
    path = Path(folder)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    kind, longest = kind_of(config, path.name), _longest(config)
    return llmbench.ModelSpec(
        name="hf",
        sizes=SIZES,
        layouts=BUILDERS[kind][1],
        build=functools.partial(build, kind, longest),
        description=f"{kind} model of transformers: {config.get('model_type')}",
        learning_rate=LEARNING_RATE,
        preload=("transformers.models.auto.modeling_auto",),
        masked=kind != "causal",
        max_len=lambda size: longest,
        flops=flops,
        cache_bytes=cache_bytes,
        options=("labelled_logits", "kv_cache", "lora") if kind == "causal" else ("lora",),
    )


def _no_weights(request: llmbench.BuildRequest) -> Any:
    raise llmbench.UserError("model 'hf' needs weights; write hf:NAME_OR_PATH")


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the kind of models that are named `hf:NAME_OR_PATH`."""
    return [
        llmbench.ModelSpec(
            name="hf",
            sizes=SIZES,
            layouts={},
            build=_no_weights,
            description="hf:NAME_OR_PATH, any causal, masked or sequence-to-sequence model of transformers",
            learning_rate=LEARNING_RATE,
            options=("lora",),
            of_weights=of_weights,
        )
    ]
