"""Cells side by side that differ in one thing only: precision, device, or the run they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from llmbench import stats
from llmbench.analysis.studies.alike import group
from llmbench.records import attempts
from llmbench.records.read import Run
from llmbench.report.cells.summary import oracle_pct
from llmbench.report.cells.variants import DERIVED
from llmbench.report.table import CELL, Column, Table, interval_text, number

Cell = Mapping[str, Any]
Pair = tuple[Run, Sequence[Cell]]  # a run and the summaries of its cells

#: axis -> what the table of it is called
TITLES = {"precision": "Precisions side by side", "device": "Devices side by side", "run": "Runs side by side"}
#: The value that others are held against, where it is there and nothing else was asked for.
REFERENCES = {"precision": "fp32", "device": "cpu"}


def precision_table(run: Run, cells: Sequence[Cell]) -> Table:
    """Return the cells of a run that differ in nothing but the precision."""
    return build_side_by_side([(run, cells)], "precision")


def device_table(run: Run, cells: Sequence[Cell]) -> Table:
    """Return the cells of a run that differ in nothing but the device."""
    return build_side_by_side([(run, cells)], "device")


def build_side_by_side(pairs: Sequence[Pair], axis: str, baseline: str | None = None) -> Table:
    """Return cells that differ in `axis` only: speed and memory over the baseline's, quality minus the baseline's.

    The baseline is the value of `axis` that was asked for, else fp32 or the CPU, else the first. Groups without it
    have no ratios. Cells of several runs match where all their fields do but device (if each run has only one).
    """
    columns: tuple[Column, ...] = tuple(c for c in CELL if c.name != axis)
    columns += (Column(axis), number("step", "ms"), number("speed", "x"), Column("95 % interval"))
    columns += (number("memory", "x"), Column("metric"), number("value", digits=4), number("change", digits=4))
    columns += (number("of oracle", "%", 1),)
    reference = baseline or REFERENCES.get(axis)
    rows, ids = [], []
    for members in _groups(pairs, axis):
        values = [value for value, _, _ in members]
        at = values.index(reference) if reference in values else None if baseline else 0
        base = None if at is None else members[at]
        ordered = members if base is None else [base, *(one for one in members if one is not base)]
        for one in ordered:
            value, _, cell = one
            own = tuple(cell.get(c.name) for c in columns[: len(CELL) - (axis != "run")])
            rows.append((*own, value, cell["step_ms"], *_against(one, base), *_quality(cell, base)))
            ids.append(cell["cell_id"])
    notes = (
        f"speed: step time of the baseline over this one's (above 1: faster than it); the baseline is {reference}"
        if reference
        else f"speed: step time of the first {axis} of a group over this one's (above 1: faster than it)",
        "interval: 95 %, of the ratio, from the processes of both; memory: peak over the baseline's",
    )
    return Table(TITLES[axis], columns, tuple(rows), notes, tuple(ids))


Member = tuple[str, Mapping[str, Any], Cell]  # value on the axis, records by cell id, summary


def _groups(pairs: Sequence[Pair], axis: str) -> list[list[Member]]:
    """Return the groups of two cells or more that are alike but for `axis`, in order of appearance."""
    if axis != "run" and len({cell[axis] for _, cells in pairs for cell in cells}) < 2:
        return []
    members: list[tuple[Member, Mapping[str, object]]] = []
    for run, cells in pairs:
        if len(cells) < 2 and axis != "run":
            continue
        records = attempts.by_cell(run.records)
        one_device = {"device": None} if axis == "run" and len({cell["device"] for cell in cells}) == 1 else {}
        for cell in cells:
            if cell["step_ms"] is not None or cell["quality"] is not None:
                own = records[cell["cell_id"]][0]["cell"]
                member = (run.name if axis == "run" else str(cell[axis]), records, cell)
                members.append((member, {**own, **one_device}))
    alike = group(members, itemgetter(1), (axis, *DERIVED)).values()
    groups = [[member for member, _ in same] for same in alike]
    return [same for same in groups if len({value for value, _, _ in same}) > 1]


def _against(one: Member, base: Member | None) -> tuple[float | None, str | None, float | None]:
    """Return speed and its interval, and memory, over the baseline's."""
    if base is None or base is one:
        return (None if base is None else 1.0), None, (None if base is None else 1.0)
    before, after = _step_times(base), _step_times(one)
    speed = stats.ratio_interval(before, after) if any(before) and any(after) else None
    peaks = [member[2]["peak_memory_mib"] for member in (one, base)]
    memory = peaks[0] / peaks[1] if peaks[0] is not None and peaks[1] else None
    if speed is None:
        return None, None, memory
    return speed.value, interval_text(speed.ends), memory


def _step_times(member: Member) -> list[list[float]]:
    _, records, cell = member
    return attempts.step_times(attempts.good(attempts.latest_attempts(records[cell["cell_id"]])))


def _quality(cell: Cell, base: Member | None) -> tuple[Any, ...]:
    metric = cell["quality_primary"]
    value = (cell["quality"] or {}).get(metric)
    before = None if base is None else (base[2]["quality"] or {}).get(metric)
    change = None if value is None or before is None else value - before
    reached = oracle_pct(value, (cell["oracle"] or {}).get(metric), (cell["quality_direction"] or {}).get(metric))
    return metric, value, change, reached
