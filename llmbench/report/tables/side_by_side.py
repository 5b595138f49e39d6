"""Cells side by side that differ in one thing only: the precision, the device, or the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

from llmbench import stats
from llmbench.analysis.studies.alike import group
from llmbench.records import attempts
from llmbench.records.read import Run
from llmbench.report.cells.summary import oracle_pct
from llmbench.report.cells.variants import DERIVED
from llmbench.report.table import CELL, Column, Table, interval_text, number

if TYPE_CHECKING:
    from llmbench.contract.record import CellSummary, Record

    Pair = tuple[Run, Sequence[CellSummary]]  # a run and the summaries of its cells
    Axis = Literal["precision", "device", "run"]

#: Axis -> the title of its table.
TITLES = {"precision": "Precisions side by side", "device": "Devices side by side", "run": "Runs side by side"}
#: Axis -> the baseline, if a group has it and no other was asked for.
REFERENCES = {"precision": "fp32", "device": "cpu"}


def precision_table(run: Run, cells: Sequence[CellSummary]) -> Table:
    """Return the cells of a run that differ in nothing but the precision."""
    return build_side_by_side([(run, cells)], "precision")


def device_table(run: Run, cells: Sequence[CellSummary]) -> Table:
    """Return the cells of a run that differ in nothing but the device."""
    return build_side_by_side([(run, cells)], "device")


def build_side_by_side(pairs: Sequence[Pair], axis: Axis, baseline: str | None = None) -> Table:
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
        base = next((one for one in members if one.value == reference), None)
        if base is None and not baseline:
            base = members[0]
        ordered = members if base is None else [base, *(one for one in members if one is not base)]
        for one in ordered:
            own = tuple(one.cell.get(c.name) for c in columns[: len(CELL) - (axis != "run")])
            ratios, quality = _compare(one, base), _compare_quality(one.cell, base and base.cell)
            rows.append((*own, one.value, one.cell["step_ms"], *ratios, *quality))
            ids.append(one.cell["cell_id"])
    notes = (
        f"speed: step time of the baseline divided by this one's (above 1: faster); the baseline is {reference}"
        if reference
        else f"speed: step time of the first {axis} of a group divided by this one's (above 1: faster)",
        "interval: 95 %, of the speed, from the processes of both; memory: peak divided by the baseline's",
    )
    return Table(TITLES[axis], columns, tuple(rows), notes, tuple(ids))


class Member(NamedTuple):
    """A cell of a group: its value on the axis, its records and its summary."""

    value: str
    records: Sequence[Record]
    cell: CellSummary


def _groups(pairs: Sequence[Pair], axis: Axis) -> list[list[Member]]:
    """Return the groups of two cells or more that are alike in all but `axis`, in order of appearance."""
    if axis != "run" and len({cell[axis] for _, cells in pairs for cell in cells}) < 2:
        return []
    members: list[tuple[Member, Mapping[str, object]]] = []
    for run, cells in pairs:
        if len(cells) < 2 and axis != "run":
            continue
        by_cell = attempts.by_cell(run.records)
        one_device = {"device": None} if axis == "run" and len({cell["device"] for cell in cells}) == 1 else {}
        for cell in cells:
            if cell["step_ms"] is not None or cell["quality"] is not None:
                records = by_cell[cell["cell_id"]]
                member = Member(run.name if axis == "run" else str(cell[axis]), records, cell)
                members.append((member, {**records[0]["cell"], **one_device}))
    alike = group(members, itemgetter(1), (axis, *DERIVED)).values()
    groups = [[member for member, _ in same] for same in alike]
    return [same for same in groups if len({member.value for member in same}) > 1]


def _compare(one: Member, base: Member | None) -> tuple[float | None, str | None, float | None]:
    """Return speed and its interval, and memory, as ratios to the baseline's."""
    if base is None or base is one:
        return (None if base is None else 1.0), None, (None if base is None else 1.0)
    before, after = _step_times(base), _step_times(one)
    speed = stats.ratio_interval(before, after) if any(before) and any(after) else None
    peak_mib, base_peak_mib = one.cell["peak_memory_mib"], base.cell["peak_memory_mib"]
    memory = peak_mib / base_peak_mib if peak_mib is not None and base_peak_mib else None
    if speed is None:
        return None, None, memory
    return speed.value, interval_text(speed.ends), memory


def _step_times(member: Member) -> list[list[float]]:
    return attempts.step_times(attempts.good(attempts.latest_attempts(member.records)))


def _compare_quality(
    cell: CellSummary, base: CellSummary | None
) -> tuple[str | None, float | None, float | None, float | None]:
    """Return the primary metric, its value, the value minus the baseline's, and its percent of the oracle's."""
    metric = cell["quality_primary"]
    if metric is None:
        return None, None, None, None
    value = (cell["quality"] or {}).get(metric)
    before = None if base is None else (base["quality"] or {}).get(metric)
    change = None if value is None or before is None else value - before
    oracle, direction = (cell["oracle"] or {}).get(metric), (cell["quality_direction"] or {}).get(metric)
    return metric, value, change, oracle_pct(value, oracle, direction)
