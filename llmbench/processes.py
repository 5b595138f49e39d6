"""Which processes of a cell count, and how many it gets: Stein's two-stage rule on recorded runs. Pure functions.

The *first stage* are the repeats that every cell gets. Where the budget allows more (`max_repeats`), their spread alone
decides how many, once: an interval that is used for stopping has not the coverage that it claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmbench import stats

Record = Mapping[str, Any]

OTHERS = 0.15  # of a process's time, lost to other processes or to the host: it does not count where others can be had


def by_cell(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return cell id -> its records, in the order of first appearance; trials of remedies are no cells of their own.

    Records that know their `groups` are not grouped again.
    """
    known: dict[str, list[Record]] | None = getattr(records, "groups", None)
    if known is not None:
        return known
    groups: dict[str, list[Record]] = {}
    for record in records:
        if (record.get("cell") or {}).get("remedy_of") is None:
            groups.setdefault(record["cell_id"], []).append(record)
    return groups


def counted(records: Sequence[Record]) -> dict[int, Record]:
    """Return repeat -> the record that counts, of one cell: the latest ok attempt, else the latest."""
    best: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: (r["repeat"], r["status"] == "ok", r["attempt"])):
        best[record["repeat"]] = record
    return best


def good(by_repeat: Mapping[int, Record]) -> list[Record]:
    """Return the records that are ok, in the order of repeats."""
    return [record for record in by_repeat.values() if record["status"] == "ok"]


def disturbed(record: Record) -> bool:
    """Return whether others kept a process from its cores while it was timed: by what the kernel says, not by speed.

    That is time that the hypervisor gave to others, and time in which others ran while a thread of the process waited
    for a core. Where it is not known how long threads waited, whatever others ran counts.
    """
    health = record.get("health") or {}
    wall_s, cores = health.get("wall_s") or 0.0, health.get("cores") or 1
    others_s, stolen_s = health.get("other_cpu_s") or 0.0, (health.get("steal_s") or 0.0) / cores
    waited_s = health.get("run_wait_longest_s")
    lost_s = others_s / cores if waited_s is None else min(others_s, waited_s)
    return lost_s + stolen_s > OTHERS * wall_s


def step_times(records: Sequence[Record]) -> list[list[float]]:
    """Return the clean step times (s) of each record, in their order."""
    return [record["samples"].get("step_s") or [] for record in records]


def first_stage(records: Sequence[Record]) -> list[Record]:
    """Return those of a cell's `records` that its number of processes was decided from.

    That is all of them where the number was given beforehand.
    """
    if not planned(records):
        return list(records)
    first = max(record.get("repeats") or 0 for record in records)
    return [record for record in records if record["repeat"] < first]


def planned(records: Sequence[Record]) -> bool:
    """Return whether the number of processes of these records of a cell was left to the first ones."""
    return any((record.get("budget") or {}).get("max_repeats") for record in records)


def fit_prior(cells: Iterable[Sequence[Record]]) -> stats.Prior | None:
    """Return what the first stages of all cells (their good records) say about processes."""
    several = [first for records in cells if len(first := first_stage(records)) > 1]
    return stats.fit_prior([step_times(records) for records in stats.enough_cells(several)])


def reached(records: Sequence[Record], prior: stats.Prior | None) -> stats.Reached | None:
    """Return the step time of a cell's good `records` with Stein's interval.

    None where the number of processes was given beforehand, and where the first stage has no spread to plan from.
    """
    if not planned(records):
        return None
    timed = [record for record in records if record["samples"].get("step_s")]
    ci_pct = next(b["ci_pct"] for r in reversed(records) if (b := r.get("budget") or {}).get("max_repeats"))
    try:
        return stats.stein_interval(step_times(timed), len(first_stage(timed)), ci_pct, prior=prior)
    except ValueError:
        return None


def decide(records: Iterable[Record], *, repeats: int, max_repeats: int | None, ci_pct: float) -> dict[str, int]:
    """Return cell id -> how many processes it is to have, from the first `repeats` of all cells in `records`.

    Cells that are not ok, and those without a spread to plan from, are left out: they have `repeats`.
    """
    if max_repeats is None or max_repeats <= repeats:
        return {}
    cells = {name: good(counted(group)) for name, group in by_cell(records).items()}
    first = {name: step_times([r for r in found if r["repeat"] < repeats]) for name, found in cells.items()}
    prior = stats.fit_prior(list(first.values()))
    counts: dict[str, int] = {}
    for name, pilot in first.items():
        try:
            plan = stats.processes_for(pilot, ci_pct, most=max_repeats, prior=prior)
        except ValueError:
            continue
        counts[name] = min(max_repeats, repeats + plan.count - plan.first)
    return counts
