"""Phases and operator classes compared with the measured roofline: one compact row per cell. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmbench.analysis.roofline import ALL
from llmbench.report.table import CELL, Column, Table, cell_values, number

if TYPE_CHECKING:
    from llmbench.contract.record import CellSummary, PositionRow

#: Phases with a column of their own; those of a generation stand in for `forward`.
PHASES = ("forward", "prefill", "decode", "backward", "optimizer")


def roofline_table(cells: Sequence[CellSummary]) -> Table:
    """Return, for each cell, how close each phase is to its roofline, and the operators farthest from theirs."""
    placed = [(cell, cell["positions"] or []) for cell in cells]
    by_phase = [(cell, every, {p["phase"]: p for p in every if p["operator_class"] == ALL}) for cell, every in placed]
    by_phase = [(cell, every, phases) for cell, every, phases in by_phase if phases]
    shown = [phase for phase in PHASES if any(phase in phases for _, _, phases in by_phase)]
    columns: tuple[Column, ...] = (*CELL, *(Column(phase) for phase in shown))
    columns += (Column("farthest from its roofline"), number("of the step", "%", 0))
    rows = [
        (*cell_values(cell), *(_nearness(phases.get(phase)) for phase in shown), *_farthest(every))
        for cell, every, phases in by_phase
    ]
    notes = (
        "per phase: the resource that sets most of its roofline, and the least time that the roofline allows in % of "
        "the measured time",
        "farthest: the operator class, with its phase, that loses most time to its roofline; the loss in % of the step",
    )
    return Table("How near it comes to the roofline", columns, tuple(rows), notes)


def _nearness(position: PositionRow | None) -> str | None:
    """Return a phase as `compute 45 %`; nothing where the cell has no such phase, None where it is not known."""
    if position is None:
        return ""
    if position["roofline_s"] is None or not position["seconds"] or position["bound"] is None:
        return None
    return f"{position['bound']} {100 * position['roofline_s'] / position['seconds']:.0f} %"


def _farthest(positions: Sequence[PositionRow]) -> tuple[str | None, float | None]:
    """Return the class and phase that loses most seconds to its roofline, and these in percent of all phases."""
    whole_s = sum(p["seconds"] or 0.0 for p in positions if p["operator_class"] == ALL)
    lost = [
        (p["seconds"] - p["roofline_s"], f"{p['operator_class']} ({p['phase']})")
        for p in positions
        if p["operator_class"] != ALL and p["seconds"] and p["roofline_s"] is not None
    ]
    if not lost or not whole_s:
        return None, None
    most_s, name = max(lost)
    return name, 100 * most_s / whole_s
