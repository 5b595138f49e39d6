"""The data of the page's charts: a point per cell, the roofs of its machine, and raw step times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench_plugins.reporters._written import Written, as_json

PHASES = ("input", "copy", "forward", "backward", "optimizer", "comm", "idle")
#: Bars that a chart has room for.
MOST_BARS = 40
#: Step times that a page has room for: about 1 MB.
MOST_STEPS = 200_000
CAPTIONS = {
    "phases": "Shares of a step by phase, a bar per cell (the first {bars} that the filter leaves). The same numbers "
    "are in the table 'Where the time goes'. A large share is a suspect, not a proof.",
    "roofline": "Each point is a cell: its arithmetic per byte moved, and its arithmetic per second. The lines are the "
    "measured limits of this machine (solid: arithmetic; dashed: memory); no point can be above them. A point far "
    "below them is limited by something else. The same numbers are in 'What it asks of the hardware'.",
    "headroom": "Each point is a cause that was removed: the gain that was predicted, and the gain that was measured. "
    "On the line, the prediction was right. The same numbers are in 'Causes tried'.",
    "scaling": "Step time over the axis, as a multiple of its smallest value. Both scales are logarithmic, so a power "
    "law is a straight line. Hollow: the prediction for the largest point, from the smaller ones. The same numbers are "
    "in the table.",
    "quality": "Each point is a cell: how much of the oracle's quality it reached, after how many seconds of training "
    "(those of the cells that it starts from included). "
    "The same numbers are in 'Quality'.",
}
TITLES = {
    "phases": "Where a step's time goes",
    "roofline": "Roofline: how near to the machine's limits",
    "headroom": "Predicted against measured gain",
    "quality": "Quality against training time",
    "scaling": "How cost grows",
}


@dataclass(frozen=True)
class Charts:
    """The charts of a page: their texts, the data that the script draws, and the caption of the step times."""

    figures: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]
    series: Mapping[str, str] | None


def charts_of(report: Any) -> Charts:
    """Return the charts for which the report holds numbers."""
    points: list[Written] = []
    has = dict.fromkeys(("phases", "headroom", "roofline", "scaling", "quality"), False)
    for run, cells in zip(report.runs, report.summaries, strict=True):
        parents = {record["cell_id"]: record["cell"].get("parent") for record in run.records}
        trained = {cell["cell_id"]: (cell["training"] or {}).get("seconds") for cell in cells}
        name = f"{run.name}: " if len(report.runs) > 1 else ""
        measured = [cell for cell in cells if cell["step_ms"] is not None]
        for cell in measured:
            point = _point(cell, name, _training_s(cell["cell_id"], parents, trained))
            points.append(as_json(point))
            has["phases"] |= bool(point["shares"])
            has["headroom"] |= bool(point["causes"])
            has["roofline"] |= point["gflops"] is not None
            has["quality"] |= point["quality"] is not None and point["seconds"] is not None
    curves = scaling([row for study in report.studies for row in study["scaling"]])
    has["scaling"] = bool(curves)
    shown = [
        {"id": name, "title": TITLES[name], "caption": CAPTIONS[name].format(bars=MOST_BARS), "wide": name == "phases"}
        for name, there in has.items()
        if there
    ]
    series, left_out = _series(report)
    caption = "Milliseconds of each clean step, in the order they were taken; one line per process."
    if left_out:
        caption += f" {left_out} cells are left out to keep this page small; records.jsonl has them all."
    data = {"points": points, "phases": PHASES, "bars": MOST_BARS, "roofs": roofs(report), "series": series}
    data["curves"] = curves
    return Charts(shown, data, {"caption": caption} if series else None)


def _training_s(cell_id: str, parents: Mapping[str, Any], trained: Mapping[str, float | None]) -> float | None:
    """Return the seconds of training of a cell and of the cells that it starts from."""
    here: str | None = cell_id
    seconds, seen = 0.0, set()
    while here is not None and here not in seen:
        seen.add(here)
        seconds += trained.get(here) or 0.0
        here = parents.get(here)
    return seconds or None


def _point(cell: Mapping[str, Any], run: str, training_s: float | None) -> dict[str, Any]:
    """Return the values of a cell that charts show; an unknown value is None."""
    gflops = cell["flops_per_step"] and cell["flops_per_step"] / cell["step_ms"] / 1e6
    shares = [cell["shares"].get(phase) for phase in PHASES]
    causes = [
        (row["cause"], row["predicted_x"], row["measured_x"])
        for row in cell["bottlenecks"]
        if row["predicted_x"] is not None and row["measured_x"] is not None
    ]
    short = " ".join(str(cell[name]) for name in ("model", "stage", "task") if cell[name])
    short += f" {cell['variant']}" if cell["variant"] else ""
    label = f"{short} {cell['size']} {cell['device']} {cell['precision']}"
    return {
        "short": run + short,
        "label": run + label,
        "model": cell["model"],
        "stage": cell["stage"],
        "shares": None if all(share is None for share in shares) else shares,
        "intensity": cell["arithmetic_intensity"] or None,
        "gflops": gflops or None,
        "seconds": training_s,
        "quality": _of_oracle(cell),
        "causes": causes,
    }


def scaling(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the curves of a scaling study: step time over the axis, and the prediction for the largest point."""
    curves = []
    for row in rows:
        if row.get("part") == "step" and len(row.get("points") or ()) > 1 and row["points"][0]:
            first = row["points"][0]
            points = [{"x": x / first, "y": ms} for x, ms in zip(row["points"], row["ms"], strict=True)]
            label = f"{row['model']} {row['stage']}: {row['axis']} from {first}"
            predicted, at = row.get("predicted_ms"), row.get("held_out")
            ahead = {"x": at / first, "y": predicted} if predicted is not None and at else None
            curves.append({"label": label, "points": points, "predicted": ahead})
    return curves


def _of_oracle(cell: Mapping[str, Any]) -> float | None:
    from llmbench.report import oracle_pct

    metric = cell["quality_primary"]
    values = ((cell[name] or {}).get(metric) for name in ("quality", "oracle", "quality_direction"))
    return oracle_pct(*values)


def roofs(report: Any) -> list[dict[str, Any]]:
    """Return the lines that no point can be above: per device, memory bandwidth up to its matmul peak."""
    lines = []
    for run in report.runs:
        for doc in run.ceilings.values():
            used = {doc["precisions"].get(record["cell"]["precision"]) for record in run.records}
            peaks = {mode: found["value"] / 1e9 for mode, found in doc["matmul"].items() if found and mode in used}
            if not peaks:
                continue
            most = max(peaks.values())
            for level in doc["memory_levels"]:
                speeds = [e["value"] / 1e9 for key, e in level.items() if key.endswith("_per_s") and e]
                if speeds:
                    ends = [0.1, most / max(speeds)]
                    points = [{"x": x, "y": x * max(speeds)} for x in ends]
                    label = f"{level['level']} {max(speeds):.0f} GB/s"
                    lines.append({"label": label, "kind": "memory", "points": points})
            for mode, peak in peaks.items():
                points = [{"x": 0.1, "y": peak}, {"x": 1000.0, "y": peak}]
                lines.append({"label": f"{mode} {peak:,.0f} GFLOP/s", "kind": "compute", "points": points})
    return list({line["label"]: line for line in lines}.values())


def _series(report: Any) -> tuple[list[dict[str, Any]], int]:
    """Return step times (microseconds) per cell and process, and the number of cells for which there is no room."""
    series, steps, left_out = [], 0, 0
    for run, cells in zip(report.runs, report.summaries, strict=True):
        times: dict[str, list[list[int]]] = {}
        for record in run.records:
            if steps >= MOST_STEPS and record["cell_id"] not in times:
                continue
            if record["status"] == "ok" and (seconds := record["samples"].get("step_s")):
                times.setdefault(record["cell_id"], []).append([round(1e6 * s) for s in seconds])
                steps += len(seconds)
        for cell in cells:
            own = times.get(cell["cell_id"])
            names = [str(cell[name]) for name in ("model", "stage", "task", "size", "device", "precision", "variant")]
            label = " ".join(name for name in names if name)
            if own:
                series.append({"label": f"{run.name}: {label}" if len(report.runs) > 1 else label, "p": own})
            left_out += not own and cell["step_ms"] is not None
    return series, left_out
