"""The cost of compiling a cell, and the steps after which it pays off. Pure functions of records and summaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmbench.analysis.costs import steps_to_pay_off
from llmbench.analysis.studies.alike import Key, key_of
from llmbench.report.cells.part import Part
from llmbench.report.cells.variants import DERIVED

if TYPE_CHECKING:
    from llmbench.contract.record import CellFields, CellSummary, Record

FIELDS = ("compilation", "compile_pays_off_steps")
NOT_COMPILED = "the cell is not compiled"


def summarise_compilation(good: Sequence[Record], cell: CellFields, why: str | None) -> Part:
    """Return `compile`, whether it was asked for, and `compilation`, the counts of `torch.compile` in the first repeat.

    `compile_pays_off_steps` is still open: `compare_with_eager` fills it in once all cells are summarised.
    """
    counts = next((r["compilation"] for r in good if r.get("compilation")), None)
    fields = {"compile": bool(cell.get("compile")), "compilation": counts, "compile_pays_off_steps": None}
    if counts is not None:
        return Part(fields, {})
    return Part(fields, dict.fromkeys(FIELDS, (why or "not recorded") if cell.get("compile") else NOT_COMPILED))


def compare_with_eager(cells: Sequence[CellSummary], fields: Sequence[CellFields]) -> None:
    """Fill in `compile_pays_off_steps` of compiled cells whose twin is among `cells`: alike, but not compiled.

    `fields` are those of each cell (as in `Cell`).
    """
    if not any(cell["compilation"] for cell in cells):
        return
    eager = {_twin_key(own): cell for cell, own in zip(cells, fields, strict=True) if not own.get("compile")}
    for cell, own in zip(cells, fields, strict=True):
        if cell["compilation"] is not None:
            steps, reason = _pay_off(cell, eager.get(_twin_key(own)))
            cell["compile_pays_off_steps"] = steps
            if reason is not None:
                cell["reasons"] = {**cell["reasons"], "compile_pays_off_steps": reason}


def _pay_off(cell: CellSummary, twin: CellSummary | None) -> tuple[float | None, str | None]:
    """Return the steps after which compiling has paid off, else None and the reason."""
    if twin is None or twin["step_ms"] is None or cell["step_ms"] is None:
        return None, "the same cell without compile is not in this run"
    counts = cell["compilation"] or {}
    steps = steps_to_pay_off(counts.get("compile_s"), twin["step_ms"] / 1e3, cell["step_ms"] / 1e3)
    return steps, "never: the compiled step is not faster" if steps is None else None


def _twin_key(fields: CellFields) -> Key:
    """Return the fields that a compiled cell and its twin share; their parents differ, being compiled or not."""
    return key_of(fields, ("compile", *DERIVED))
