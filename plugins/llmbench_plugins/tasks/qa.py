"""Extractive question answering: the answer is a span of the context.

Example: `{"id", "question", "context", "answers": [{"text", "answer_start"}]}`, `answer_start` in characters. A
decoded prediction is a str, a piece of the context.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.metrics.text import segment_spans, segments


def _texts(example: Mapping[str, Any]) -> Sequence[str]:
    return (example["question"], example["context"])


def answer_span(example: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return (start, end) in characters of the first answer in the context; None where it is not there."""
    if not example["answers"]:
        return None
    answer = example["answers"][0]
    text, start = answer["text"], answer["answer_start"]
    if not text.strip():
        return None
    if example["context"][start : start + len(text)] != text:
        start = example["context"].find(text)
    return (start, start + len(text)) if start >= 0 else None


def token_span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """Return the first and last token (inclusive) that hold any of the characters `start` to `end` (exclusive)."""
    holding = [i for i, (first, last) in enumerate(offsets) if max(first, start) < min(last, end)]
    return (holding[0], holding[-1]) if holding else None


def _encode(examples: Sequence[Mapping[str, Any]], ctx: llmbench.EncodeContext) -> list[Mapping[str, Any]]:
    """Make one feature per example; `start` and `end` are None where the answer is not in the context."""
    features: list[Mapping[str, Any]] = []
    questions = ctx.tokenizer.encode_batch([e["question"] for e in examples])
    for example, question in zip(examples, questions, strict=True):
        context, offsets = ctx.tokenizer.encode_with_offsets(example["context"])
        characters = answer_span(example)
        span = token_span(offsets, *characters) if characters else None
        start, end = span or (None, None)
        features.append({"question": question, "context": context, "start": start, "end": end, "offsets": offsets})
    return features


def _decode(prediction: Any, example: Mapping[str, Any], feature: Mapping[str, Any], tokenizer: Any) -> str:
    start, end = (int(token) for token in prediction)
    offsets = feature["offsets"]
    if not 0 <= start <= end or start >= len(offsets):
        return ""
    last = min(end, len(offsets) - 1)
    return example["context"][offsets[start][0] : offsets[last][1]].strip()


def _reference(example: Mapping[str, Any]) -> list[str]:
    return [answer["text"] for answer in example["answers"]] or [""]


def random_span(ctx: llmbench.BaselineContext) -> list[str]:
    """Answer with a random run of words of the context, as long as the answer of a random training example."""
    rng = random.Random(ctx.seed)
    lengths = [len(segments(a["text"])) for e in ctx.dataset.train for a in e["answers"][:1]] or [1]
    answers = []
    for example in ctx.test:
        spans = segment_spans(example["context"])
        length = max(1, min(rng.choice(lengths), len(spans)))
        first = rng.randrange(max(1, len(spans) - length + 1))
        run = spans[first : first + length]
        answers.append(example["context"][run[0][0] : run[-1][1]] if run else "")
    return answers


TASK = llmbench.TaskSpec(
    name="qa",
    head="span",
    fields=("id", "question", "context", "answers"),
    texts=_texts,
    encode=_encode,
    decode=_decode,
    reference=_reference,
    metrics=("squad",),
    primary="f1",
    baselines={"random_span": random_span},
    description="The span of a context that answers a question.",
)


@llmbench.hookimpl
def llmbench_tasks() -> list[llmbench.TaskSpec]:
    """Return the question answering task."""
    return [TASK]
