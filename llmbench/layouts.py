"""How features become arrays: the usual layouts, for models to pick from.

Shapes: `B` batch, `L` longest input of the batch, `T` longest target. Token arrays are int64, masks int64 with 1
where there is a token. Labels are -100 where nothing is to be predicted (the `ignore_index` of torch's losses).
Padding is dynamic: to the longest row of the batch, never to the limit.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmbench.contract.specs import Batch, CollateContext, Feature

IGNORE = -100


def pad_rows(rows: Sequence[Sequence[int]], fill: int, *, left: bool = False) -> np.ndarray:
    """Return `rows` as one int64 array (B, longest row), filled up with `fill` on the right (or left)."""
    width = max(1, max(map(len, rows), default=0))
    out = np.full((len(rows), width), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        if row:
            out[i, width - len(row) if left else 0 : width if left else len(row)] = row
    return out


def mask_of(rows: Sequence[Sequence[int]], *, left: bool = False) -> np.ndarray:
    """Return 1 where `pad_rows(rows)` holds a token and 0 where it holds padding."""
    return pad_rows([[1] * len(row) for row in rows], 0, left=left)


def _batch(arrays: dict[str, np.ndarray], *masks: np.ndarray) -> Batch:
    tokens = int(sum(int(mask.sum()) for mask in masks))
    positions = int(sum(mask.size for mask in masks))
    return Batch(arrays, len(next(iter(arrays.values()))), tokens, positions - tokens)


def content_rng(ctx: CollateContext, rows: Sequence[Sequence[int]]) -> np.random.Generator:
    """Return a generator that depends on the seed and the content only: the same batch is drawn alike everywhere."""
    digest = 0
    for row in rows:
        digest = zlib.crc32(np.asarray(row, dtype=np.int64).tobytes(), digest)
    return np.random.default_rng([ctx.seed, digest])


@dataclass(frozen=True)
class Single:
    """`classify`: `bos text eos` -> `input_ids`, `attention_mask` (B, L), `labels` (B,)."""

    def length(self, feature: Feature) -> int:
        """Tokens of the text and its two marks."""
        return len(feature["ids"]) + 2

    def collate(self, features: Sequence[Feature], ctx: CollateContext) -> Batch:
        """Cut each text to `seq_len` - 2 tokens, mark it and pad on the right."""
        room = ctx.seq_len - 2
        rows = [[ctx.special.bos, *f["ids"][:room], ctx.special.eos] for f in features]
        mask = mask_of(rows)
        arrays = {"input_ids": pad_rows(rows, ctx.special.pad), "attention_mask": mask}
        if all(f.get("label") is not None for f in features):
            arrays["labels"] = np.array([f["label"] for f in features], dtype=np.int64)
        return _batch(arrays, mask)


def _window(feature: Feature, room: int, train: bool) -> tuple[list[int], int]:
    """Return the part of the context that fits into `room`, and where it starts.

    In training the window is moved so that it holds the answer; in evaluation it is the beginning, always: a
    model that would need to look further is scored on what it could see.
    """
    context = feature["context"]
    if len(context) <= room:
        return context, 0
    first = 0
    if train and feature.get("end") is not None and feature["end"] >= room:
        first = min(feature["end"] + 1 - room + room // 4, len(context) - room, feature["start"])
    return context[first : first + room], first


@dataclass(frozen=True)
class Pair:
    """`span`, in one sequence: `bos question sep context eos`.

    `input_ids`, `attention_mask`, `token_type_ids` (0 question, 1 context), `answer_mask` (1 where an answer may be)
    (B, L); `offset` (B,) turns a position into a token of the context; `start_positions`, `end_positions` (B,).
    """

    def length(self, feature: Feature) -> int:
        """Tokens of question and context and their three marks."""
        return len(feature["question"]) + len(feature["context"]) + 3

    def collate(self, features: Sequence[Feature], ctx: CollateContext) -> Batch:
        """Cut questions to a third of `seq_len` and contexts to what is left."""
        special, rows, contexts, offsets, starts, ends = ctx.special, [], [], [], [], []
        for f in features:
            question = f["question"][: max(1, ctx.seq_len // 3)]
            head = [special.bos, *question, special.sep]
            context, first = _window(f, ctx.seq_len - len(head) - 1, ctx.train)
            rows.append([*head, *context, special.eos])
            contexts.append((len(head), len(context)))
            offsets.append(len(head) - first)
            inside = f.get("start") is not None and first <= f["start"] <= f["end"] < first + len(context)
            starts.append(f["start"] + offsets[-1] if inside else IGNORE)
            ends.append(f["end"] + offsets[-1] if inside else IGNORE)
        mask = mask_of(rows)
        types, answers = np.zeros_like(mask), np.zeros_like(mask)
        for i, (begin, size) in enumerate(contexts):
            types[i, begin : begin + size + 1] = 1
            answers[i, begin : begin + size] = 1
        arrays = {
            "input_ids": pad_rows(rows, special.pad),
            "attention_mask": mask,
            "token_type_ids": types,
            "answer_mask": answers,
            "offset": np.array(offsets, dtype=np.int64),
        }
        if ctx.train:
            arrays["start_positions"] = np.array(starts, dtype=np.int64)
            arrays["end_positions"] = np.array(ends, dtype=np.int64)
        return _batch(arrays, mask)


@dataclass(frozen=True)
class TwoSequences:
    """`span`, question and context apart: `question_ids`, `question_mask` (B, Q), `input_ids`, `attention_mask` (B, L).

    `answer_mask` (B, L), `offset`, `start_positions` and `end_positions` (B,) are as in `Pair`.
    """

    def length(self, feature: Feature) -> int:
        """Tokens of question and context."""
        return len(feature["question"]) + len(feature["context"])

    def collate(self, features: Sequence[Feature], ctx: CollateContext) -> Batch:
        """Cut questions to a third of `seq_len` and contexts to what is left."""
        questions, contexts, offsets, starts, ends = [], [], [], [], []
        for f in features:
            question = f["question"][: max(1, ctx.seq_len // 3)] or [ctx.special.unk]
            context, first = _window(f, ctx.seq_len - len(question), ctx.train)
            questions.append(question)
            contexts.append(context)
            offsets.append(-first)
            inside = f.get("start") is not None and first <= f["start"] <= f["end"] < first + len(context)
            starts.append(f["start"] - first if inside else IGNORE)
            ends.append(f["end"] - first if inside else IGNORE)
        question_mask, mask = mask_of(questions), mask_of(contexts)
        arrays = {
            "question_ids": pad_rows(questions, ctx.special.pad),
            "question_mask": question_mask,
            "input_ids": pad_rows(contexts, ctx.special.pad),
            "attention_mask": mask,
            "answer_mask": mask.copy(),
            "offset": np.array(offsets, dtype=np.int64),
        }
        if ctx.train:
            arrays["start_positions"] = np.array(starts, dtype=np.int64)
            arrays["end_positions"] = np.array(ends, dtype=np.int64)
        return _batch(arrays, question_mask, mask)


@dataclass(frozen=True)
class EncoderDecoder:
    """`generate`, source and target apart.

    `input_ids`, `attention_mask` (B, L) hold `bos source eos`; in training `decoder_input_ids`,
    `decoder_attention_mask` and `labels` (B, T) hold `bos target`, its mask and `target eos`.
    """

    def length(self, feature: Feature) -> int:
        """Tokens of source and target and their marks."""
        return len(feature["source"]) + len(feature["target"]) + 4

    def collate(self, features: Sequence[Feature], ctx: CollateContext) -> Batch:
        """Cut sources to `seq_len` - 2 and targets to `target_len` - 1 tokens."""
        special = ctx.special
        sources = [[special.bos, *f["source"][: ctx.seq_len - 2], special.eos] for f in features]
        mask = mask_of(sources)
        arrays = {"input_ids": pad_rows(sources, special.pad), "attention_mask": mask}
        if not ctx.train:
            return _batch(arrays, mask)
        targets = [list(f["target"][: ctx.target_len - 1]) for f in features]
        decoder = [[special.bos, *t] for t in targets]
        decoder_mask = mask_of(decoder)
        arrays["decoder_input_ids"] = pad_rows(decoder, special.pad)
        arrays["decoder_attention_mask"] = decoder_mask
        arrays["labels"] = pad_rows([[*t, special.eos] for t in targets], IGNORE)
        return _batch(arrays, mask, decoder_mask)


@dataclass(frozen=True)
class PromptCompletion:
    """`generate`, in one sequence: `bos source sep target eos`; the loss is on the completion only.

    Training: `input_ids`, `attention_mask`, `labels` (B, L), padded on the right. Prediction: `input_ids`,
    `attention_mask` (B, L) of the prompt, padded on the left so that all rows go on at the same place.
    """

    def length(self, feature: Feature) -> int:
        """Tokens of prompt and completion and their marks."""
        return len(feature["source"]) + len(feature["target"]) + 3

    def collate(self, features: Sequence[Feature], ctx: CollateContext) -> Batch:
        """Cut sources to `seq_len` - 2 and targets to `target_len` - 1 tokens."""
        special = ctx.special
        prompts = [[special.bos, *f["source"][: ctx.seq_len - 2], special.sep] for f in features]
        if not ctx.train:
            mask = mask_of(prompts, left=True)
            arrays = {"input_ids": pad_rows(prompts, special.pad, left=True), "attention_mask": mask}
            return _batch(arrays, mask)
        rows, labels = [], []
        for prompt, f in zip(prompts, features, strict=True):
            completion = [*f["target"][: ctx.target_len - 1], special.eos]
            rows.append([*prompt, *completion])
            labels.append([IGNORE] * len(prompt) + completion)
        mask = mask_of(rows)
        arrays = {
            "input_ids": pad_rows(rows, special.pad),
            "attention_mask": mask,
            "labels": pad_rows(labels, IGNORE),
        }
        return _batch(arrays, mask)


@dataclass(frozen=True)
class CausalBlocks:
    """`pretrain` on every next token: `input_ids`, `attention_mask`, `labels` (B, L); labels equal the inputs.

    The model shifts: position i predicts token i + 1. A row begins with a mark that is not predicted.
    """

    def length(self, feature: Feature) -> int:
        """Tokens of the window."""
        return len(feature["ids"])

    def collate(self, features: Sequence[Feature], ctx: CollateContext) -> Batch:
        """Pad windows on the right; padding is never predicted."""
        rows = [list(f["ids"][: ctx.seq_len]) for f in features]
        mask = mask_of(rows)
        ids = pad_rows(rows, ctx.special.pad)
        arrays = {"input_ids": ids, "attention_mask": mask, "labels": np.where(mask == 1, ids, IGNORE)}
        return _batch(arrays, mask)


@dataclass(frozen=True)
class MaskedBlocks:
    """`pretrain` on masked tokens (BERT): 15 % are chosen; 80 % of those become `mask`, 10 % random, 10 % stay.

    Source of the rates: Devlin et al. 2019 (arXiv 1810.04805), section 3.1. Special tokens are never chosen; at
    least one token of each row is.
    """

    rate: float = 0.15

    def length(self, feature: Feature) -> int:
        """Tokens of the window."""
        return len(feature["ids"])

    def collate(self, features: Sequence[Feature], ctx: CollateContext) -> Batch:
        """Draw the masks from the seed and the content of the batch, and pad on the right."""
        rows = [list(f["ids"][: ctx.seq_len]) for f in features]
        rng = content_rng(ctx, rows)
        mask = mask_of(rows)
        ids = pad_rows(rows, ctx.special.pad)
        special = np.isin(ids, [ctx.special.pad, ctx.special.bos, ctx.special.eos, ctx.special.sep])
        draw = np.where(special | (mask == 0), 2.0, rng.random(ids.shape))
        chosen = draw < np.maximum(self.rate, draw.min(axis=1, keepdims=True) + 1e-12)
        chosen &= draw < 2.0
        labels = np.where(chosen, ids, IGNORE)
        action = rng.random(ids.shape)
        first_word = max(ctx.special.mask, ctx.special.sep) + 1
        lowest = first_word if first_word < ctx.vocab_size else 0  # some tokenizers have the marks at the end
        random_ids = rng.integers(lowest, ctx.vocab_size, ids.shape)
        ids = np.where(chosen & (action < 0.8), ctx.special.mask, ids)
        ids = np.where(chosen & (action >= 0.9), random_ids, ids)
        return _batch({"input_ids": ids, "attention_mask": mask, "labels": labels}, mask)
