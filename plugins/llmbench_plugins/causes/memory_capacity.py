"""`memory_capacity`: a batch that cannot grow because memory is full. Removed by memory for a batch twice as large.

Memory is freed in both arms (the optimizer keeps no state), and the batch is doubled in one: time per example of
the batch that fits over that of the batch that would. It applies only where memory is nearly full.
Shapes: `B` rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._full_memory import TIMES, check_full, headroom_x, time_doubling, without_optimizer_state


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return how full memory is, and the times of one batch and of two as one, without the optimizer."""
    doubling = time_doubling(trial)
    return {"memory_used": doubling.in_use, "once_s": doubling.once_s, "twice_s": doubling.twice_s}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """2 t(B) / t(2B): time per example of a batch over that of one twice as large."""
    return headroom_x(facts["once_s"], facts["twice_s"])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Take two batches as one."""
    check_full(trial)
    merged = {
        id(batch): trial.merged([batch, trial.pool[(i + 1) % len(trial.pool)]]) for i, batch in enumerate(trial.pool)
    }

    def one_by_one(batches: Sequence[Any]) -> None:
        with without_optimizer_state(trial):
            for batch in batches:
                trial.step(batch)

    def together(batches: Sequence[Any]) -> None:
        with without_optimizer_state(trial):
            trial.step(merged[id(batches[0])])

    return llmbench.Intervention(steps=TIMES, treated=together, clean=one_by_one, burn=TIMES)


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="memory_capacity",
            axis="why",
            cause_class="hardware",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="a batch that cannot grow because memory is full",
            advice="activation checkpointing, lower precision, an optimizer with less state, gradient accumulation",
        )
    ]
