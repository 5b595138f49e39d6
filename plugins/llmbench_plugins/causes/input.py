"""`input`: the step waits for the next batch. Removed by the same batches, already collated, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import llmbench

AHEAD = 2  # batches that each loader process prepares ahead (torch's default prefetch factor)


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return how batches are load; the wait itself is in the record."""
    return {"workers": trial.workers}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - exposed wait): the wait where the iterator is advanced, from the phase pass."""
    return llmbench.without(record, record["phases"].get("input_s", ()))


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Take the batches that the unchanged arm has just load once more, from memory.

    With loader processes a block begins with as many untimed steps as they may have batches ready: those that they
    prepared while the other arm ran would hide the wait.
    """
    loader = trial.fresh()
    held: list[Any] = list(trial.pool)

    def load(batches: Sequence[Any]) -> None:
        taken = []
        for _ in batches:
            taken.append(next(loader))
            trial.step(taken[-1])
        held[:] = taken or held

    def in_memory(batches: Sequence[Any]) -> None:
        for i in range(len(batches)):
            trial.step(held[i % len(held)])

    ahead = AHEAD * trial.workers
    steps = max(8, 2 * ahead) if ahead else None
    return llmbench.Intervention(steps=steps, treated=in_memory, clean=load, burn=ahead + 1)


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="input",
            axis="where",
            cause_class="data",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="waiting for the next batch: reading, tokenizing, collating",
            advice="prepare batches ahead: more loader workers, tokenize once and cache, cheaper collation",
            engines=None,
        )
    ]
