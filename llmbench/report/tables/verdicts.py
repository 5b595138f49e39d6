"""The main result: the cause that bounds each cell, the gain of removing it, and every cause that was tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmbench.analysis import attribution
from llmbench.report.findings import changes
from llmbench.report.table import CELL, Column, Table, cell_values, interval_text, number

if TYPE_CHECKING:
    from llmbench.contract.record import CellSummary

NOTES = (
    "headroom: step time divided by the step time without the cause; measured: with and without it in turns, with a "
    "95 % interval",
    "where: the component; why: the resource. Both describe the same time, so do not multiply their headrooms. "
    f"balanced: no tried cause gives more than {attribution.THRESHOLD:.2f}x with confidence; its headroom is that of "
    "the largest cause tried",
)
CAUSE_NOTES = (
    "tried: removed, and measured in pairs; where measured and predicted agree, the model of the cause is right",
    "bound: a lower limit of the headroom that holds for all causes of a cell and axis together; a cause is material "
    "if its bound is above the threshold",
)


def verdict_table(cells: Sequence[CellSummary]) -> Table:
    """Return the cause that bounds each cell; cells without trials are left out."""
    columns: tuple[Column, ...] = (*CELL, number("step", "ms"), Column("bound by"), Column("class"), Column("where"))
    columns += (Column("why"), number("predicted", "x"), number("measured", "x"), Column("95 % interval"))
    columns += (Column("what to change"),)
    rows = []
    for cell in cells:
        if cell["verdict"] is None:
            continue
        verdict = (cell["step_ms"], cell["verdict"], cell["verdict_class"], cell["verdict_where"], cell["verdict_why"])
        sizes = (cell["headroom_predicted_x"], cell["headroom_measured_x"], interval_text(cell["headroom_ci"]))
        rows.append((*cell_values(cell), *verdict, *sizes, _advice(cell)))
    notes: tuple[str, ...] = NOTES if rows else ()
    errors = attribution.prediction_errors(row for cell in cells for row in cell["bottlenecks"])
    if errors is not None:
        median, worst, count = errors
        notes += (
            f"|predicted / measured - 1|: median {median:.1f} %, 90th percentile {worst:.1f} % of {count} trials",
        )
    return Table("What bounds each cell", columns, tuple(rows), notes)


def _advice(cell: CellSummary) -> str | None:
    """Return the changes that are advised, else the largest cause and why no axis names one."""
    if cell["advice"] is not None:
        return changes(cell)
    largest = [] if cell["leading"] is None else [f"largest: {cell['leading']}"]
    verdicts = {"where": cell["verdict_where"], "why": cell["verdict_why"]}
    undecided = [f"{axis} {verdicts[axis]}, {note}" for axis, note in (cell["verdict_notes"] or {}).items()]
    return "; ".join([*largest, *undecided]) or None


def causes_table(cells: Sequence[CellSummary]) -> Table:
    """Return every cause that was tried, and the gain of removing the two largest of a cell together."""
    columns: tuple[Column, ...] = (*CELL, Column("cause"), Column("axis"), number("predicted", "x"))
    columns += (number("measured", "x"), Column("95 % interval"), number("bound", "x"), number("pairs"))
    rows: list[tuple[object, ...]] = []
    for cell in cells:
        where = cell_values(cell)
        for row in cell["bottlenecks"]:
            if row["measured_x"] is not None:
                sizes = (row["predicted_x"], row["measured_x"], interval_text(row["ci"]), row["low"], row["pairs"])
                rows.append((*where, row["cause"], row["axis"], *sizes))
        for pair in cell["interactions"]:
            both = (pair["product_x"], pair["measured_x"], interval_text(pair["ci"]))
            rows.append((*where, " + ".join(pair["causes"]), "both", *both, None, None))
    note = "both: the two largest causes removed at once; predicted is here the product of their headrooms"
    together = any(cell["interactions"] for cell in cells)
    return Table("Causes tried", columns, tuple(rows), (*CAUSE_NOTES, note) if together else CAUSE_NOTES)


def missing_causes_table(cells: Sequence[CellSummary]) -> Table:
    """Return why causes that may matter were not measured: a row per cause and reason, with the number of cells."""
    predictions: dict[tuple[str, str, str], list[float | None]] = {}
    for cell in cells:
        for row in cell["bottlenecks"]:
            if row["outcome"] in ("unisolated", "out_of_time", "failed"):
                key = (row["cause"], row["outcome"].replace("_", " "), row["reason"] or "")
                predictions.setdefault(key, []).append(row["predicted_x"])
    columns = (number("cells"), Column("cause"), Column("outcome"), number("predicted up to", "x"))
    rows = []
    for (cause, outcome, reason), predicted in sorted(predictions.items()):
        known = [value for value in predicted if value is not None]
        rows.append((len(predicted), cause, outcome, max(known) if known else None, reason))
    return Table("Causes not measured", (*columns, Column("because")), tuple(rows))
