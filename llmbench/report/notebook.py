"""Tables and whole reports where notebooks show them: HTML that needs no network, every value escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from llmbench.report.model import Table

if TYPE_CHECKING:
    from llmbench.report.document import Report

#: Rows that a notebook shows of a table; all of them are in its `frame()`.
SHOWN = 60
_CELL = "padding:2px 8px;border-bottom:1px solid rgba(128,128,128,.3);vertical-align:top"
_NOTE = "margin:2px 0;font-size:.85em;opacity:.75"


def report_html(report: Report, first: Sequence[str]) -> str:
    """Return what bounds each kind of work in sentences, the tables named in `first`, and the others folded."""
    findings = "".join(f"<li>{escape(finding.text)}</li>" for finding in report.findings)
    parts = [f"<ul>{findings}</ul>"] if findings else []
    for table in report.tables:
        shown = table_html(table)
        if table.title not in first:
            shown = f"<details><summary>{escape(table.title)}</summary>{shown}</details>"
        parts.append(shown)
    return f"<div>{''.join(parts)}</div>"


def tables_html(tables: Sequence[Table]) -> str:
    """Return tables one below the other."""
    return f"<div>{''.join(map(table_html, tables))}</div>"


def table_html(table: Table) -> str:
    """Return one table with its title and notes."""
    shown, same = table.without_constants()
    sides = ["right" if column.align == "right" else "left" for column in shown.columns]
    heads = "".join(
        f'<th style="text-align:{side};{_CELL}">{escape(column.heading)}</th>'
        for column, side in zip(shown.columns, sides, strict=True)
    )
    rows = []
    for row in shown.rows[:SHOWN]:
        texts = [column.text(value) for column, value in zip(shown.columns, row, strict=True)]
        fields = (f'<td style="text-align:{s};{_CELL}">{escape(t)}</td>' for t, s in zip(texts, sides, strict=True))
        rows.append(f"<tr>{''.join(fields)}</tr>")
    notes = [*([f"all: {same}"] if same else []), *table.notes]
    if len(table.rows) > SHOWN:
        notes.insert(0, f"{SHOWN} of {len(table.rows)} rows are shown")
    below = "".join(f'<p style="{_NOTE}">{escape(note)}</p>' for note in notes)
    return (
        f'<div style="overflow-x:auto;margin:.8em 0"><b>{escape(table.title)}</b>'
        f'<table style="border-collapse:collapse;margin:4px 0"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{below}</div>"
    )


def page_html(page: str, height_px: int) -> str:
    """Return a whole HTML page in a frame of its own, whose scripts reach nothing outside of it."""
    return (
        f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts" title="report" '
        f'style="width:100%;height:{height_px}px;border:1px solid rgba(128,128,128,.4)"></iframe>'
    )
