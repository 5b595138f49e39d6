"""The lists of a report as pandas DataFrames: one row per cell, cause, remedy or step, flat columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from llmbench.report.formats.flat import flat_row
from llmbench.report.formats.parquet import sample_rows
from llmbench.report.report import Report
from llmbench.report.tables.column_meanings import COLUMNS

if TYPE_CHECKING:
    from pandas import DataFrame

    from llmbench.contract.record import Row


def frame(report: Report, table: str) -> DataFrame:
    """Return a table of `COLUMNS`; an empty one has the columns that it would have. Unknown values are missing."""
    document: Row = report.document
    rows = sample_rows(report.runs) if table == "samples" else cast("Sequence[Row]", document[table])
    return _frame(rows, [name for name in COLUMNS[table] if "*" not in name])


def _frame(rows: Sequence[Row], names: Sequence[str]) -> DataFrame:
    import pandas as pd

    flat = [flat_row(row) for row in rows]
    if not flat:
        return pd.DataFrame(columns=pd.Index(names))
    every = list(dict.fromkeys(name for row in flat for name in row))
    outer = {name.rpartition(".")[0] for name in every if "." in name}
    empty = {name for name in outer if not any(row.get(name) for row in flat)}  # `quality`, as `quality.f1` has it
    columns = [name for name in every if name not in empty]
    return pd.DataFrame({name: [row.get(name) for row in flat] for name in columns})
