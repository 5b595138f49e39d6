"""Batches as tensors, and how a loader of torch makes them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llmbench.contract.specs import Batch, CollateContext, Feature, Layout
from llmbench.layouts import IGNORE


class TensorBatch(Batch):
    """A batch whose arrays are tensors: those go from process to process without a copy, and can be pinned."""

    def pin_memory(self) -> TensorBatch:
        """Return the batch in page-locked memory; the loader calls this in a thread of its own."""
        return replace(self, arrays={name: t.pin_memory() for name, t in self.arrays.items()})


def as_tensors(batch: Batch, **fields: float) -> TensorBatch:
    """Return `batch` with tensors that share the memory of its arrays."""
    tensors = {name: torch.from_numpy(array) for name, array in batch.arrays.items()}
    return TensorBatch(**{**vars(batch), "arrays": tensors, **fields})


class Fetch:
    """A map-style data set over features that says how long getting a batch of them took."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitems__(self, indices: Sequence[int]) -> tuple[list[Feature], float]:
        """Return the features and the seconds; torch's loader prefers this over one item at a time."""
        begin = time.perf_counter()
        rows = [self.features[i] for i in indices]
        return rows, time.perf_counter() - begin


class Collate:
    """Picklable `collate_fn`."""

    def __init__(self, layout: Layout, ctx: CollateContext) -> None:
        self.layout, self.ctx = layout, ctx

    def __call__(self, fetched: tuple[list[Feature], float]) -> TensorBatch:
        """Return the batch of the features that `Fetch` gave."""
        rows, fetch_s = fetched
        begin = time.perf_counter()
        batch = self.layout.collate(rows, self.ctx)
        return as_tensors(batch, fetch_s=fetch_s, collate_s=time.perf_counter() - begin)


def split_rows(arrays: dict[str, Tensor], count: int) -> list[tuple[dict[str, Tensor], float]]:
    """Return the arrays in at most `count` parts of rows, each with its share of what the loss is a mean over.

    That is labelled tokens where labels are a table, else rows.
    """
    columns = {name: t.chunk(count) for name, t in arrays.items()}
    parts = [dict(zip(columns, rows, strict=True)) for rows in zip(*columns.values(), strict=True)]
    labels = arrays.get("labels")
    if labels is not None and labels.dim() == 2:
        counts = [int((part["labels"] != IGNORE).sum()) for part in parts]
    else:
        counts = [len(next(iter(part.values()))) for part in parts]
    return [(part, n / max(1, sum(counts))) for part, n in zip(parts, counts, strict=True)]
