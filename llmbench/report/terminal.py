"""Tables for the terminal, by rich: as wide as it is, and without colour where `NO_COLOR` is set."""

from __future__ import annotations

import dataclasses
import io
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from llmbench.report.model import Table, printable

if TYPE_CHECKING:
    from llmbench.report.document import Report

#: Width where there is no terminal to ask: wide enough that a file or a pipe gets whole rows.
PIPE_WIDTH = 220


def text(tables: Sequence[Table]) -> str:
    """Return what `render` would print to standard output, colours included where it is a terminal."""
    out = io.StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    render(tables, out, width, colour=sys.stdout.isatty())
    return out.getvalue()


def render(
    tables: Sequence[Table], stream: TextIO | None = None, width: int | None = None, colour: bool | None = None
) -> None:
    """Print the tables to `stream` (standard output by default), `width` characters wide (the terminal's)."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    stream = stream or sys.stdout
    if width is None:
        width = shutil.get_terminal_size().columns if stream.isatty() else PIPE_WIDTH
    console = Console(file=stream, width=width, highlight=False, soft_wrap=False, force_terminal=colour)
    for table in tables:
        shown, same = table.without_constants()
        rich_table = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in shown.columns:
            heading = Text(f"{column.name}\n({column.unit})" if column.unit else column.name)
            rich_table.add_column(heading, justify="right" if column.align == "right" else "left", overflow="fold")
        for row in shown.rows:
            values = zip(shown.columns, row, strict=True)
            rich_table.add_row(*(Text(column.text(value)) for column, value in values))
        console.print(rich_table)
        for note in [*([f"all: {same}"] if same else []), *table.notes]:
            console.print(Text(printable(note), style="dim"))
        console.print()


def report_text(report: Report) -> str:
    """Return what bounds each kind of work in sentences, and the tables."""
    lines = "\n".join(f"- {printable(finding.text)}" for finding in report.findings)
    return (f"{lines}\n\n" if lines else "") + text([table.with_ids() for table in report.tables])


#: What a run ends with: the tables that somebody acts on. `report` prints all of them.
BRIEF = (
    *(
        "What bounds each cell",
        "Runs side by side",
        "What limits learning",
        "Time to a target quality",
        "How cost grows",
    ),
    *("Recommended", "Remedies", "Quality", "Not measured", "Warnings"),
)
#: What brief tables leave out: it follows from the rest, or is for those who ask further.
DETAIL = ("class", "where", "why")


def brief_text(report: Report) -> str:
    """Return the tables that matter first, and under them, where a terminal stops, what bounds each kind of work."""
    titles = {table.title for table in report.tables}
    wanted = BRIEF if BRIEF[0] in titles else ("Where the time goes", *BRIEF)
    tables = [_without(table, DETAIL).with_ids() for table in report.tables if table.title in wanted]
    lines = "\n".join(f"- {printable(finding.text)}" for finding in report.findings)
    return (text(tables) + (f"{lines}\n" if lines else "")) or "No cell was measured.\n"


def _without(table: Table, names: Sequence[str]) -> Table:
    keep = [i for i, column in enumerate(table.columns) if column.name not in names]
    rows = tuple(tuple(row[i] for i in keep) for row in table.rows)
    return dataclasses.replace(table, columns=tuple(table.columns[i] for i in keep), rows=rows)
