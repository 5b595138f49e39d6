"""How cost grows along an axis: exponents, predictions of larger points, and where what bounds a cell changes. Pure.

A *curve* is a set of cells that are alike in all but one axis: a field (`seq_len`, `batch_size`, `workers`) or a key of
the size's configuration (`hidden`, `layers`). What grows is the step, and within it each class of operator. The unit of
replication is the process: everything is fitted for each round (repeat r of all cells of a curve) and the interval is
Student's over rounds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmbench import attribution, processes, stats
from llmbench.powers import Growth, fit, slope
from llmbench.schema import Cell
from llmbench.sizes import parse_size

Record = Mapping[str, Any]
Row = dict[str, Any]

FIELDS = ("seq_len", "batch_size", "workers", "vocab_size", "target_len", "world_size")
FEWEST = 4  # points of a curve that is fitted: three and one that is held out
TAIL_POINTS = 3  # the exponent at the large end is that of so many points
#: A class of operators has a row where it makes so much of the largest point's step.
LEAST_SHARE = 0.05
LEVEL = 0.95
_DERIVED = ("parent", "tokenizer")


@dataclass(frozen=True)
class Curve:
    """Cells along one axis: x -> the good records of each cell, by repeat."""

    axis: str
    cell: Mapping[str, Any]  # of the smallest point
    points: Mapping[int, Mapping[int, Record]]

    @property
    def xs(self) -> list[int]:
        """The values of the axis, in order."""
        return sorted(self.points)

    @property
    def rounds(self) -> list[int]:
        """The repeats that every point has."""
        return sorted(set.intersection(*(set(found) for found in self.points.values())))


def scaling(records: Iterable[Record]) -> list[Row]:
    """Return one row per curve and part of the step (`step`, and each class of operator that matters)."""
    return [row for curve in curves(records) for row in rows(curve)]


def curves(records: Iterable[Record]) -> list[Curve]:
    """Return the curves in `records`, in the order of axes; those with fewer than 3 points are none."""
    cells = [processes.counted(group) for group in processes.by_cell(records).values()]
    cells = [{n: r for n, r in found.items() if r["status"] == "ok" and r["samples"].get("step_s")} for found in cells]
    cells = list(filter(None, cells))
    found = [one for axis in _axes(cells) for one in _along(axis, cells)]
    return [curve for _, curve in sorted(found, key=lambda one: one[0])]


def _axes(cells: Sequence[Mapping[int, Record]]) -> list[str]:
    """Return the axes along which there are more than 2 points at all: of many cells, mostly none."""
    values: dict[str, set[int]] = {}
    for cell in cells:
        for axis, x in coordinates(next(iter(cell.values()))["cell"]).items():
            if isinstance(x, int) and (axis in FIELDS or axis.startswith("size.")):
                values.setdefault(axis, set()).add(x)
    return [axis for axis, xs in values.items() if len(xs) > 2]


def _along(axis: str, cells: Sequence[Mapping[int, Record]]) -> list[tuple[tuple[int, int], Curve]]:
    """Return the curves of one axis with more than 2 points, each behind the place of its first cell and its axis."""
    found: dict[tuple[Any, ...], dict[int, Mapping[int, Record]]] = {}
    places: dict[tuple[Any, ...], tuple[int, int]] = {}
    for number, cell in enumerate(cells):
        fields = coordinates(next(iter(cell.values()))["cell"])
        x = fields.get(axis)
        if isinstance(x, int):
            key = tuple((name, value) for name, value in fields.items() if name != axis)
            found.setdefault(key, {})[x] = cell
            places.setdefault(key, (number, list(fields).index(axis)))
    name = axis.removeprefix("size.")
    return [
        (places[key], Curve(name, next(iter(points[min(points)].values()))["cell"], points))
        for key, points in found.items()
        if len(points) > 2
    ]


def coordinates(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cell is at: its fields, and the settings of its size as fields of their own (`size.hidden`)."""
    size = parse_size(cell["size"])
    fields = Cell.from_json(dict(cell)).to_json()  # those that the record is too old for have their defaults
    out = {name: value for name, value in fields.items() if name not in (*_DERIVED, "size")}
    out |= {f"size.{key}": int(value) if value.isdigit() else value for key, value in size.settings}
    return out | {"size": (size.name, size.factor)}


def rows(curve: Curve) -> list[Row]:
    """Return the rows of a curve: its step first."""
    cell = {name: curve.cell[name] for name in ("model", "size", "task", "stage", "device", "precision")}
    changed = changes(curve)
    out = []
    for part, times in parts(curve).items():
        row: Row = {**cell, "axis": curve.axis, "part": part, "points": curve.xs, "rounds": len(times)}
        row |= {"ms": [1e3 * statistics.fmean(values) for values in zip(*times, strict=True)]}
        row |= growth(curve.xs, times)
        out.append(row | {"changes": changed if part == "step" else []})
    return out


def parts(curve: Curve) -> dict[str, list[list[float]]]:
    """Return part of the step -> per round the seconds at each x; classes that no round has everywhere are left out."""
    rounds, xs = curve.rounds, curve.xs
    out = {"step": [[step_s(curve.points[x][r]) for x in xs] for r in rounds]}
    shares = {(r, x): class_shares(curve.points[x][r]) for r in rounds for x in xs}
    largest = [shares[r, xs[-1]] or {} for r in rounds]
    names = sorted({name for found in largest for name, share in found.items() if share >= LEAST_SHARE})
    for name in names:
        times = []
        for i, r in enumerate(rounds):
            found = [(shares[r, x] or {}).get(name, 0.0) for x in xs]
            if all(found):
                times.append([share * whole for share, whole in zip(found, out["step"][i], strict=True)])
        if times:
            out[name] = times
    return out


def step_s(record: Record) -> float:
    """Return the median seconds of a clean step."""
    return statistics.median(record["samples"]["step_s"])


def class_shares(record: Record) -> dict[str, float] | None:
    """Return operator class -> share of the step of one process; None without a trace with times.

    The classes share each phase as the profiler saw them, and the phases share the step as the phase pass did.
    """
    traced = record.get("operators") or {}
    phases = {name.removesuffix("_s"): statistics.fmean(v) for name, v in (record.get("phases") or {}).items() if v}
    whole, spent = sum(phases.values()), traced.get("phases_s") or {}
    if not traced.get("times") or not whole:
        return None
    shares: dict[str, float] = {}
    for row in traced["times"]:
        if spent.get(row["phase"]) and row["phase"] in phases:
            share = row["seconds"] / spent[row["phase"]] * phases[row["phase"]] / whole
            shares[row["operator_class"]] = shares.get(row["operator_class"], 0.0) + share
    seen = {row["phase"] for row in traced["times"]}
    shares["input"] = sum(mean for phase, mean in phases.items() if phase not in seen) / whole
    return shares


# --- growth ---------------------------------------------------------------------------------------------


def growth(xs: Sequence[int], times: Sequence[Sequence[float]]) -> Row:
    """Return exponents at both ends with intervals, the limit, and the prediction of the held-out largest point.

    `exponent` is the slope of log t over log x of the largest points, which nothing restricts; `limit` the highest
    power whose coefficient is above zero in the fit of all points, with confidence over rounds.
    """
    names = ("exponent", "exponent_ci", "exponent_small", "exponent_small_ci", "limit", "held_out")
    out: Row = dict.fromkeys((*names, "predicted_ms", "predicted_ms_ci", "measured_ms", "error_pct", "reason"))
    if len(xs) < FEWEST or xs[0] <= 0:
        return out | {"reason": f"a fit needs {FEWEST} points above 0"}
    tail, head = xs[-TAIL_POINTS:], xs[:TAIL_POINTS]
    out["exponent"], out["exponent_ci"] = _over_rounds([slope(tail, t[-TAIL_POINTS:]) for t in times])
    out["exponent_small"], out["exponent_small_ci"] = _over_rounds([slope(head, t[:TAIL_POINTS]) for t in times])
    out["limit"] = limit([fit(xs, t) for t in times])
    out["held_out"] = xs[-1]
    predicted, ci = _over_rounds([1e3 * fit(xs[:-1], t[:-1]).at(xs[-1]) for t in times])
    measured = 1e3 * statistics.fmean(t[-1] for t in times)
    out |= {"predicted_ms": predicted, "predicted_ms_ci": ci, "measured_ms": measured}
    return out | {"error_pct": 100.0 * (predicted / measured - 1.0)}


def limit(fits: Sequence[Growth]) -> int | None:
    """Return the highest power whose coefficient's lower bound over rounds is above zero; None from one round."""
    if len(fits) < 2:
        return None
    for power in (2, 1):
        bounds = stats.crossed_mean([[found.coefficients[power]] for found in fits]).bounds((1 - LEVEL) / 2)
        if bounds is not None and bounds[0] > 0:
            return power
    return 0


def _over_rounds(values: Sequence[float]) -> tuple[float, list[float] | None]:
    found = stats.crossed_mean([[value] for value in values])
    bounds = found.bounds((1 - LEVEL) / 2)
    return found.value, None if bounds is None else list(bounds)


# --- where what bounds a cell changes -------------------------------------------------------------------


def changes(curve: Curve) -> list[Row]:
    """Return where along a curve the verdict, or without one the class of operator with most time, changes.

    `at` is where the two classes' times cross, by the powers between both points; None for a verdict.
    """
    xs = curve.xs
    verdicts = [_verdict(curve.points[x]) for x in xs]
    out: list[Row] = []
    for i, (a, b) in enumerate(zip(verdicts, verdicts[1:], strict=False)):
        if a is not None and b is not None and a != b:
            out.append({"kind": "verdict", "from": a, "to": b, "between": [xs[i], xs[i + 1]], "at": None})
    seconds = [_class_seconds(curve.points[x]) for x in xs]
    for i, (before, after) in enumerate(zip(seconds, seconds[1:], strict=False)):
        if before and after:
            a, b = max(before, key=before.__getitem__), max(after, key=after.__getitem__)
            if a != b:
                ends = [xs[i], xs[i + 1]]
                gaps = [_log_ratio(found, b, a) for found in (before, after)]
                out.append({"kind": "operators", "from": a, "to": b, "between": ends, "at": _crossing(ends, gaps)})
    return out


def _verdict(records: Mapping[int, Record]) -> str | None:
    found = attribution.verdict(attribution.bottlenecks(records.values()))
    return found.get("verdict")


def _class_seconds(records: Mapping[int, Record]) -> dict[str, float]:
    """Return operator class -> mean seconds over the processes that were traced."""
    found = [(share, step_s(r)) for r in records.values() if (share := class_shares(r))]
    names = {name for shares, _ in found for name in shares}
    return {name: statistics.fmean(shares.get(name, 0.0) * s for shares, s in found) for name in names}


def _log_ratio(seconds: Mapping[str, float], over: str, under: str) -> float:
    a, b = seconds.get(over, 0.0), seconds.get(under, 0.0)
    return math.log(a / b) if a > 0 and b > 0 else math.nan


def _crossing(ends: Sequence[int], gaps: Sequence[float]) -> float | None:
    """Return where the log of a ratio is zero, linear in log x between both ends."""
    if not all(map(math.isfinite, gaps)) or min(ends) <= 0 or gaps[0] == gaps[1]:
        return None
    share = -gaps[0] / (gaps[1] - gaps[0])
    return float(np.exp(np.log(ends[0]) + share * np.log(ends[1] / ends[0])))
