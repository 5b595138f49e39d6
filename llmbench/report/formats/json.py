"""The report as one JSON document, for scripts. Its fields are fixed; new ones may be added."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from llmbench.analysis.studies import learning, scaling, time_to_quality
from llmbench.contract.job import SCHEMA_VERSION
from llmbench.records.read import Run
from llmbench.report.cells.summary import failures, summarise_run
from llmbench.report.tables.remedies import recommendation_rows, remedy_rows

if TYPE_CHECKING:
    from llmbench.contract.record import (
        BottleneckRow,
        Ceilings,
        CellSummary,
        FailureRow,
        InteractionRow,
        JsonObject,
        LearningRow,
        RecommendationRow,
        RemedyRow,
        Row,
        ScalingRow,
        TimeToQualityRow,
    )

try:
    import orjson
except ImportError:  # a machine that only measures need not have it
    orjson = None  # type: ignore[assignment]

#: Lists of a cell's summary that are lists of the document.
OF_CELLS: tuple[Literal["bottlenecks", "interactions"], ...] = ("bottlenecks", "interactions")


class Studies(TypedDict):
    """The rows of a run's studies."""

    learning: list[LearningRow]
    time_to_quality: list[TimeToQualityRow]
    scaling: list[ScalingRow]


class Document(Studies):
    """The document of `report --format json`. Each row names its `run`; an unknown value is null, with its reason."""

    schema_version: int
    environments: dict[str, JsonObject]
    ceilings: dict[str, Ceilings]
    cells: list[CellSummary]  # without `bottlenecks` and `interactions`, which are lists of their own
    bottlenecks: list[BottleneckRow]
    interactions: list[InteractionRow]
    remedies: list[RemedyRow]
    recommendations: list[RecommendationRow]
    failures: list[FailureRow]


#: The parts of a `Document` by name. Long lists are iterators: as lists, they would double the memory of a report.
Parts = Mapping[str, object]


def document(runs: Sequence[Run]) -> Document:
    """Return the document of one or many runs."""
    summaries = [summarise_run(run) for run in runs]
    return collect(
        assemble(runs, summaries, [failures(run.records) for run in runs], [study_rows(run) for run in runs])
    )


def study_rows(run: Run) -> Studies:
    """Return the rows of a run's studies: learning, time to quality, scaling."""
    groups = learning.group_by_setup(run.records)
    rows = {
        "learning": learning.rows_of(groups),
        "time_to_quality": time_to_quality.rows_of(groups),
        "scaling": scaling.scaling_rows(run.records),
    }
    return cast("Studies", rows)


def assemble(
    runs: Sequence[Run],
    summaries: Sequence[Sequence[CellSummary]],
    failed: Sequence[Sequence[FailureRow]],
    studies: Sequence[Studies],
) -> Parts:
    """Return the parts of the document of `runs`, from the summaries, failures and studies of each."""
    environments: dict[str, object] = {}
    ceilings: dict[str, object] = {}
    for run in runs:
        environments |= run.environments
        ceilings |= run.ceilings
    by_run = list(zip(runs, studies, strict=True))
    return {
        "schema_version": SCHEMA_VERSION,
        "environments": environments,
        "ceilings": ceilings,
        "cells": (
            {name: value for name, value in cell.items() if name not in OF_CELLS}
            for cells in summaries
            for cell in cells
        ),
        **{name: _rows_of_cells(name, summaries) for name in OF_CELLS},
        "remedies": [row for run in runs for row in remedy_rows(run)],
        "recommendations": [row for run in runs for row in recommendation_rows(run)],
        "learning": [{**row, "run": run.name} for run, study in by_run for row in study["learning"]],
        "time_to_quality": [{**row, "run": run.name} for run, study in by_run for row in study["time_to_quality"]],
        "scaling": [{**row, "run": run.name} for run, study in by_run for row in study["scaling"]],
        "failures": [{**failure, "run": run.name} for run, own in zip(runs, failed, strict=True) for failure in own],
    }


def _rows_of_cells(
    name: Literal["bottlenecks", "interactions"], summaries: Sequence[Sequence[CellSummary]]
) -> Iterator[Row]:
    """Yield the rows of a list that each summary has, each with the name of its `run`."""
    for cells in summaries:
        for cell in cells:
            for row in cell[name]:
                yield {**row, "run": cell["run"]}


def collect(parts: Parts) -> Document:
    """Return the parts with lists in place of iterators."""
    whole = {name: list(part) if isinstance(part, Iterator) else part for name, part in parts.items()}
    return cast("Document", whole)


def render(runs: Sequence[Run]) -> str:
    """Return `document(runs)` as strict JSON text: a number that is not finite is null."""
    return text(document(runs))


def text(value: Mapping[str, object]) -> str:
    """Return a document as strict JSON text: a line per item of a list; a number that is not finite is null."""
    return to_bytes(value).decode()


def to_bytes(value: Parts) -> bytearray:
    """Return `text(value)` in UTF-8. Values may be iterators: their items are written one by one."""
    out = bytearray(b"{\n")
    for name, item in value.items():
        out += b"" if len(out) == 2 else b",\n"
        out += _line(name) + b": "
        if isinstance(item, list | Iterator):
            _write_list(out, item)
        else:
            out += _line(item)
    out += b"\n}"
    return out


def _write_list(out: bytearray, items: Iterable[object]) -> None:
    first = True
    for item in items:
        out += b"[\n" if first else b",\n"
        out += _line(item)
        first = False
    out += b"[]" if first else b"\n]"


def _line(value: object) -> bytes:
    if orjson is not None:
        with contextlib.suppress(TypeError):  # of a value that it does not know
            return bytes(orjson.dumps(value))
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False).encode()


def single_cell(run: Run) -> JsonObject:
    """Return the only cell of a run with its bottlenecks and remedies; a number that is not finite is None."""
    whole = document([run])
    lists = {name: whole[name] for name in ("bottlenecks", "interactions", "remedies")}
    cell: JsonObject = _finite({"schema_version": SCHEMA_VERSION, **whole["cells"][0], **lists})
    return {**cell, "environments": _finite(whole["environments"])}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
