"""Tables as Markdown, and the `report.md` of a run directory."""

from __future__ import annotations

from collections.abc import Sequence

from llmbench.records.read import Run
from llmbench.report.report import Report
from llmbench.report.table import Table, printable


def render(tables: Sequence[Table], level: int = 2) -> str:
    """Return the tables under headings of `level`."""
    return "\n".join(_table(table, level) for table in tables)


def document(runs: Sequence[Run]) -> str:
    """Return the whole report of one or many runs."""
    return report_text(Report(runs))


def report_text(report: Report) -> str:
    """Return the findings, the tables, and the command that measures each cell again."""
    parts = [f"# {_escape(report.title)}\n"]
    if report.findings:
        parts.append("\n".join(f"- {_escape(finding.text)}" for finding in report.findings) + "\n")
    parts.append(render([table.with_ids() for table in report.tables]))
    if report.commands:
        lines = printable("\n".join(report.commands.values()))
        parts.append(f"## Measure one cell again\n\n```console\n{lines}\n```\n")
    return "\n".join(parts)


#: Titles of the tables that runs and machines are compared by.
SUMMARY = (
    *("Run", "Runs side by side", "What bounds each cell", "Recommended", "What limits learning"),
    *("Time to a target quality", "How cost grows", "What the hardware allows"),
)


def summary_text(report: Report) -> str:
    """Return the findings, the tables that runs are compared by, and one command that measures any cell again."""
    parts = [f"# {_escape(report.title)}\n"]
    tried = [finding for finding in report.findings if finding.workloads]
    lines = [f"- {_escape(finding.text)}" for finding in tried]
    if len(tried) < len(report.findings):
        lines.append(
            f"- {len(report.findings) - len(tried)} other kinds of work (a model's training or inference in a run)"
            " were timed only: no cause was tried."
        )
    parts.append("\n".join(lines) + "\n")
    parts.append(render([table.with_ids() for table in report.tables if table.title in SUMMARY]))
    if report.command_patterns:
        commands = printable("\n".join(report.command_patterns))
        head = "## Measure one cell again\n\nWith the last column of its row for `CELL`:\n\n"
        parts.append(f"{head}```console\n{commands}\n```\n")
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
    text = " ".join(printable(text).split())
    for character in "\\`*_<>|[]":
        text = text.replace(character, "\\" + character)
    return text
