"""`padding`: work on tokens that are no text. Removed by the same examples in batches of equal lengths.

The examples of the pool are sorted by length, put into batches of the same number of rows and cut to the longest.
What is left of padding is what lengths within a batch still differ. Rows, calls and real tokens stay as they were.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import llmbench

LEAST_SHARE = 0.02  # of the tokens: less padding cannot be material
FIT_BATCHES = 4
ROUNDS = 3  # in which each of a few batches is timed


def _size(trial: llmbench.Trial, batch: Any) -> tuple[float, float]:
    """Return the tokens of a batch, padding included, and the sum of their squares per row."""
    shapes = [t.shape for t in trial.tensors(batch).values() if len(t.shape) == 2 and "float" not in str(t.dtype)]
    return float(sum(b * n for b, n in shapes)), float(sum(b * n * n for b, n in shapes))


def _step_at_pace(trial: llmbench.Trial, batch: Any) -> float:
    return trial.paced(lambda: trial.once(lambda: trial.step(batch)), trial.pool[0])


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the share of padding, the sizes of batches with and without it, and the times of a few of them."""
    if trial.generates:
        raise llmbench.DoesNotApply("prompts of a generation are take_padded at most once")
    regrouped = trial.regrouped()
    before, after = ([_size(trial, batch) for batch in some] for some in (trial.pool, regrouped))
    whole = sum(size for size, _ in before)
    share = 1 - sum(size for size, _ in after) / whole if whole else 0.0
    if share < LEAST_SHARE:
        raise llmbench.DoesNotApply(f"{100 * max(0.0, share):.1f} % of the tokens are padding that can be avoided")
    steps = max(1, len(regrouped) // FIT_BATCHES)
    some = [*regrouped[::steps], *trial.pool[:2]]
    for batch in some:  # warm up
        trial.step(batch)
    rounds = [[_step_at_pace(trial, batch) for batch in some] for _ in range(ROUNDS)]
    times = [statistics.median(of_batch) for of_batch in zip(*rounds, strict=True)]
    return {
        "padding_share": share,
        "sizes": before,
        "sizes_without": after,
        "timed_sizes": [_size(trial, batch) for batch in some],
        "timed_s": times,
    }


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """Mean of t = a + b BL + c BL^2, fitted to a few batches, over the sizes with padding and over those without."""
    import numpy as np

    def columns(sizes: Sequence[Sequence[float]]) -> Any:
        table = np.array(sizes)
        return np.column_stack([np.ones(len(table)), table[:, 0] * 1e-3, table[:, 1] * 1e-5])

    x, y = columns(facts["timed_sizes"]), np.array(facts["timed_s"])
    best: tuple[float, Any] = (float("inf"), None)
    for kept in ((0, 1, 2), (0, 1), (0, 2), (1,)):  # no coefficient of a time is negative
        found, *_ = np.linalg.lstsq(x[:, kept], y, rcond=None)
        error = float(((x[:, kept] @ found - y) ** 2).sum())
        if (found >= 0).all() and error < best[0]:
            best = error, (list(kept), found)
    if best[1] is None:
        return None
    kept, found = best[1]
    with_, without = (float((columns(facts[k])[:, kept] @ found).mean()) for k in ("sizes", "sizes_without"))
    return with_ / without if without > 0 else None


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Take the pool as it is, and its examples regrouped."""
    regrouped = trial.regrouped()

    def take_padded(_: Sequence[Any]) -> None:
        for batch in trial.pool:
            trial.step(batch)

    def take_regrouped(_: Sequence[Any]) -> None:
        for batch in regrouped:
            trial.step(batch)

    return llmbench.Intervention(
        steps=len(trial.pool),
        treated=take_regrouped,
        clean=take_padded,
        burn=0,
        check={"batches": [len(trial.pool), len(regrouped)]},
    )


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="padding",
            axis="where",
            cause_class="data",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="computing on padding",
            advice="batches of similar lengths (bucketing), packing, padding to the longest row and not to a maximum",
            engines=None,
        )
    ]
