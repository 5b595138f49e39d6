"""How cost grows along an axis: exponents, predictions of larger points, and where what bounds a cell changes. Pure.

A *curve* is a set of cells that are alike in all but one axis: a field (`seq_len`, `batch_size`, `workers`) or a key of
the size's configuration (`hidden`, `layers`). What grows is the step, and within it each class of operator. The unit of
replication is the process: everything is fitted for each round (repeat r of all cells of a curve) and the interval is
Student's over rounds. The law of each part is that of its counted work (`llmbench.analysis.studies.operator_laws`),
that of the step their sum.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from llmbench import stats
from llmbench.analysis import attribution
from llmbench.analysis.studies.alike import DERIVED, fields_of, group, settings_of
from llmbench.analysis.studies.operator_laws import fit_laws, work_of
from llmbench.contract.cell import DEFAULTS
from llmbench.records import attempts
from llmbench.stats.growth import LINEAR, ONE, SQUARE, Growth, power, power_misfit, slope, total

Record = Mapping[str, Any]
Row = dict[str, Any]
Work = Sequence[tuple[Sequence[Growth], Sequence[Sequence[float]]]]  # of each part: its counted work, its times

FIELDS = ("seq_len", "batch_size", "workers", "vocab_size", "target_len", "world_size")
FEWEST = 4  # points of a curve that is fitted: three and one that is held out
#: The exponent at an end is that of the points within two doublings of it, and of three at least.
END_X, END_POINTS = 4, 3
#: A class of operators has a row where it makes so much of the step.
LEAST_SHARE = 0.05
LEVEL = 0.95
TAIL = (1 - LEVEL) / 2  # outside of an interval, at each end
STEP, REST = "step", "rest"


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


def scaling_rows(records: Iterable[Record]) -> list[Row]:
    """Return one row per curve and part of the step (`step`, and each class of operator that matters)."""
    return [row for curve in curves(records) for row in rows(curve)]


def curves(records: Iterable[Record]) -> list[Curve]:
    """Return the curves in `records`, in the order of axes; those with fewer than 3 points are none."""
    recorded = list(attempts.by_cell(records).values())
    if not _axes([first["cell"] for first, *_ in recorded]):
        return []
    usable = [_usable(attempts.latest_attempts(cell)) for cell in recorded]
    cells = [found for found in usable if found]
    axes = _axes([_fields(cell) for cell in cells])
    found = [one for axis in axes for one in _along(axis, cells)]
    return [curve for _, curve in sorted(found, key=itemgetter(0))]


def _axes(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the axes along which there are more than 2 points at all: of many cells, mostly none."""
    values: dict[str, set[Any]] = {}
    for size in dict.fromkeys(cell["size"] for cell in cells):
        for axis, x in settings_of(size).items():
            values.setdefault(axis, set()).add(x)
    for axis in FIELDS:
        default = DEFAULTS[axis]
        values[axis] = {cell.get(axis, default) for cell in cells}
    values = {axis: {x for x in xs if isinstance(x, int)} for axis, xs in values.items()}
    return [axis for axis, xs in values.items() if len(xs) > 2]


def _along(axis: str, cells: Sequence[Mapping[int, Record]]) -> list[tuple[tuple[int, int], Curve]]:
    """Return the curves of one axis with more than 2 points, each after the place of its first cell and its axis."""
    placed: list[tuple[tuple[int, int], int, Mapping[int, Record]]] = []
    for number, cell in enumerate(cells):
        fields = fields_of(_fields(cell))
        x = fields.get(axis)
        if isinstance(x, int):
            placed.append(((number, list(fields).index(axis)), x, cell))
    out = []
    for members in group(placed, lambda one: _fields(one[2]), (*DERIVED, axis)).values():
        points = {x: cell for _, x, cell in members}
        if len(points) > 2:
            out.append((members[0][0], Curve(axis.removeprefix("size."), _fields(points[min(points)]), points)))
    return out


def _fields(cell: Mapping[int, Record]) -> Mapping[str, Any]:
    """Return the fields of a cell from its records by repeat."""
    fields: Mapping[str, Any] = next(iter(cell.values()))["cell"]
    return fields


def _usable(found: Mapping[int, Record]) -> dict[int, Record]:
    """Return the good records of a cell, numbered anew; those that others disturbed only where there are no others."""
    good = [r for r in found.values() if r["status"] == "ok" and r["samples"].get("step_s")]
    return dict(enumerate(attempts.prefer_undisturbed(good, 1)))


def rows(curve: Curve) -> list[Row]:
    """Return the rows of a curve: its step first, then the parts that matter."""
    cell = {name: curve.cell[name] for name in ("model", "size", "task", "stage", "device", "precision")}
    times, changed = parts(curve), changes(curve)
    works = {name: work_of(name, curve.xs[:-1], _firsts(curve)[:-1]) for name in times if name != STEP}
    out = []
    for part, seconds in times.items():
        if part == REST:
            continue
        row: Row = {**cell, "axis": curve.axis, "part": part, "points": curve.xs, "rounds": len(seconds)}
        row |= {"ms": [1e3 * statistics.fmean(values) for values in zip(*seconds, strict=True)]}
        of = [name for name in works if part in (STEP, name)]
        summed = [(works[name], times[name]) for name in of] or [([ONE, LINEAR, SQUARE], seconds)]
        row |= growth(curve.xs, seconds, summed)
        out.append(row | {"changes": changed if part == STEP else []})
    return out


def parts(curve: Curve) -> dict[str, list[list[float]]]:
    """Return part of the step -> per round the seconds at each x.

    `step`; each class of operators that makes 5 % of the largest point but one (the largest is predicted and has no
    say) and is seen everywhere in every round; and `rest`, what of the step those leave. Without a trace, the step.
    """
    rounds, xs = curve.rounds, curve.xs
    whole = [[step_s(curve.points[x][r]) for x in xs] for r in rounds]
    shares = [[class_shares(curve.points[x][r]) or {} for x in xs] for r in rounds]
    names = sorted({n for found in shares for n, share in found[-2].items() if share >= LEAST_SHARE})
    names = [n for n in names if all(at.get(n, 0.0) > 0 for found in shares for at in found)]
    out = {STEP: whole}
    for name in names:
        out[name] = [[at[name] * s for at, s in zip(*pair, strict=True)] for pair in zip(shares, whole, strict=True)]
    if names:
        seen = [[sum(out[n][i][j] for n in names) for j in range(len(xs))] for i in range(len(rounds))]
        left = [[s - t for s, t in zip(*pair, strict=True)] for pair in zip(whole, seen, strict=True)]
        if all(value > 0 for found in left for value in found):
            out[REST] = left
    return out


def _firsts(curve: Curve) -> list[Record]:
    """Return a record of each point, whose counts stand for all."""
    return [next(iter(curve.points[x].values())) for x in curve.xs]


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


def growth(xs: Sequence[int], times: Sequence[Sequence[float]], summed: Work | None = None) -> Row:
    """Return exponents with intervals, the limit, and the prediction of the held-out largest point.

    times: per round the seconds at each x. summed: what they are the sum of, each with its work and its own times (by
    default themselves, a + b x + c x^2). `exponent` is the slope of log t over log x of the largest points, which
    nothing restricts; `power` what it tends to beyond them (see `limit_power`); `limit` the highest power whose
    coefficient in the law of all points but the largest is above zero, with confidence over rounds.
    """
    names = ("exponent", "exponent_ci", "exponent_small", "exponent_small_ci", "power", "power_ci", "limit", "held_out")
    out: Row = dict.fromkeys((*names, "predicted_ms", "predicted_ms_ci", "measured_ms", "error_pct", "reason"))
    if len(xs) < FEWEST or xs[0] <= 0:
        return out | {"reason": f"a fit needs {FEWEST} points above 0"}
    tail, head = _end(xs, xs[-1] / END_X, xs[-1]), _end(xs, xs[0], xs[0] * END_X)
    out["exponent"], out["exponent_ci"] = _over_rounds([slope(xs[tail], t[tail]) for t in times])
    out["exponent_small"], out["exponent_small_ci"] = _over_rounds([slope(xs[head], t[head]) for t in times])
    out["power"], out["power_ci"] = limit_power(xs[tail], [t[tail] for t in times])
    found = laws_of(xs, summed or [([ONE, LINEAR, SQUARE], times)])
    out["limit"], out["held_out"] = limit(found), xs[-1]
    predicted, ci = _over_rounds([1e3 * law.at(xs[-1]) for law in found])
    measured = 1e3 * statistics.fmean(t[-1] for t in times)
    out |= {"predicted_ms": predicted, "predicted_ms_ci": ci, "measured_ms": measured}
    return out | {"error_pct": 100.0 * (predicted / measured - 1.0)}


def limit_power(xs: Sequence[int], times: Sequence[Sequence[float]]) -> tuple[float, list[float] | None]:
    """Return the exponent in the limit and its interval. times: per round the seconds at each x.

    Its variance is that over rounds, as of every number here, and that of what the law misses at these points, which
    all rounds share (`powers.power_misfit`). The second one has the noise of the rounds in it, too, so that the sum is
    a little wide and never narrow. From three points the second is not known, and there is no interval.
    """
    found = stats.two_way_mean([[power(xs, t)] for t in times])
    missed = power_misfit(xs, [math.exp(statistics.fmean(map(math.log, at))) for at in zip(*times, strict=True)])
    return found.value, None if missed is None else found.plus(*missed).interval(TAIL).ends


def laws_of(xs: Sequence[int], summed: Work) -> list[Growth]:
    """Return per round the sum of the laws of all parts, from all points but the largest."""
    found = [fit_laws(xs[:-1], [t[:-1] for t in times], work) for work, times in summed]
    return [total(one) for one in zip(*found, strict=True)]


def _end(xs: Sequence[int], low: float, high: float) -> slice:
    """Return the points of one end, those from `low` to `high`; three at least."""
    inside = [i for i, x in enumerate(xs) if low <= x <= high]
    if high == xs[-1]:
        return slice(min(inside[0], len(xs) - END_POINTS), len(xs))
    return slice(0, max(inside[-1] + 1, END_POINTS))


def limit(fits: Sequence[Growth]) -> int | None:
    """Return the highest power whose coefficient's lower bound over rounds is above zero; None from one round."""
    if len(fits) < 2:
        return None
    for highest in (2, 1):
        bounds = stats.two_way_mean([[found.coefficients[highest]] for found in fits]).bounds(TAIL)
        if bounds is not None and bounds[0] > 0:
            return highest
    return 0


def _over_rounds(values: Sequence[float]) -> tuple[float, list[float] | None]:
    found = stats.two_way_mean([[value] for value in values])
    return found.value, found.interval(TAIL).ends


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
