"""Self-supervised pretraining on plain text. Example: `{"text": str}`, one document each.

This is the one task whose features are not one per example, so `decode` ignores its example (`{}` will do) and
`reference` is None. A decoded prediction is `{"nll", "words", "tokens", "masked"}`, and `nll_backward` where the model
also reads backwards: nats summed over one window, and how many words and predicted tokens that is.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import llmbench

_WORD = re.compile(r"\S+")


def _texts(example: Mapping[str, Any]) -> Sequence[str]:
    return (example["text"],)


def _blocks(texts: Sequence[str], ctx: llmbench.EncodeContext) -> list[Mapping[str, Any]]:
    """Cut the stream `bos doc eos bos doc eos ...` into blocks of `seq_len` ids.

    A shorter rest is dropped, unless it is all there is.
    """
    special, stream = ctx.tokenizer.special, []
    for ids in ctx.tokenizer.encode_batch(texts):
        stream += [special.bos, *ids, special.eos]
    whole = len(stream) - len(stream) % ctx.seq_len or len(stream)
    return [{"ids": stream[i : i + ctx.seq_len]} for i in range(0, whole, ctx.seq_len)]


def _windows(text: str, ctx: llmbench.EncodeContext) -> list[Mapping[str, Any]]:
    """Cut `doc eos` into windows of at most `seq_len` ids, each beginning with `bos`, and count their words.

    A word (between white space) belongs to the window that holds its first token; the end of the document is one
    more word of the last window. So the words of all windows are those of the document plus one.
    """
    special, room = ctx.tokenizer.special, ctx.seq_len - 1
    ids, offsets = ctx.tokenizer.encode_with_offsets(text)
    ends = [end for _, end in offsets]
    first_tokens = (bisect_right(ends, word.start()) for word in _WORD.finditer(text))
    words = Counter(min(token, max(0, len(ids) - 1)) // room for token in first_tokens)
    words[len(ids) // room] += 1
    tokens = [*ids, special.eos]
    return [
        {"ids": [special.bos, *tokens[i : i + room]], "words": words[i // room]} for i in range(0, len(tokens), room)
    ]


def _encode(examples: Sequence[Mapping[str, Any]], ctx: llmbench.EncodeContext) -> list[Mapping[str, Any]]:
    """Make one feature per block (training) or per window (evaluation), not per example.

    Training: `ids` of `seq_len` packed tokens. Evaluation: `ids` of a window of one document, and its `words`.
    """
    texts = [e["text"] for e in examples]
    if ctx.train:
        return _blocks(texts, ctx)
    return [window for text in texts for window in _windows(text, ctx)]


def _decode(
    prediction: Mapping[str, Any], example: Mapping[str, Any], feature: Mapping[str, Any], tokenizer: Any
) -> dict[str, Any]:
    return {**prediction, "words": feature["words"]}


def _reference(example: Mapping[str, Any]) -> None:
    return None


def _unigram(ctx: llmbench.BaselineContext, *, masked: bool) -> list[dict[str, Any]]:
    """Score each window by the frequencies of training tokens, one added to each count.

    A masked model never predicts the end of a document, so it is neither counted nor scored then.
    """
    special = ctx.tokenizer.special
    skipped = {special.bos, special.eos} if masked else {special.bos}
    counts: Counter[int] = Counter()
    for ids in ctx.tokenizer.encode_batch([e["text"] for e in ctx.dataset.train]):
        counts.update(ids)
    if not masked:
        counts[special.eos] += len(ctx.dataset.train)
    log_total = math.log(counts.total() + ctx.tokenizer.vocab_size)
    decoded = []
    for feature in ctx.features:
        scored = [token for token in feature["ids"] if token not in skipped]
        nll = math.fsum(log_total - math.log(counts[token] + 1) for token in scored)
        decoded.append({"nll": nll, "words": feature["words"], "tokens": len(scored), "masked": masked})
    return decoded


def unigram(ctx: llmbench.BaselineContext) -> list[dict[str, Any]]:
    """Predict every token by its frequency in the training split: the baseline of causal models."""
    return _unigram(ctx, masked=False)


def unigram_masked(ctx: llmbench.BaselineContext) -> list[dict[str, Any]]:
    """Predict every token by its frequency: the expected baseline of masked models, whichever tokens are masked."""
    return _unigram(ctx, masked=True)


TASK = llmbench.TaskSpec(
    name="pretraining",
    head="pretrain",
    fields=("text",),
    texts=_texts,
    encode=_encode,
    decode=_decode,
    reference=_reference,
    metrics=("perplexity",),
    primary="perplexity",
    baselines={"unigram": unigram, "unigram_masked": unigram_masked},
    description="Predict the tokens of plain text.",
    stages=("pretrain",),
)


@llmbench.hookimpl
def llmbench_tasks() -> list[llmbench.TaskSpec]:
    """Return the pretraining task."""
    return [TASK]
