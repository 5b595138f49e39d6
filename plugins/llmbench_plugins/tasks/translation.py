"""Translation. Example: `{"source": str, "target": str}`; a decoded prediction is a str."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import llmbench


def _texts(example: Mapping[str, Any]) -> Sequence[str]:
    return (example["source"], example["target"])


def _encode(examples: Sequence[Mapping[str, Any]], ctx: llmbench.EncodeContext) -> list[Mapping[str, Any]]:
    sources = ctx.tokenizer.encode_batch([e["source"] for e in examples])
    targets = ctx.tokenizer.encode_batch([e["target"] for e in examples])
    return [{"source": s, "target": t} for s, t in zip(sources, targets, strict=True)]


def _decode(prediction: Any, example: Mapping[str, Any], feature: Mapping[str, Any], tokenizer: Any) -> str:
    return tokenizer.decode(prediction).strip()


def _reference(example: Mapping[str, Any]) -> str:
    return example["target"]


def copy(ctx: llmbench.BaselineContext) -> list[str]:
    """Answer with the source as it is."""
    return [e["source"] for e in ctx.test]


TASK = llmbench.TaskSpec(
    name="translation",
    head="generate",
    fields=("source", "target"),
    texts=_texts,
    encode=_encode,
    decode=_decode,
    reference=_reference,
    metrics=("bleu", "chrf"),
    primary="bleu",
    baselines={"copy": copy},
    description="The same sentence in another language.",
)


@llmbench.hookimpl
def llmbench_tasks() -> list[llmbench.TaskSpec]:
    """Return the translation task."""
    return [TASK]
