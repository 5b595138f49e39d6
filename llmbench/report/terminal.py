"""Tables for the terminal, by rich: as wide as it is, and without colour where `NO_COLOR` is set."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from llmbench.report.tables import Table

#: Width where there is no terminal to ask: wide enough that a file or a pipe gets whole rows.
PIPE_WIDTH = 220


def render(tables: Sequence[Table], stream: TextIO | None = None, width: int | None = None) -> None:
    """Print the tables to `stream` (standard output by default), `width` characters wide (the terminal's)."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    stream = stream or sys.stdout
    if width is None:
        width = shutil.get_terminal_size().columns if stream.isatty() else PIPE_WIDTH
    console = Console(file=stream, width=width, highlight=False, soft_wrap=False)
    for table in tables:
        shown, same = _split_constant(table)
        rich_table = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in shown.columns:
            heading = Text(f"{column.name}\n({column.unit})" if column.unit else column.name)
            rich_table.add_column(heading, justify="right" if column.align == "right" else "left", overflow="fold")
        for row in shown.rows:
            values = zip(shown.columns, row, strict=True)
            rich_table.add_row(*(Text(column.text(value)) for column, value in values))
        console.print(rich_table)
        for note in [*same, *table.notes]:
            console.print(Text(note, style="dim"))
        console.print()


def _split_constant(table: Table) -> tuple[Table, list[str]]:
    """Return the table without the text columns that are the same in every row, and a note that says them.

    Only of tables with several rows and many columns: it is what makes the wide ones fit.
    """
    if len(table.rows) < 2 or len(table.columns) < 8:
        return table, []
    constant = [
        i
        for i, column in enumerate(table.columns)
        if column.align == "left" and isinstance(table.rows[0][i], str) and len({row[i] for row in table.rows}) == 1
    ]
    keep = [i for i in range(len(table.columns)) if i not in constant]
    note = ", ".join(f"{table.columns[i].name} {table.rows[0][i]}" for i in constant if table.rows[0][i])
    columns = tuple(table.columns[i] for i in keep)
    rows = tuple(tuple(row[i] for i in keep) for row in table.rows)
    return Table(table.title, columns, rows, table.notes), [f"all: {note}"] if note else []
