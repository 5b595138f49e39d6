"""Cells and raw samples as Parquet, written by pyarrow. One row per cell, or one per step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.records import attempts
from llmbench.records.read import Run
from llmbench.report.formats.flat import as_text, flat_row
from llmbench.report.report import Report

if TYPE_CHECKING:
    from llmbench.contract.record import Row


def write_cells(runs: Sequence[Run], path: Path) -> None:
    """Write one row per cell, with the fields of `report --format json`; nested ones are flat, such as `shares.input`.

    A list of numbers or of texts stays a list; any other list is JSON text.
    """
    _write(_rows(Report(runs)), path)


def report_bytes(report: Report) -> bytes:
    """Return the cells of a report as a Parquet file, as `write_cells` writes it."""
    out = io.BytesIO()
    _write(_rows(report), out)
    return out.getvalue()


def _rows(report: Report) -> list[Row]:
    return [flat_row({"run": cell["run"], **cell}) for cell in report.cells]


def write_samples(runs: Sequence[Run], path: Path) -> None:
    """Write `sample_rows` of the runs."""
    _write(sample_rows(runs), path)


def sample_rows(runs: Sequence[Run]) -> list[Row]:
    """Return one row per timed step: run, cell id, repeat, step, and every series that has a value for each step."""
    rows: list[Row] = []
    for run in runs:
        for cell_id, group in attempts.by_cell(run.records).items():
            for record in attempts.good(attempts.latest_attempts(group)):
                series = record["samples"]
                steps = len(series.get("step_s") or ())
                complete = {name: v for name, v in series.items() if isinstance(v, list) and len(v) == steps}
                process = {"run": run.name, "cell_id": cell_id, "repeat": record["repeat"]}
                rows += [{**process, "step": i, **{k: v[i] for k, v in complete.items()}} for i in range(steps)]
    return rows


def _write(rows: Sequence[Row], to: Path | io.BytesIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: _array([row.get(name) for row in rows]) for name in columns})
    pq.write_table(table, to)


def _array(values: list[Any]) -> Any:
    """Return a column of pyarrow: integers among floats become floats, values without a common type become text."""
    import pyarrow as pa

    known = {type(value) for value in values if value is not None}
    if known == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(known) > 1:
        values = [None if value is None else as_text(value) for value in values]
    return pa.array(values)
