"""Cells as CSV: one row per cell, raw values, empty where a number is not known.

A text that a spreadsheet would compute gets an apostrophe before it, and control characters are spelled out: names and
messages are other people's.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from llmbench.records.read import Run
from llmbench.report.report import Report
from llmbench.report.table import Table, printable
from llmbench.report.tables.overview import flat_table

#: How a formula begins in Excel, LibreOffice and Google Sheets, behind blanks that they skip.
_FORMULA = re.compile(r"[\s\x00]*[=+\-@＝＋－＠]|[\t\r\n]")


def render(table: Table) -> str:
    """Return one table, with a heading line, quoted as RFC 4180 wants it (but `\\n` line ends)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_plain(column.heading) for column in table.columns])
    writer.writerows([_plain(value) for value in row] for row in table.rows)
    return out.getvalue()


def document(runs: Sequence[Run]) -> str:
    """Return the cells of all runs under one heading line."""
    return report_text(Report(runs))


def report_text(report: Report) -> str:
    """Return the cells of all runs under one heading line."""
    return render(flat(report))


def flat(report: Report) -> Table:
    """Return one row per cell of all runs, with every plain field of its summary."""
    tables = [flat_table(run, cells) for run, cells in zip(report.runs, report.summaries, strict=True)]
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    rows = []
    for table in tables:
        for row in table.rows:
            values = dict(zip(table.columns, row, strict=True))
            rows.append(tuple(values.get(column) for column in columns))
    return Table("Cells", tuple(columns), tuple(rows))


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return "" if value is None else value
    return "'" + printable(value) if _FORMULA.match(value) else printable(value)
