"""Cells as CSV: one row per cell, raw values, empty where a number is not known.

A text that a spreadsheet would compute gets an apostrophe before it, and control characters are spelled out: names and
messages are other people's.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from llmbench.records.read import Run
from llmbench.report.formats.flat import spread_row
from llmbench.report.report import Report
from llmbench.report.table import Column, Table, printable

#: How a formula begins in Excel, LibreOffice and Google Sheets, after blanks that they skip.
_FORMULA = re.compile(r"[\s\x00]*[=+\-@＝＋－＠]|[\t\r\n]")
#: Fields that are lists of rows or of sentences, or that only explain others.
NOT_IN_CSV = frozenset(
    (
        "bottlenecks",
        "interactions",
        "positions",
        "verdict_notes",
        "reasons",
        "training",
        "warnings",
        "error",
        "environment_ids",
        "baselines",
        "quality_direction",
    )
)
#: Fields that have a column for each of their values, and none of their own where they are not known.
SPREAD_IF_KNOWN = ("quality", "oracle", "baseline", "step_ms_ci", "headroom_ci")


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
    return render(cells_table(report))


def cells_table(report: Report) -> Table:
    """Return one row per cell of all runs, with every plain field of its summary; nested ones as `outer.inner`."""
    rows = [spread_row(cell, NOT_IN_CSV) for cell in report.cells]
    rows = [{n: value for n, value in row.items() if not (value is None and n in SPREAD_IF_KNOWN)} for row in rows]
    names = ["run", *dict.fromkeys(name for row in rows for name in row if name != "run")]
    values = tuple(tuple(row.get(name) for name in names) for row in rows)
    return Table("Cells", tuple(map(Column, names)), values)


def _plain(value: object) -> object:
    if not isinstance(value, str):
        return "" if value is None else value
    return "'" + printable(value) if _FORMULA.match(value) else printable(value)
