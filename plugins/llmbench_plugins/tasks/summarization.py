"""Summarization. Example: `{"document", "summary"}` and optionally `references`, all acceptable summaries.

A decoded prediction is a str.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.metrics.text import segments

#: Summaries among which the constant baseline looks for the most typical one; the search is quadratic in it.
MEDOID_CANDIDATES = 200
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s|$)|[。！？][”」』）]*|\n")


def _texts(example: Mapping[str, Any]) -> Sequence[str]:
    return (example["document"], example["summary"])


def _encode(examples: Sequence[Mapping[str, Any]], ctx: llmbench.EncodeContext) -> list[Mapping[str, Any]]:
    sources = ctx.tokenizer.encode_batch([e["document"] for e in examples])
    targets = ctx.tokenizer.encode_batch([e["summary"] for e in examples])
    return [{"source": s, "target": t} for s, t in zip(sources, targets, strict=True)]


def _decode(prediction: Any, example: Mapping[str, Any], feature: Mapping[str, Any], tokenizer: Any) -> str:
    return tokenizer.decode(prediction).strip()


def _reference(example: Mapping[str, Any]) -> list[str]:
    return list(example.get("references") or [example["summary"]])


def first_sentence(text: str) -> str:
    """Return `text` up to the end of its first sentence or line; all of it where no end is found."""
    text = text.strip()
    end = _SENTENCE_END.search(text)
    return text[: end.end()].strip() if end else text


def lead(ctx: llmbench.BaselineContext) -> list[str]:
    """Answer with the first sentence of the document."""
    return [first_sentence(e["document"]) for e in ctx.test]


def _medoid(texts: Sequence[str]) -> str:
    """Return the text whose words overlap most, by mean F1, with those of all texts; the earliest of equals."""
    bags = [Counter(segments(text.lower())) for text in texts]
    sizes = [bag.total() for bag in bags]

    def typicality(i: int) -> float:
        overlaps = (
            2 * (bags[i] & bag).total() / max(1, sizes[i] + size) for bag, size in zip(bags, sizes, strict=True)
        )
        return sum(overlaps)

    return texts[max(range(len(texts)), key=typicality)]


def constant(ctx: llmbench.BaselineContext) -> list[str]:
    """Answer always with the most typical training summary (medoid of up to 200, evenly spaced)."""
    train = ctx.dataset.train
    step = max(1, -(-len(train) // MEDOID_CANDIDATES))
    summary = _medoid([train[i]["summary"] for i in range(0, len(train), step)])
    return [summary] * len(ctx.test)


TASK = llmbench.TaskSpec(
    name="summarization",
    head="generate",
    fields=("document", "summary"),
    texts=_texts,
    encode=_encode,
    decode=_decode,
    reference=_reference,
    metrics=("rouge",),
    primary="rougeL",
    baselines={"lead": lead, "constant": constant},
    description="A short text that says what a long one says.",
)


@llmbench.hookimpl
def llmbench_tasks() -> list[llmbench.TaskSpec]:
    """Return the summarization task."""
    return [TASK]
