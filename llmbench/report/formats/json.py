"""The report as one JSON document, for scripts. Its fields are fixed; new ones may be added."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llmbench.analysis.studies import learning, scaling, time_to_quality
from llmbench.contract.job import SCHEMA_VERSION
from llmbench.records.read import Run
from llmbench.report.cells.summary import failures, summarise_run
from llmbench.report.tables.remedies import recommendation_rows, remedy_rows

try:
    import orjson
except ImportError:  # a machine that only measures need not have it
    orjson = None  # type: ignore[assignment]

#: Lists of a cell's summary that are lists of the document.
OF_CELLS = ("bottlenecks", "interactions")
STUDIES = ("learning", "time_to_quality", "scaling")


def document(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the report of one or many runs. Every cell names its run; what is not known is null, with its reason."""
    summaries = [summarise_run(run) for run in runs]
    return whole(assemble(runs, summaries, [failures(run.records) for run in runs], [studied(run) for run in runs]))


def studied(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Return what a run says of learning, of time to quality and of scaling: rows by the name of the study."""
    groups = learning.group_by_setup(run.records)
    found = (learning.rows_of(groups), time_to_quality.rows_of(groups), scaling.scaling_rows(run.records))
    return dict(zip(STUDIES, found, strict=True))


def assemble(
    runs: Sequence[Run],
    summaries: Sequence[Sequence[Mapping[str, Any]]],
    failed: Sequence[Sequence[Mapping[str, Any]]],
    studies: Sequence[Mapping[str, Sequence[Mapping[str, Any]]]],
) -> dict[str, Any]:
    """Return the document of `runs` from what was made of them: their cells' summaries, failures and studies.

    `cells` and lists of their rows are iterators, since lists of many would double what they take.
    """
    environments: dict[str, Any] = {}
    ceilings: dict[str, Any] = {}
    learned: dict[str, list[Any]] = {name: [] for name in STUDIES}
    tried: dict[str, list[Any]] = {"remedies": [], "recommendations": []}
    for run, study in zip(runs, studies, strict=True):
        tried["remedies"] += [{**row, "run": run.name} for row in remedy_rows(run)]
        tried["recommendations"] += [{**row, "run": run.name} for row in recommendation_rows(run)]
        for name in STUDIES:
            learned[name] += [{**row, "run": run.name} for row in study[name]]
        environments |= run.environments
        ceilings |= run.ceilings
    return {
        "schema_version": SCHEMA_VERSION,
        "environments": environments,
        "ceilings": ceilings,
        "cells": (
            {key: value for key, value in cell.items() if key not in OF_CELLS} for cells in summaries for cell in cells
        ),
        **{name: _rows(name, summaries) for name in OF_CELLS},
        **tried,
        **learned,
        "failures": [{**failure, "run": run.name} for run, own in zip(runs, failed, strict=True) for failure in own],
    }


def _rows(name: str, summaries: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a list that each summary has, each with the name of its `run`."""
    for cells in summaries:
        for cell in cells:
            for row in cell[name]:
                yield {**row, "run": cell["run"]}


def whole(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `assemble` returns with lists in place of iterators."""
    return {name: list(item) if isinstance(item, Iterator) else item for name, item in parts.items()}


def render(runs: Sequence[Run]) -> str:
    """Return `document(runs)` as strict JSON text: a number that is not finite is null."""
    return text(document(runs))


def text(value: Mapping[str, Any]) -> str:
    """Return a document as strict JSON text (a number that is not finite is null), with a line per item of a list."""
    return written(value).decode()


def written(value: Mapping[str, Any]) -> bytearray:
    """Return `text(value)` in UTF-8; values may be iterators, whose items are never all there at once."""
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


def _write_list(out: bytearray, items: Iterable[Any]) -> None:
    first = True
    for item in items:
        out += b"[\n" if first else b",\n"
        out += _line(item)
        first = False
    out += b"[]" if first else b"\n]"


def _line(value: Any) -> bytes:
    if orjson is not None:
        with contextlib.suppress(TypeError):  # of a value that it does not know
            return bytes(orjson.dumps(value))
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False).encode()


def one(run: Run) -> dict[str, Any]:
    """Return the only cell of a run with its bottlenecks and remedies; a number that is not finite is None."""
    found = document([run])
    lists = {name: found[name] for name in (*OF_CELLS, "remedies")}
    only: dict[str, Any] = _finite({"schema_version": SCHEMA_VERSION, **found["cells"][0], **lists})
    return {**only, "environments": _finite(found["environments"])}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
