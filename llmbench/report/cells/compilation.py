"""What compiling cost a cell, and after how many steps it pays. Pure functions of records and summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.analysis.costs import steps_to_pay_off
from llmbench.analysis.studies.alike import key_of
from llmbench.report.cells.variants import DERIVED

Record = Mapping[str, Any]

FIELDS = ("compilation", "compile_pays_off_steps")
NOT_COMPILED = "the cell is not compiled"


def summarise_compilation(
    good: Sequence[Record], cell: Mapping[str, Any], reasons: dict[str, str], why: str | None
) -> dict[str, Any]:
    """Return `compilation`, what `torch.compile` did (of the first repeat), and `compile`, whether it was asked for."""
    found = next((r["compilation"] for r in good if r.get("compilation")), None)
    if found is None:
        reasons |= dict.fromkeys(FIELDS, (why or "not recorded") if cell.get("compile") else NOT_COMPILED)
    return {"compile": bool(cell.get("compile")), "compilation": found, "compile_pays_off_steps": None}


def with_pay_off(cells: list[dict[str, Any]], fields: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fill in `compile_pays_off_steps` of compiled cells whose twin, alike but not compiled, is among `cells`.

    `fields` are those of each cell (as in `Cell`).
    """
    if not any(cell["compilation"] for cell in cells):
        return cells
    keys = [key_of(own, ("compile", *DERIVED)) for own in fields]  # a parent that is compiled, too, differs as well
    eager = {key: cell for cell, key, own in zip(cells, keys, fields, strict=True) if not own.get("compile")}
    for cell, key in zip(cells, keys, strict=True):
        if cell["compilation"] is None:
            continue
        twin = eager.get(key)
        steps = (twin or {}).get("step_ms"), cell["step_ms"]
        if twin is None or None in steps:
            cell["reasons"]["compile_pays_off_steps"] = "the same cell without compile is not in this run"
            continue
        seconds = [ms / 1e3 for ms in steps if ms is not None]
        cell["compile_pays_off_steps"] = steps_to_pay_off(cell["compilation"].get("compile_s"), *seconds)
        if cell["compile_pays_off_steps"] is None:
            cell["reasons"]["compile_pays_off_steps"] = "never: the compiled step is not faster"
    return cells
