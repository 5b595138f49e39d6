"""Tables as Markdown, and the `report.md` of a run directory."""

from __future__ import annotations

from collections.abc import Sequence

from llmbench.report.cells import Run, summarise
from llmbench.report.tables import Table, run_tables


def render(tables: Sequence[Table], level: int = 2) -> str:
    """Return the tables under headings of `level`."""
    return "\n".join(_table(table, level) for table in tables)


def document(runs: Sequence[Run]) -> str:
    """Return the whole report of one or many runs: tables, then the command that measures each cell again."""
    parts = []
    for run in runs:
        parts.append(f"# {_escape(run.name)}\n")
        parts.append(render(run_tables(run)))
        cells = summarise(run.records, run.commands, run.ceilings)
        lines = "\n".join(cell["reproduce"] for cell in cells if cell["reproduce"])
        if lines:
            parts.append(f"## Measure one cell again\n\n```console\n{lines}\n```\n")
    return "\n".join(parts)


def _table(table: Table, level: int) -> str:
    head = _row([column.heading for column in table.columns])
    rule = "|" + "|".join(" ---: " if column.align == "right" else " --- " for column in table.columns) + "|"
    rows = [_row([c.text(v) for c, v in zip(table.columns, row, strict=True)]) for row in table.rows]
    lines = [f"{'#' * level} {_escape(table.title)}", "", head, rule, *rows, ""]
    if table.notes:
        lines += [*(f"- {_escape(note)}" for note in table.notes), ""]
    return "\n".join(lines)


def _row(values: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escape, values)) + " |"


def _escape(text: str) -> str:
    """Return `text` so that Markdown shows it as it is, on one line."""
    text = " ".join(text.split())
    for character in "\\`*_<>|[]":
        text = text.replace(character, "\\" + character)
    return text
