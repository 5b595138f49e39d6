"""Cells and raw samples as Parquet, through pyarrow. One row per cell, or one per step."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbench.records import attempts
from llmbench.records.read import Run
from llmbench.report.report import Report


def write_cells(runs: Sequence[Run], path: Path) -> None:
    """Write one row per cell, with the fields of `report --format json`; nested ones are flat, such as `shares.input`.

    A list of numbers stays a list; what is nested deeper is JSON text.
    """
    _write(_rows(Report(runs)), path)


def report_bytes(report: Report) -> bytes:
    """Return what `write_cells` writes."""
    out = io.BytesIO()
    _write(_rows(report), out)
    return out.getvalue()


def _rows(report: Report) -> list[dict[str, Any]]:
    return [dict(flat({"run": cell["run"], **cell})) for cell in report.cells]


def write_samples(runs: Sequence[Run], path: Path) -> None:
    """Write `sample_rows` of the runs."""
    _write(sample_rows(runs), path)


def sample_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one row per timed step: run, cell id, repeat, step, and every series that has a value for each step."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        for cell_id, group in attempts.by_cell(run.records).items():
            for record in attempts.good(attempts.latest_attempts(group)):
                series = record["samples"]
                n = len(series.get("step_s") or ())
                whole = {k: v for k, v in series.items() if isinstance(v, list) and len(v) == n}
                name = {"run": run.name, "cell_id": cell_id, "repeat": record["repeat"]}
                rows += [{**name, "step": i, **{k: v[i] for k, v in whole.items()}} for i in range(n)]
    return rows


def _write(rows: Sequence[Mapping[str, Any]], to: Path | io.BytesIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: _array([row.get(name) for row in rows]) for name in columns})
    pq.write_table(table, to)


def _array(values: list[Any]) -> Any:
    """Return a column; numbers of both kinds are floats, and what has no common type is text."""
    import pyarrow as pa

    known = {type(value) for value in values if value is not None}
    if known == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(known) > 1:
        values = [None if value is None else _text(value) for value in values]
    return pa.array(values)


def flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values of nested mappings, names joined by dots; of lists, only those of one kind stay lists."""
    for key, item in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping):
            yield from flat(item, name)
        elif isinstance(item, list | tuple):
            yield name, _list(item)
        else:
            yield name, item


def _list(items: Sequence[Any]) -> Any:
    if all(isinstance(item, str) for item in items):
        return list(items)
    if all(isinstance(item, int | float) and not isinstance(item, bool) for item in items):
        return [float(item) for item in items]
    return _text(items)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
