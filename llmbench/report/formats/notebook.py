"""Tables and whole reports where notebooks show them: HTML that needs no network, every value escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from llmbench.report.table import Table, table_html

if TYPE_CHECKING:
    from llmbench.report.report import Report


def report_html(report: Report, first: Sequence[str]) -> str:
    """Return the findings in sentences, the tables named in `first`, and the others folded."""
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


def page_html(page: str, height_px: int) -> str:
    """Return a whole HTML page in a frame of its own, whose scripts reach nothing outside of it."""
    return (
        f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts" title="report" '
        f'style="width:100%;height:{height_px}px;border:1px solid rgba(128,128,128,.4)"></iframe>'
    )
