"""The cases: which plant in which host, and how strong. Data only: nothing here computes or imports torch.

A *strength* is a number in the unit of its plant (milliseconds, operators, tokens ...), chosen so that the planted step
takes 1.2 to 6 times the unplanted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One workload. `plant` is a name of `plants.PLANTS`, None for a control; `cause` is the cause that it plants."""

    host: str
    plant: str | None
    cause: str | None
    axis: str | None
    strength: float = 0.0
    threads: int = 1

    @property
    def name(self) -> str:
        """The identifier of the case's target, `llmbench.planted.targets:NAME`."""
        amount = f"{self.strength:g}".replace(".", "p")
        parts = [self.host, self.plant or "control", *([amount] if self.plant else []), f"{self.threads}t"]
        return "_".join(parts)


@dataclass(frozen=True)
class Planted:
    """A plant: its cause, the axis of the cause, and the unit of its strength.

    `natural` says why the headroom of an unplanted host is below 1.02. `work` is the work of an unplanted step, in
    planted steps.
    """

    cause: str
    axis: str
    unit: str
    natural: str
    work: float = 1.0


PLANTS = {
    "sleep": Planted("input", "where", "ms per batch", "batches lie in memory"),
    "items": Planted("input", "where", "ms per batch, in a data set's items", "batches lie in memory"),
    "workers": Planted("input", "where", "ms per batch, in one loader process", "batches lie in memory"),
    "tokenize": Planted("input", "where", "characters per text", "batches lie in memory"),
    "mask": Planted("padding", "where", "% of padding, with a mask", "rows of a batch are equally long"),
    "ignored": Planted("padding", "where", "% of padding, labels ignored", "rows of a batch are equally long"),
    "vocabulary": Planted("vocabulary", "where", "words", "256 words"),
    "sdpa": Planted("attention", "where", "tokens per row, fused", "the core hands on its values"),
    "eager": Planted("attention", "where", "tokens per row, by hand", "the core hands on its values"),
    "module": Planted("attention", "where", "tokens per row, in nn.MultiheadAttention", "the core hands on its values"),
    "adam": Planted("optimizer", "where", "rounds of Adam by hand", "one SGD step, fused"),
    "tensors": Planted("optimizer", "where", "small parameters, one by one", "one SGD step, fused"),
    "rnn_layer": Planted("recurrence", "where", "time steps", "previous states are previous inputs"),
    "gru_layer": Planted("recurrence", "where", "time steps", "previous states are previous inputs"),
    "cells": Planted("recurrence", "where", "time steps, a cell in a loop", "previous states are previous inputs"),
    "checkpoint": Planted("checkpointing", "where", "layers", "everything is kept"),
    "nested": Planted("checkpointing", "where", "layers, twice", "everything is kept"),
    "decode": Planted("decoding", "where", "tokens", "all tokens are read at once"),
    "tiny": Planted("kernel", "why", "operators", "few operators, each long"),
    "python": Planted("host", "why", "thousand loops of Python", "little Python, few operators"),
    "asleep": Planted("host", "why", "ms asleep in the forward pass", "little Python, few operators"),
    "matmuls": Planted("compute", "why", "products per layer, half of them redundant", "half of the products"),
    "weights": Planted("memory_bandwidth", "why", "layers of 4 MiB", "one layer's weights for all"),
    "stream": Planted("memory_bandwidth", "why", "MiB gone through", "as much of a piece in the cache"),
    "small": Planted("memory_capacity", "why", "rows per batch, memory nearly full", "twice the rows", 2.0),
    "lockstep": Planted("communication", "why", "ms of a partner's step", "the partner is not late"),
    "oversized": Planted("copy", "where", "MiB per batch", "batches are on the device"),
}

#: Plants that need a device other than the CPU: listed, not counted.
NEEDS_DEVICE = ("oversized",)

_CASES: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("sleep", "bag", (4, 12, 40)),
    ("sleep", "nano", (5, 15)),
    ("sleep", "conv", (8, 30)),
    ("items", "encoder", (6, 20)),
    ("workers", "bag", (30,)),
    ("tokenize", "encoder", (3000, 10000)),
    ("tokenize", "bag", (200, 500)),
    ("mask", "encoder", (35, 50, 70, 85)),
    ("ignored", "nano", (50, 70, 85)),
    ("vocabulary", "nano", (2000, 8000, 24000)),
    ("vocabulary", "filler", (4000, 16000)),
    ("sdpa", "nano", (256, 512, 1024)),
    ("eager", "nano", (128, 256, 384)),
    ("module", "nano", (256, 512)),
    ("adam", "bag", (3, 6, 12)),
    ("adam", "nano", (3, 8)),
    ("adam", "conv", (4, 12)),
    ("tensors", "bag", (100, 400)),
    ("rnn_layer", "tagger", (16, 48, 128)),
    ("gru_layer", "tagger", (16, 64)),
    ("cells", "tagger", (16, 64)),
    ("checkpoint", "nano", (2, 4)),
    ("checkpoint", "encoder", (3, 4)),
    ("nested", "nano", (2, 4)),
    ("nested", "encoder", (4,)),
    ("decode", "writer", (4, 8, 16)),
    ("tiny", "mixer", (600, 1500, 4000)),
    ("tiny", "bag", (2000, 5000)),
    ("tiny", "conv", (6000,)),
    ("python", "mixer", (120, 300)),
    ("python", "bag", (600,)),
    ("asleep", "mixer", (5, 12, 30)),
    ("asleep", "conv", (60,)),
    ("matmuls", "mixer", (4, 8, 16)),
    ("weights", "deep", (16, 24, 32)),
    ("stream", "mixer", (128, 256)),
    ("small", "bag", (4, 8, 16)),
    ("lockstep", "bag", (30, 50)),
    ("lockstep", "nano", (50, 80)),
    ("oversized", "bag", (64, 256)),
)
_TWO_THREADS: tuple[tuple[str, str, float], ...] = (
    ("sleep", "nano", 12),
    ("tokenize", "encoder", 8000),
    ("mask", "encoder", 70),
    ("ignored", "nano", 80),
    ("vocabulary", "nano", 12000),
    ("sdpa", "nano", 512),
    ("eager", "nano", 256),
    ("adam", "bag", 6),
    ("gru_layer", "tagger", 96),
    ("cells", "tagger", 32),
    ("nested", "nano", 4),
    ("decode", "writer", 16),
    ("tiny", "mixer", 2500),
    ("asleep", "mixer", 20),
    ("python", "mixer", 250),
    ("matmuls", "mixer", 12),
    ("weights", "deep", 24),
    ("lockstep", "bag", 40),
)
_CONTROLS = ("bag", "nano", "encoder", "conv", "mixer", "gated", "filler", "deep")


def every() -> tuple[Case, ...]:
    """Return all cases, controls last."""
    return tuple(_every())


def _every() -> Iterator[Case]:
    for plant, host, strengths in _CASES:
        spec = PLANTS[plant]
        for strength in strengths:
            yield Case(host, plant, spec.cause, spec.axis, strength)
    for plant, host, strength in _TWO_THREADS:
        spec = PLANTS[plant]
        yield Case(host, plant, spec.cause, spec.axis, strength, threads=2)
    for threads in (1, 2):
        for host in _CONTROLS:
            yield Case(host, None, None, None, threads=threads)


def runnable(cases: tuple[Case, ...] | None = None) -> tuple[Case, ...]:
    """Return the cases that run without a device."""
    return tuple(case for case in cases or every() if case.plant not in NEEDS_DEVICE)


def interleave(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Return the cases in an order in which any first part has all causes."""
    by_cause: dict[str, list[Case]] = {}
    for case in cases:
        by_cause.setdefault(case.cause or "control", []).append(case)
    order = []
    while any(by_cause.values()):
        order += [group.pop(0) for group in by_cause.values() if group]
    return tuple(order)
