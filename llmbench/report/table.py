"""The table model that every renderer reads. Values stay raw until they are rendered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from llmbench.contract.record import Row

UNKNOWN = "n/a"


@dataclass(frozen=True)
class Column:
    """One column: its heading, its unit, how it is aligned and to how many digits a float is shown."""

    name: str
    unit: str = ""
    align: str = "left"
    digits: int = 2

    @property
    def heading(self) -> str:
        """Name and unit, as a heading."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def text(self, value: Any) -> str:
        """Return a value as people read it; None is `n/a`, and very large or small floats are in powers of ten."""
        if value is None:
            return UNKNOWN
        if isinstance(value, float):
            odd = value != 0 and not 10**-self.digits / 2 <= abs(value) < 1e9
            return f"{value:.3g}" if odd else f"{value + 0.0:,.{self.digits}f}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(str(value))


#: Control characters of C0 and C1: in a terminal they move, colour and delete; names and messages may hold any.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Return `text` with its control characters spelled out, such as `\\x1b`; line ends and tabs stay."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def interval_text(ends: Sequence[float] | None) -> str | None:
    """Return the two ends of an interval as text, such as `1.05 - 1.20`."""
    return None if ends is None else f"{ends[0]:.2f} - {ends[1]:.2f}"


@dataclass(frozen=True)
class Table:
    """A titled table. Each row holds one raw value (str, int, float or None) per column.

    `cells` holds the id of each row's cell, in tables whose rows are of cells: the id measures a row again.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()
    cells: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        if self.cells and len(self.cells) != len(self.rows):
            raise ValueError(f"{self.title}: {len(self.cells)} cells for {len(self.rows)} rows")
        for length in set(map(len, self.rows)) - {len(self.columns)}:
            raise ValueError(f"{self.title}: a row of {length} values for {len(self.columns)} columns")

    def with_ids(self) -> Table:
        """Return the table with the ids of its cells as the last column, if it has any and does not show them yet."""
        if not self.cells or any(column == ID for column in self.columns):
            return self
        rows = tuple((*row, cell) for row, cell in zip(self.rows, self.cells, strict=True))
        return dataclasses.replace(self, columns=(*self.columns, ID), rows=rows)

    def frame(self) -> DataFrame:
        """Return the raw values as a pandas DataFrame whose columns are named by heading, unit included."""
        import pandas as pd

        headings = pd.Index([column.heading for column in self.columns])
        return pd.DataFrame([list(row) for row in self.rows], columns=headings)

    def _repr_html_(self) -> str:
        return table_html(self)

    def without_constants(self) -> tuple[Table, str]:
        """Return the table without the text columns that are the same in every row, and those columns in words.

        Tables with one row or few columns stay as they are: only wide ones have to become narrower.
        """
        if len(self.rows) < 2 or len(self.columns) < 8:
            return self, ""
        count = len(self.rows)
        columns: list[Column] = []
        remaining: list[tuple[Any, ...]] = []
        constants: list[str] = []
        for column, values in zip(self.columns, zip(*self.rows, strict=True), strict=True):
            if column.align == "left" and isinstance(values[0], str) and values.count(values[0]) == count:
                constants += [f"{column.name} {values[0]}"] if values[0] else []
            else:
                columns.append(column)
                remaining.append(values)
        rows = tuple(zip(*remaining, strict=True)) if remaining else ((),) * count
        return dataclasses.replace(self, columns=tuple(columns), rows=rows), ", ".join(constants)


def number(name: str, unit: str = "", digits: int = 2) -> Column:
    """Return a column of numbers."""
    return Column(name, unit, "right", digits)


CELL = (
    *(Column("stage"), Column("model"), Column("size"), Column("task")),
    *(Column("device"), Column("precision"), Column("variant")),
)


_NAMES = tuple(column.name for column in CELL)
ID = Column("cell")


def with_cells(tables: Iterable[Table], cells: Sequence[Row]) -> list[Table]:
    """Return the tables with the id of each row's cell, where columns name a cell and only one has that name."""
    by_names: dict[tuple[str, ...], dict[tuple[object, ...], str | None]] = {}

    def with_ids(table: Table) -> Table:
        places = [i for i, column in enumerate(table.columns) if column in CELL]
        if table.cells or len(places) < len(CELL) - 1:
            return table
        names = tuple(table.columns[i].name for i in places)
        if names not in by_names:
            by_names[names] = _ids(names, cells)
        ids = tuple(map(by_names[names].get, map(itemgetter(*places), table.rows)))
        return dataclasses.replace(table, cells=ids) if any(ids) else table

    return [with_ids(table) for table in tables]


def _ids(names: Sequence[str], cells: Sequence[Row]) -> dict[tuple[object, ...], str | None]:
    """Return the values of `names` -> the id of the cell that has them; None where several cells have them."""
    ids: dict[tuple[object, ...], str | None] = {}
    for cell in cells:
        key = tuple(map(cell.get, names))
        ids[key] = None if key in ids else str(cell["cell_id"])
    return ids


def cell_values(cell: Row) -> tuple[object, ...]:
    """Return the values of the columns that name a cell."""
    return tuple(map(cell.get, _NAMES))


#: Rows that a notebook shows of a table; all of them are in its `frame()`.
SHOWN = 60

_CELL = "padding:2px 8px;border-bottom:1px solid rgba(128,128,128,.3);vertical-align:top"

_NOTE = "margin:2px 0;font-size:.85em;opacity:.75"


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
