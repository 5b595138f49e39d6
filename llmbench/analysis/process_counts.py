"""How many processes a cell gets, and its interval then: Stein's two-stage rule on recorded runs. Pure functions.

The *first stage* are the repeats that every cell gets. Where the budget allows more (`max_repeats`), their spread alone
decides how many, once: an interval that decides when to stop does not have the coverage that it claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llmbench import stats
from llmbench.records.attempts import by_cell, good, latest_attempts, step_times

if TYPE_CHECKING:
    from llmbench.contract.record import Record


def first_stage(records: Sequence[Record]) -> list[Record]:
    """Return those of a cell's `records` that decided its number of processes; all, where it was given beforehand."""
    if not has_adaptive_count(records):
        return list(records)
    first = max(record.get("repeats") or 0 for record in records)
    return [record for record in records if record["repeat"] < first]


def has_adaptive_count(records: Sequence[Record]) -> bool:
    """Return whether the number of processes of these records of a cell was left to the first ones."""
    return any((record.get("budget") or {}).get("max_repeats") for record in records)


def fit_prior(cells: Iterable[Sequence[Record]]) -> stats.Prior | None:
    """Return the variance between processes, as a prior, from the first stages of all cells (their good records)."""
    several = [first for records in cells if len(first := first_stage(records)) > 1]
    return stats.fit_prior([step_times(records) for records in stats.enough_cells(several)])


def two_stage_interval(records: Sequence[Record], prior: stats.Prior | None) -> stats.TwoStageInterval | None:
    """Return the step time of a cell's good `records` with Stein's interval.

    None where the number of processes was given beforehand, and where the first stage has no spread to plan from.
    """
    if not has_adaptive_count(records):
        return None
    timed = [record for record in records if record["samples"].get("step_s")]
    ci_pct = next(b["ci_pct"] for r in reversed(records) if (b := r.get("budget") or {}).get("max_repeats"))
    try:
        return stats.stein_interval(step_times(timed), len(first_stage(timed)), ci_pct, prior=prior)
    except ValueError:
        return None


def decide(records: Iterable[Record], *, repeats: int, max_repeats: int | None, ci_pct: float) -> dict[str, int]:
    """Return cell id -> its number of processes, decided by the first `repeats` of all cells in `records`.

    Cells that are not ok, and those without a spread to plan from, are left out: they have `repeats`.
    """
    if max_repeats is None or max_repeats <= repeats:
        return {}
    cells = {name: good(latest_attempts(group)) for name, group in by_cell(records).items()}
    first = {name: step_times([r for r in own if r["repeat"] < repeats]) for name, own in cells.items()}
    prior = stats.fit_prior(list(first.values()))
    counts: dict[str, int] = {}
    for name, pilot in first.items():
        try:
            plan = stats.processes_for(pilot, ci_pct, most=max_repeats, prior=prior)
        except ValueError:
            continue
        counts[name] = min(max_repeats, repeats + plan.count - plan.first)
    return counts
