"""How cost grows along an axis: exponents, predictions of larger points, and where what bounds a cell changes. Pure.

A *curve* is a set of cells that are alike in all but one axis: a field (`seq_len`, `batch_size`, `workers`) or a key of
the size's configuration (`hidden`, `layers`). The step grows along it, and each class of operators within the step. The
unit of replication is the process: a law is fitted for each round (repeat r of all cells of a curve), and the interval
is Student's over rounds. The law of a part follows from its counted work (`llmbench.analysis.studies.operator_laws`),
the law of the step is their sum.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np

from llmbench import stats
from llmbench.analysis import attribution
from llmbench.analysis.studies.alike import DERIVED, fields_of, group, settings_of
from llmbench.analysis.studies.operator_laws import fit_laws, work_of
from llmbench.contract.cell import DEFAULTS
from llmbench.records import attempts
from llmbench.stats.growth import LINEAR, ONE, SQUARE, Growth, power, power_misfit, slope, total

if TYPE_CHECKING:
    from llmbench.contract.record import CellFields, Ends, Record, ScalingChange, ScalingRow

Rounds = Sequence[Sequence[float]]  # per round the seconds at each x
Work = Sequence[tuple[Sequence[Growth], Rounds]]  # of each part of a step: its counted work, its times

#: Fields that may be an axis.
FIELDS = ("seq_len", "batch_size", "workers", "vocab_size", "target_len", "world_size")
FEWEST = 4  # points of a curve that is fitted: three and one that is held out
END_X = 4  # an end of a curve: the points within two doublings of its last one
END_POINTS = 3  # at least, of an end
LEAST_SHARE = 0.05  # of the step: a class of operators with less has no row
LEVEL = 0.95  # of intervals over rounds
TAIL = (1 - LEVEL) / 2  # outside of an interval, at each end
STEP = "step"  # the part that is the whole step
REST = "rest"  # the part that no class of operators with a row makes


@dataclass(frozen=True)
class Curve:
    """Cells along one axis: x -> the good records of each cell, by repeat."""

    axis: str
    cell: CellFields  # of the smallest point
    points: Mapping[int, Mapping[int, Record]]

    @property
    def xs(self) -> list[int]:
        """The values of the axis, in order."""
        return sorted(self.points)

    @property
    def rounds(self) -> list[int]:
        """The repeats that every point has."""
        return sorted(set.intersection(*(set(repeats) for repeats in self.points.values())))


def scaling_rows(records: Iterable[Record]) -> list[ScalingRow]:
    """Return one row per curve and part of the step (`step`, and each class of operator that matters)."""
    return [row for curve in curves(records) for row in rows(curve)]


def curves(records: Iterable[Record]) -> list[Curve]:
    """Return the curves in `records`, in the order of axes; those with fewer than 3 points are none."""
    recorded = list(attempts.by_cell(records).values())
    if not _axes([first["cell"] for first, *_ in recorded]):
        return []
    usable = [_usable(attempts.latest_attempts(cell)) for cell in recorded]
    cells = [cell for cell in usable if cell]
    axes = _axes([_fields(cell) for cell in cells])
    along = [curve for axis in axes for curve in _along(axis, cells)]
    return [one.curve for one in sorted(along, key=attrgetter("place"))]


def _axes(cells: Sequence[CellFields]) -> list[str]:
    """Return the axes along which there are more than 2 points at all: of many cells, mostly none."""
    values: dict[str, set[object]] = {}
    for size in dict.fromkeys(cell["size"] for cell in cells):
        for axis, x in settings_of(size).items():
            values.setdefault(axis, set()).add(x)
    for axis in FIELDS:
        default = DEFAULTS[axis]
        values[axis] = {cell.get(axis, default) for cell in cells}
    return [axis for axis, xs in values.items() if len({x for x in xs if isinstance(x, int)}) > 2]


class _PlacedCell(NamedTuple):
    """The records of a cell by repeat, and where it is on an axis."""

    place: tuple[int, int]  # of the cell among all, of the axis among its fields
    x: int
    records: Mapping[int, Record]


class _PlacedCurve(NamedTuple):
    """A curve, and the place of its first cell."""

    place: tuple[int, int]
    curve: Curve


def _along(axis: str, cells: Sequence[Mapping[int, Record]]) -> list[_PlacedCurve]:
    """Return the curves of one axis with more than 2 points."""
    placed = []
    for number, records in enumerate(cells):
        fields = fields_of(_fields(records))
        x = fields.get(axis)
        if isinstance(x, int):
            placed.append(_PlacedCell((number, list(fields).index(axis)), x, records))
    along = []
    for members in group(placed, lambda one: _fields(one.records), (*DERIVED, axis)).values():
        points = {one.x: one.records for one in members}
        if len(points) > 2:
            curve = Curve(axis.removeprefix("size."), _fields(points[min(points)]), points)
            along.append(_PlacedCurve(members[0].place, curve))
    return along


def _fields(cell: Mapping[int, Record]) -> CellFields:
    """Return the fields of a cell from its records by repeat."""
    return next(iter(cell.values()))["cell"]


def _usable(records: Mapping[int, Record]) -> dict[int, Record]:
    """Return the good records of a cell, numbered anew; those that others disturbed only where there are no others."""
    good = [r for r in records.values() if r["status"] == "ok" and r["samples"].get("step_s")]
    return dict(enumerate(attempts.prefer_undisturbed(good, 1)))


def rows(curve: Curve) -> list[ScalingRow]:
    """Return the rows of a curve: its step first, then the parts that matter."""
    cell, times, places = curve.cell, parts(curve), changes(curve)
    works = {name: work_of(name, curve.xs[:-1], _firsts(curve)[:-1]) for name in times if name != STEP}
    out: list[ScalingRow] = []
    for part, seconds in times.items():
        if part == REST:
            continue
        names = [name for name in works if part in (STEP, name)]
        summands: Work = [(works[name], times[name]) for name in names] or [([ONE, LINEAR, SQUARE], seconds)]
        out.append(
            {
                "model": cell["model"],
                "size": cell["size"],
                "task": cell["task"],
                "stage": cell["stage"],
                "device": cell["device"],
                "precision": cell["precision"],
                "axis": curve.axis,
                "part": part,
                "points": curve.xs,
                "rounds": len(seconds),
                "ms": [1e3 * statistics.fmean(values) for values in zip(*seconds, strict=True)],
                **growth(curve.xs, seconds, summands),
                "changes": places if part == STEP else [],
            }
        )
    return out


def parts(curve: Curve) -> dict[str, Rounds]:
    """Return part of the step -> per round the seconds at each x.

    The parts are `step`; each class of operators that makes 5 % of the largest point but one (the largest is predicted
    and takes no part) and is seen everywhere in every round; and `rest`, the rest of the step. Without a trace: `step`.
    """
    rounds, xs = curve.rounds, curve.xs
    whole = [[step_s(curve.points[x][r]) for x in xs] for r in rounds]
    shares = [[class_shares(curve.points[x][r]) or {} for x in xs] for r in rounds]
    names = sorted({n for in_round in shares for n, share in in_round[-2].items() if share >= LEAST_SHARE})
    names = [n for n in names if all(at.get(n, 0.0) > 0 for in_round in shares for at in in_round)]
    out: dict[str, Rounds] = {STEP: whole}
    for name in names:
        out[name] = [[at[name] * s for at, s in zip(*pair, strict=True)] for pair in zip(shares, whole, strict=True)]
    if names:
        sums = [[sum(out[n][i][j] for n in names) for j in range(len(xs))] for i in range(len(rounds))]
        rest = [[s - t for s, t in zip(*pair, strict=True)] for pair in zip(whole, sums, strict=True)]
        if all(value > 0 for in_round in rest for value in in_round):
            out[REST] = rest
    return out


def _firsts(curve: Curve) -> list[Record]:
    """Return one record of each point; its counts stand for those of all."""
    return [next(iter(curve.points[x].values())) for x in curve.xs]


def step_s(record: Record) -> float:
    """Return the median seconds of a clean step."""
    return statistics.median(record["samples"]["step_s"])


def class_shares(record: Record) -> dict[str, float] | None:
    """Return operator class -> share of the step of one process; None without a trace with times.

    The classes share each phase as the profiler saw them, and the phases share the step as the phase pass did.
    """
    trace = record.get("operators") or {}
    phases = {name.removesuffix("_s"): statistics.fmean(v) for name, v in (record.get("phases") or {}).items() if v}
    whole, in_trace, times = sum(phases.values()), trace.get("phases_s") or {}, trace.get("times")
    if not times or not whole:
        return None
    shares: dict[str, float] = {}
    for row in times:
        if in_trace.get(row["phase"]) and row["phase"] in phases:
            share = row["seconds"] / in_trace[row["phase"]] * phases[row["phase"]] / whole
            shares[row["operator_class"]] = shares.get(row["operator_class"], 0.0) + share
    with_operators = {row["phase"] for row in times}
    shares["input"] = sum(mean for phase, mean in phases.items() if phase not in with_operators) / whole
    return shares


# --- growth ---------------------------------------------------------------------------------------------


class GrowthFields(TypedDict):
    """The growth of one part of a step along a curve."""

    exponent: float | None  # slope of log t over log x of the largest points, which no law restricts
    exponent_ci: Ends | None
    exponent_small: float | None  # the same of the smallest points
    exponent_small_ci: Ends | None
    power: float | None  # the exponent in the limit, beyond the largest points: see `limit_power`
    power_ci: Ends | None
    limit: int | None  # the highest power whose coefficient is above zero, with confidence over rounds
    held_out: int | None  # the largest point, which is predicted from the others
    predicted_ms: float | None
    predicted_ms_ci: Ends | None
    measured_ms: float | None
    error_pct: float | None
    reason: str | None


def growth(xs: Sequence[int], times: Rounds, summands: Work | None = None) -> GrowthFields:
    """Return exponents with intervals, the limit, and the prediction of the held-out largest point.

    summands: the parts that add up to `times`, each with its work and its own times; by default `times` themselves,
    with the law a + b x + c x^2.
    """
    out: GrowthFields = {
        "exponent": None,
        "exponent_ci": None,
        "exponent_small": None,
        "exponent_small_ci": None,
        "power": None,
        "power_ci": None,
        "limit": None,
        "held_out": None,
        "predicted_ms": None,
        "predicted_ms_ci": None,
        "measured_ms": None,
        "error_pct": None,
        "reason": None,
    }
    if len(xs) < FEWEST or xs[0] <= 0:
        return {**out, "reason": f"a fit needs {FEWEST} points above 0"}
    tail, head = _end(xs, xs[-1] / END_X, xs[-1]), _end(xs, xs[0], xs[0] * END_X)
    out["exponent"], out["exponent_ci"] = _over_rounds([slope(xs[tail], t[tail]) for t in times])
    out["exponent_small"], out["exponent_small_ci"] = _over_rounds([slope(xs[head], t[head]) for t in times])
    out["power"], out["power_ci"] = limit_power(xs[tail], [t[tail] for t in times])
    laws = laws_of(xs, summands or [([ONE, LINEAR, SQUARE], times)])
    out["limit"], out["held_out"] = limit(laws), xs[-1]
    predicted, ci = _over_rounds([1e3 * law.at(xs[-1]) for law in laws])
    measured = 1e3 * statistics.fmean(t[-1] for t in times)
    out["predicted_ms"], out["predicted_ms_ci"], out["measured_ms"] = predicted, ci, measured
    out["error_pct"] = 100.0 * (predicted / measured - 1.0)
    return out


def limit_power(xs: Sequence[int], times: Rounds) -> tuple[float, Ends | None]:
    """Return the exponent in the limit and its interval.

    Its variance is the variance over rounds, as of every number here, plus that of the deviations of these points from
    the law, which are the same in all rounds (`llmbench.stats.growth.power_misfit`). The second one has the noise of
    the rounds in it, too, so that the sum is a little wide and never narrow. From three points the second is not known,
    and there is no interval.
    """
    mean = stats.two_way_mean([[power(xs, t)] for t in times])
    misfit = power_misfit(xs, [math.exp(statistics.fmean(map(math.log, at))) for at in zip(*times, strict=True)])
    return mean.value, None if misfit is None else mean.plus(*misfit).interval(TAIL).ends


def laws_of(xs: Sequence[int], summands: Work) -> list[Growth]:
    """Return per round the sum of the laws of all parts, from all points but the largest."""
    laws = [fit_laws(xs[:-1], [t[:-1] for t in times], work) for work, times in summands]
    return [total(in_round) for in_round in zip(*laws, strict=True)]


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
        bounds = stats.two_way_mean([[law.coefficients[highest]] for law in fits]).bounds(TAIL)
        if bounds is not None and bounds[0] > 0:
            return highest
    return 0


def _over_rounds(values: Sequence[float]) -> tuple[float, Ends | None]:
    """Return the mean over rounds and its interval."""
    mean = stats.two_way_mean([[value] for value in values])
    return mean.value, mean.interval(TAIL).ends


# --- changes of the bottleneck along a curve ------------------------------------------------------------


def changes(curve: Curve) -> list[ScalingChange]:
    """Return the places along a curve where the verdict, or the class of operators with most time, changes.

    `at` is the x at which the times of the two classes cross, by the powers between both points; None for a verdict.
    """
    xs = curve.xs
    verdicts = [_verdict(curve.points[x]) for x in xs]
    out: list[ScalingChange] = []
    for i, (a, b) in enumerate(zip(verdicts, verdicts[1:], strict=False)):
        if a is not None and b is not None and a != b:
            out.append({"kind": "verdict", "from": a, "to": b, "between": [xs[i], xs[i + 1]], "at": None})
    seconds = [_class_seconds(curve.points[x]) for x in xs]
    for i, (before, after) in enumerate(zip(seconds, seconds[1:], strict=False)):
        if before and after:
            a, b = max(before, key=before.__getitem__), max(after, key=after.__getitem__)
            if a != b:
                ends = [xs[i], xs[i + 1]]
                gaps = [_log_ratio(by_class, b, a) for by_class in (before, after)]
                out.append({"kind": "operators", "from": a, "to": b, "between": ends, "at": _crossing(ends, gaps)})
    return out


def _verdict(records: Mapping[int, Record]) -> str | None:
    return attribution.verdict(attribution.bottlenecks(records.values())).get("verdict")


def _class_seconds(records: Mapping[int, Record]) -> dict[str, float]:
    """Return operator class -> mean seconds over the processes that were traced."""
    traced = [(shares, step_s(r)) for r in records.values() if (shares := class_shares(r))]
    names = {name for shares, _ in traced for name in shares}
    return {name: statistics.fmean(shares.get(name, 0.0) * s for shares, s in traced) for name in names}


def _log_ratio(seconds: Mapping[str, float], over: str, under: str) -> float:
    a, b = seconds.get(over, 0.0), seconds.get(under, 0.0)
    return math.log(a / b) if a > 0 and b > 0 else math.nan


def _crossing(ends: Sequence[int], gaps: Sequence[float]) -> float | None:
    """Return the x at which the log of a ratio is zero, linear in log x between both ends."""
    if not all(map(math.isfinite, gaps)) or min(ends) <= 0 or gaps[0] == gaps[1]:
        return None
    share = -gaps[0] / (gaps[1] - gaps[0])
    return float(np.exp(np.log(ends[0]) + share * np.log(ends[1] / ends[0])))
