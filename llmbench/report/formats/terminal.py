"""Tables for the terminal, by rich: as wide as it is, and without colour where `NO_COLOR` is set.

Where rich is not installed, the same tables are plain text.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from llmbench.report.table import UNKNOWN, Table, printable

if TYPE_CHECKING:
    from rich.console import Console

    from llmbench.report.report import Report

#: Width where there is no terminal to ask: wide enough that a file or a pipe gets whole rows.
PIPE_WIDTH = 220
#: Characters between columns.
GAP = 3
#: The texts before the first number name a row, if they are fewer than so many.
MOST_NAMES = 9


def text(tables: Sequence[Table]) -> str:
    """Return the tables as `render` prints them to standard output, with colours if that is a terminal."""
    out = io.StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    render(tables, out, width, colour=sys.stdout.isatty())
    return out.getvalue()


def render(
    tables: Sequence[Table], stream: TextIO | None = None, width: int | None = None, colour: bool | None = None
) -> None:
    """Print the tables to `stream` (standard output by default), `width` characters wide (the terminal's)."""
    stream = stream or sys.stdout
    if width is None:
        width = shutil.get_terminal_size().columns if stream.isatty() else PIPE_WIDTH
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text
    except ModuleNotFoundError:
        for table in tables:
            stream.write(f"{plain_text(table, width)}\n\n")
        return
    console = Console(file=stream, width=width, highlight=False, soft_wrap=False, force_terminal=colour)
    for table in tables:
        shown, same = table.without_constants()
        if least_width(shown) > width:
            console.print(Text(stack(shown, width)))
            _print_notes(console, table, same)
            continue
        rich_table = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in shown.columns:
            heading = Text(f"{column.name}\n({column.unit})" if column.unit else column.name)
            rich_table.add_column(heading, justify="right" if column.align == "right" else "left", overflow="fold")
        for row in shown.rows:
            values = zip(shown.columns, row, strict=True)
            rich_table.add_row(*(Text(column.text(value)) for column, value in values))
        console.print(rich_table)
        _print_notes(console, table, same)


def _print_notes(console: Console, table: Table, same: str) -> None:
    from rich.text import Text

    for note in [*([f"all: {same}"] if same else []), *table.notes]:
        console.print(Text(printable(note), style="dim"))
    console.print()


def plain_text(table: Table, width: int) -> str:
    """Return a table and its notes as plain text, `width` characters wide: columns, or a block of lines per row."""
    shown, same = table.without_constants()
    notes = [printable(note) for note in [*([f"all: {same}"] if same else []), *table.notes]]
    if least_width(shown) > width:
        return "\n".join([stack(shown, width), *notes])
    heads = [f"{column.name} ({column.unit})" if column.unit else column.name for column in shown.columns]
    rows = [[c.text(value) for c, value in zip(shown.columns, row, strict=True)] for row in shown.rows]
    sizes = [max(map(len, texts)) for texts in zip(heads, *rows, strict=True)]
    if sum(sizes) + GAP * len(sizes) > width:
        return "\n".join([stack(shown, width), *notes])
    right = [column.align == "right" for column in shown.columns]
    lines = [
        (" " * GAP).join(t.rjust(n) if r else t.ljust(n) for t, n, r in zip(texts, sizes, right, strict=True)).rstrip()
        for texts in [heads, ["-" * n for n in sizes], *rows]
    ]
    return "\n".join([table.title, "", *lines, *notes])


def least_width(table: Table) -> int:
    """Return the width in characters that a table needs so that no number and no word is broken."""
    needed = 0
    for i, column in enumerate(table.columns):
        texts = [column.text(row[i]) for row in table.rows]
        parts = texts if column.align == "right" else [word for text in texts for word in text.split()]
        needed += max(map(len, [*parts, *column.name.split(), f"({column.unit})" if column.unit else ""]))
    return needed + GAP * len(table.columns)


def stack(table: Table, width: int) -> str:
    """Return a table as a block of lines per row, for a terminal that has no room for its columns.

    The texts up to the first number name the row and stand first. Numbers have their column's name and unit.
    """
    numbers = [i for i, column in enumerate(table.columns) if column.align == "right"]
    first = numbers[0] if numbers and 0 < numbers[0] < MOST_NAMES else 1
    lines = [table.title, ""]
    for row in table.rows:
        texts = [column.text(value) for column, value in zip(table.columns, row, strict=True)]
        lines += textwrap.wrap(" ".join(filter(None, texts[:first])), width) or [""]
        rest = zip(table.columns[first:], texts[first:], strict=True)
        parts = [f"{c.name}: {text}{' ' + c.unit if c.unit and text != UNKNOWN else ''}" for c, text in rest if text]
        indent = " " * 4
        lines += textwrap.wrap("; ".join(parts), width, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def _findings_text(report: Report) -> str:
    """Return the findings, a line each; in a terminal, broken between words."""
    lines = [f"- {printable(finding.text)}" for finding in report.findings]
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = [textwrap.fill(line, max(width, 20), subsequent_indent="  ") for line in lines]
    return "\n".join(lines)


def report_text(report: Report) -> str:
    """Return the findings in sentences, and the tables."""
    lines = _findings_text(report)
    return (
        (f"{lines}\n\n" if lines else "") + text([table.with_ids() for table in report.tables]) + _commands_text(report)
    )


#: Titles of the tables that a run prints at its end: those that people act on. `report` prints all tables.
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
#: Columns that brief tables leave out: they follow from the others, or explain them.
DETAIL = ("class", "where", "why")


def brief_text(report: Report) -> str:
    """Return the tables that people act on, and then the findings: a terminal shows the end."""
    titles = {table.title for table in report.tables}
    wanted = BRIEF if BRIEF[0] in titles else ("Where the time goes", *BRIEF)
    tables = [_without(table, DETAIL).with_ids() for table in report.tables if table.title in wanted]
    lines = _findings_text(report)
    body = text(tables) + (_commands_text(report) + "\n" if tables and report.commands else "")
    return body + (f"{lines}\n" if lines else "") or "No cell was measured.\n"


def _commands_text(report: Report) -> str:
    """Return the commands that measure a cell again, of the runs that say how they were planned."""
    commands = "".join(f"  {printable(pattern)}\n" for pattern in report.command_patterns)
    return f"Measure one cell again, with the last column of its row for CELL:\n{commands}" if commands else ""


def _without(table: Table, names: Sequence[str]) -> Table:
    keep = [i for i, column in enumerate(table.columns) if column.name not in names]
    rows = tuple(tuple(row[i] for i in keep) for row in table.rows)
    return dataclasses.replace(table, columns=tuple(table.columns[i] for i in keep), rows=rows)
