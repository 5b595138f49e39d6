"""The lists of a report as pandas DataFrames: one row per cell, cause, remedy or step, flat columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmbench.report.formats.parquet import flat, sample_rows
from llmbench.report.report import Report
from llmbench.report.tables.column_meanings import COLUMNS

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(report: Report, table: str) -> DataFrame:
    """Return a table of `COLUMNS`; an empty one has the columns that it would have. What is not known is missing."""
    rows = sample_rows(report.runs) if table == "samples" else report.document[table]
    return _frame(rows, [name for name in COLUMNS[table] if "*" not in name])


def _frame(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> DataFrame:
    import pandas as pd

    flattened = [dict(flat(row)) for row in rows]
    if not flattened:
        return pd.DataFrame(columns=pd.Index(names))
    found = list(dict.fromkeys(name for row in flattened for name in row))
    outer = {name.rpartition(".")[0] for name in found if "." in name}
    empty = {name for name in outer if not any(row.get(name) for row in flattened)}  # `quality`, beside `quality.f1`
    columns = [name for name in found if name not in empty]
    return pd.DataFrame({name: [row.get(name) for row in flattened] for name in columns})
