"""What compiling cost a cell, and after how many steps it pays. Pure functions of records and summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.costs import steps_to_pay_off

Record = Mapping[str, Any]

FIELDS = ("compilation", "compile_pays_off_steps")
NOT_COMPILED = "the cell is not compiled"
#: What two cells must share so that one is the other, not compiled.
_SAME = ("model", "size", "task", "dataset", "stage", "device", "precision", "batch_size", "seq_len", "seed")


def compilation(
    good: Sequence[Record], cell: Mapping[str, Any], reasons: dict[str, str], why: str | None
) -> dict[str, Any]:
    """Return `compilation`, what `torch.compile` did (of the first repeat), and `compile`, whether it was asked for."""
    found = next((r["compilation"] for r in good if r.get("compilation")), None)
    if found is None:
        reasons |= dict.fromkeys(FIELDS, (why or "not recorded") if cell.get("compile") else NOT_COMPILED)
    return {"compile": bool(cell.get("compile")), "compilation": found, "compile_pays_off_steps": None}


def with_pay_off(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fill in `compile_pays_off_steps` of compiled cells whose twin, not compiled, is among `cells`."""
    eager = {tuple(c[name] for name in _SAME): c for c in cells if not c["compile"]}
    for cell in cells:
        if cell["compilation"] is None:
            continue
        twin = eager.get(tuple(cell[name] for name in _SAME))
        steps = (twin or {}).get("step_ms"), cell["step_ms"]
        if twin is None or None in steps:
            cell["reasons"]["compile_pays_off_steps"] = "the same cell without compile is not in this run"
            continue
        seconds = [ms / 1e3 for ms in steps if ms is not None]
        cell["compile_pays_off_steps"] = steps_to_pay_off(cell["compilation"].get("compile_s"), *seconds)
        if cell["compile_pays_off_steps"] is None:
            cell["reasons"]["compile_pays_off_steps"] = "never: the compiled step is not faster"
    return cells
