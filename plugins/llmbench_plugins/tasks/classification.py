"""Classification of a text. Example: `{"text": str, "label": int}`; a decoded prediction is an int."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import llmbench


def _texts(example: Mapping[str, Any]) -> Sequence[str]:
    return (example["text"],)


def _encode(examples: Sequence[Mapping[str, Any]], ctx: llmbench.EncodeContext) -> list[Mapping[str, Any]]:
    rows = ctx.tokenizer.encode_batch([e["text"] for e in examples])
    return [{"ids": ids, "label": int(e["label"])} for ids, e in zip(rows, examples, strict=True)]


def _decode(prediction: Any, example: Mapping[str, Any], feature: Mapping[str, Any], tokenizer: Any) -> int:
    return int(prediction)


def _reference(example: Mapping[str, Any]) -> int:
    return int(example["label"])


def num_labels(info: Mapping[str, Any]) -> int:
    """Return the number of classes; raise DataError where the data set does not name them."""
    if not info.get("labels"):
        raise llmbench.DataError("classification: the data set names no classes; give info={'labels': [...]}")
    return len(info["labels"])


def majority(ctx: llmbench.BaselineContext) -> list[int]:
    """Answer every example with the most frequent class of the training split (the smaller index of two)."""
    counts = Counter(int(e["label"]) for e in ctx.dataset.train)
    label = max(sorted(counts), key=lambda label: counts[label])
    return [label] * len(ctx.test)


TASK = llmbench.TaskSpec(
    name="classification",
    head="classify",
    fields=("text", "label"),
    texts=_texts,
    encode=_encode,
    decode=_decode,
    reference=_reference,
    metrics=("accuracy", "f1"),
    primary="accuracy",
    baselines={"majority": majority},
    num_labels=num_labels,
    description="Which class a text belongs to.",
)


@llmbench.hookimpl
def llmbench_tasks() -> list[llmbench.TaskSpec]:
    """Return the classification task."""
    return [TASK]
