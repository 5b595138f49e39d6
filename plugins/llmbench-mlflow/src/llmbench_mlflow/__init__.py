"""llmbench reports in MLflow: `llmbench report RUN --format mlflow`. MLflow is imported when something is logged."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import llmbench

EXPERIMENT = "llmbench"
PARAMETERS = (
    *("model", "size", "task", "dataset", "stage", "device", "precision", "batch_size", "seq_len", "seed", "variant"),
)
TAGS = (
    *("cell_id", "status", "verdict", "verdict_class", "verdict_where", "verdict_why", "leading", "advice"),
    *("suspect", "quality_primary", "oracle_kind", "reproduce"),
)
#: Metrics that MLflow takes at once.
METRICS_AT_ONCE = 1000
#: Characters of the longest value that it stores.
LONGEST = 5000
FINGERPRINT = "llmbench.fingerprint"


def render(report: Any) -> str:
    """Log every run of `report`; return a line per run with its place. Raises UserError when the store refuses."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise llmbench.UserError(f"--format mlflow: {error}; install it: pip install llmbench-mlflow") from None
    try:
        client = MlflowClient()
        experiment = _experiment(client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
        return "\n".join(_log_run(client, experiment, report, run) for run in report.runs)
    except MlflowException as error:
        where = os.environ.get("MLFLOW_TRACKING_URI", "the default store")
        raise llmbench.UserError(f"MLFLOW_TRACKING_URI: {where} refuses: {str(error).splitlines()[0]}") from error


def _experiment(client: Any, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))


def _log_run(client: Any, experiment: str, report: Any, run: Any) -> str:
    """Log one run and its cells. The fingerprint comes last, so that a run that was cut off is logged again."""
    where = f"{client.tracking_uri}, experiment {os.environ.get('MLFLOW_EXPERIMENT_NAME') or EXPERIMENT}"
    mark = _fingerprint(run)
    known = client.search_runs([experiment], f"tags.`{FINGERPRINT}` = '{mark}'", max_results=1)
    if known:
        return f"{run.name}: logged before, as run {known[0].info.run_id} of {where}"
    cells = [cell for cell in report.cells if cell["run"] == run.name]
    times = {cell["cell_id"]: _times_ms(run.records, cell["cell_id"]) for cell in cells}
    starts = [start for start, _ in times.values() if start is not None]
    parent = client.create_run(experiment, start_time=min(starts, default=None), run_name=run.name).info.run_id
    for cell in cells:
        _log_cell(client, experiment, parent, report.document, cell, times[cell["cell_id"]])
    _log_files(client, parent, report, run)
    notes = {"mlflow.note.content": "\n".join(f"- {one.text}" for one in report.findings)[:LONGEST]}
    _log(client, parent, list(_counts(cells)), {}, {**notes, "llmbench.cells": str(len(cells))})
    ends = [end for _, end in times.values() if end is not None]
    client.set_terminated(parent, end_time=max(ends, default=None))
    client.set_tag(parent, FINGERPRINT, mark)
    return f"{run.name}: {len(cells)} cells logged as run {parent} of {where}"


def _fingerprint(run: Any) -> str:
    """Return a hash of the records: it does not depend on the folder of the run."""
    marks = [[r["cell_id"], r["repeat"], r["attempt"], r["started_at"], r["status"]] for r in run.records]
    return hashlib.sha256(json.dumps([run.name, marks]).encode()).hexdigest()[:32]


def _times_ms(records: Sequence[Mapping[str, Any]], cell_id: str) -> tuple[int | None, int | None]:
    """Return the times when the first process of a cell began and the last one ended, in milliseconds since 1970."""
    own = [r for r in records if r["cell_id"] == cell_id and r["started_at"]]
    starts = [datetime.fromisoformat(r["started_at"]).timestamp() for r in own]
    ends = [start + (r["wall_s"] or 0.0) for start, r in zip(starts, own, strict=True)]
    return (int(1e3 * min(starts)), int(1e3 * max(ends))) if own else (None, None)


def _log_cell(
    client: Any,
    experiment: str,
    parent: str,
    document: Mapping[str, Any],
    cell: Mapping[str, Any],
    times: tuple[int | None, int | None],
) -> None:
    name = " ".join(
        str(cell[k]) for k in ("stage", "model", "size", "task", "precision", "device", "variant") if cell[k]
    )
    tags = {"mlflow.parentRunId": parent}
    run_id = client.create_run(experiment, start_time=times[0], tags=tags, run_name=name).info.run_id
    metrics = [(key, value, 0) for key, value in _numbers(cell)]
    for kind, label in (("bottlenecks", "cause"), ("remedies", "remedy")):
        for row in document[kind]:
            if row["cell_id"] == cell["cell_id"] and row["run"] == cell["run"]:
                wanted = {k: row[k] for k in ("predicted_x", "measured_x", "ci")}
                metrics += [(f"{label}.{row[label]}.{k}", v, 0) for k, v in _numbers(wanted)]
    metrics += [("training.loss", loss, int(step)) for step, loss in (cell["training"] or {}).get("loss") or ()]
    known = {f"llmbench.{k}": str(cell[k]) for k in TAGS if cell[k] is not None}
    if cell["warnings"]:
        known["llmbench.warnings"] = "; ".join(cell["warnings"])
    _log(client, run_id, metrics, {k: str(cell[k]) for k in PARAMETERS if cell[k] is not None}, known)
    client.set_terminated(run_id, "FINISHED" if cell["status"] == "ok" else "FAILED", times[1])


def _numbers(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number that is known, by its name; the ends of an interval are `NAME_low` and `NAME_high`."""
    for key, value in values.items():
        name = f"{path}.{key}" if path else key
        if name in PARAMETERS:
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, name)
        elif _number(value):
            yield name, float(value)
        elif name.endswith(("ci", "_range")) and isinstance(value, list) and len(value) == 2:
            base = name.removesuffix("_ci")
            yield from (
                (f"{base}_{end}", float(v)) for end, v in zip(("low", "high"), value, strict=True) if _number(v)
            )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _counts(cells: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, int]]:
    for status in dict.fromkeys(cell["status"] for cell in cells):
        yield f"cells.{status}", float(sum(cell["status"] == status for cell in cells)), 0


def _log_files(client: Any, parent: str, report: Any, run: Any) -> None:
    """Log the report as Markdown, JSON and HTML, and the environments and the suite of the run."""
    from llmbench.report import markdown_text, strict_json

    client.log_text(parent, markdown_text(report), "report.md")
    client.log_text(parent, strict_json(report.document), "report.json")
    client.log_dict(parent, {k: dict(v) for k, v in run.environments.items()}, "environments.json")
    if "html" in report.formats:
        client.log_text(parent, report.render("html"), "report.html")
    if run.suite:
        client.log_text(parent, run.suite, "suite.yaml")


def _log(
    client: Any,
    run_id: str,
    metrics: Sequence[tuple[str, float, int]],
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now_ms = int(1e3 * datetime.now().timestamp())
    entities = [Metric(name, value, now_ms, step) for name, value, step in metrics]
    for start in range(0, max(len(entities), 1), METRICS_AT_ONCE):
        client.log_batch(
            run_id,
            metrics=entities[start : start + METRICS_AT_ONCE],
            params=[] if start else [Param(k, v[:LONGEST]) for k, v in parameters.items()],
            tags=[] if start else [RunTag(k, v[:LONGEST]) for k, v in tags.items()],
        )


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return the format."""
    return [llmbench.ReporterSpec("mlflow", render, ".txt", "logs cells, quality, verdicts and the report to MLflow")]
