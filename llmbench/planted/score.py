"""From case results to a confusion matrix and errors. Pure functions of the rows of `cases.jsonl`.

A *row* is one case: its plant, the seconds per step in bursts of planted and unplanted processes, and the findings of
`diagnose`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from llmbench import stats

if TYPE_CHECKING:
    from llmbench.contract.record import Ends, JsonObject

CONTROL = "control"
Headroom = Literal["measured_x", "predicted_x"]
NO_CAUSE = frozenset({"balanced", "undecided", "unisolated", None})


class Finding(TypedDict, total=False):
    """The verdict of `diagnose` on a case, and its numbers on the planted cause."""

    verdict: str | None
    verdict_where: str | None
    verdict_why: str | None
    verdict_notes: JsonObject | None
    predicted_x: float | None
    measured_x: float | None
    causes: dict[str, JsonObject]  # cause -> its bottleneck
    spent_s: dict[str, dict[str, float] | None]  # cause -> seconds of its trial


#: In this form, since `found` is the key of a file and no good name otherwise.
_Found = TypedDict("_Found", {"found": Finding}, total=False)  # noqa: UP013


class Row(_Found, total=False):
    """One case: a line of `cases.jsonl`. One that failed has `case`, `cause`, `axis` and `error` alone."""

    case: str
    host: str
    plant: str | None
    cause: str | None
    axis: str | None
    strength: float
    threads: int
    work: float  # of an unplanted step, in planted steps
    in_turns: bool  # whether the two sides took turns; older files have processes one after the other
    planted_s: list[list[float]]  # per round, per burst
    unplanted_s: list[list[float]]
    diagnose_s: float
    wall_s: float
    error: str


class ErrorRow(TypedDict, total=False):
    """Errors in percent of all cases of one cause; of all causes where `cause` is None."""

    cause: str | None
    cases: int
    right: int
    measured_pct: Ends | None  # median and 90th percentile
    measured_cases: int
    predicted_pct: Ends | None
    predicted_cases: int
    truth_x: Ends | None


#: In this form, since `failed` is the key of a file and no good name otherwise.
_Failed = TypedDict("_Failed", {"failed": list[str]}, total=False)  # noqa: UP013


class Summary(_Failed, total=False):
    """The score of all cases. `failed` are the names of cases without a row."""

    schema_version: int
    cases: int
    right: int
    controls: int
    controls_without_component: int
    confusion: dict[str, dict[str, int]]
    errors: list[ErrorRow]
    wrong: list[JsonObject]


def true_x(row: Row) -> stats.Estimate:
    """Return planted over unplanted step time per piece of work, with its range over rounds.

    Each round is a planted and an unplanted process that took turns in bursts. Its ratio is the median of the ratios of
    bursts next to each other, and the truth is the median of the rounds. So a disturbance of a second, or of one
    process, does not move it.
    """
    work = row.get("work") or 1.0
    rounds = zip(row["planted_s"], row["unplanted_s"], strict=True)
    ratios = [work * (_in_turns(*sides) if row.get("in_turns") else _one_by_one(*sides)) for sides in rounds]
    return stats.Estimate(statistics.median(ratios), min(ratios), max(ratios), "rounds")


def _in_turns(planted_s: Sequence[float], unplanted_s: Sequence[float]) -> float:
    return statistics.median(p / u for p, u in zip(planted_s, unplanted_s, strict=True))


def _one_by_one(planted_s: Sequence[float], unplanted_s: Sequence[float]) -> float:
    """Return the ratio of two processes that ran one after the other, as rows of older files have them."""
    return statistics.median(planted_s) / statistics.median(unplanted_s)


def is_right(row: Row) -> bool:
    """Return whether the verdict is right.

    Of a control: it names no component (axis `where`). Of a planted component: the component is the headline. Of a
    planted resource: the resource is named, and is the headline unless a component is material, too.
    """
    if row["cause"] is None:
        return row["found"].get("verdict_where") in NO_CAUSE
    return verdict_of(row) == row["cause"]


def verdict_of(row: Row) -> str:
    """Return the verdict on the axis of the planted cause; of a control, on the axis of components."""
    if row["axis"] == "why":
        return row["found"].get("verdict_why") or "none"
    return row["found"].get("verdict_where") or "none"


def confusion(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Return planted cause (`control` without one) -> verdict on its axis -> number of cases."""
    table: dict[str, dict[str, int]] = {}
    for row in rows:
        of_cause, verdict = table.setdefault(row["cause"] or CONTROL, {}), verdict_of(row)
        of_cause[verdict] = of_cause.get(verdict, 0) + 1
    return table


def errors(rows: Iterable[Row]) -> list[ErrorRow]:
    """Return per cause, and for all (`cause` None), the errors in percent of the measured and predicted headrooms.

    `measured_pct` and `predicted_pct` are [median, 90th percentile] of |x / truth - 1|, None without any.
    """
    planted = [row for row in rows if row["cause"] is not None]
    names = sorted({row["cause"] for row in planted if row["cause"] is not None})
    return [_errors(name, [r for r in planted if name in (None, r["cause"])]) for name in (*names, None)]


def _errors(name: str | None, rows: Sequence[Row]) -> ErrorRow:
    measured, predicted = _errors_pct(rows, "measured_x"), _errors_pct(rows, "predicted_x")
    truth = [true_x(row).value for row in rows]
    return {
        "cause": name,
        "cases": len(rows),
        "right": sum(map(is_right, rows)),
        "measured_pct": _median_and_90(measured),
        "measured_cases": len(measured),
        "predicted_pct": _median_and_90(predicted),
        "predicted_cases": len(predicted),
        "truth_x": [min(truth), max(truth)] if truth else None,
    }


def _errors_pct(rows: Sequence[Row], key: Headroom) -> list[float]:
    return [error for row in rows if (error := error_pct(row, key)) is not None]


def _median_and_90(values: Sequence[float]) -> Ends | None:
    return [statistics.median(values), percentile(values, 0.9)] if values else None


def error_pct(row: Row, key: Headroom) -> float | None:
    """Return |headroom / true - 1| in percent, None without a headroom."""
    value = row["found"].get(key)
    return None if value is None else 100.0 * abs(value / true_x(row).value - 1)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarize(rows: Sequence[Row]) -> Summary:
    """Return the score as one JSON document."""
    planted = [row for row in rows if row["cause"] is not None]
    controls = [row for row in rows if row["cause"] is None]
    return {
        "schema_version": 1,
        "cases": len(planted),
        "right": sum(map(is_right, planted)),
        "controls": len(controls),
        "controls_without_component": sum(map(is_right, controls)),
        "confusion": confusion(rows),
        "errors": errors(rows),
        "wrong": [
            {"case": r["case"], "cause": r["cause"], "true_x": true_x(r).value, "found": r["found"]}
            for r in rows
            if not is_right(r)
        ],
    }


# --- tables ---------------------------------------------------------------------------------------------


def markdown(summary: Summary) -> str:
    """Return the tables of a summary."""
    controls = (summary["controls_without_component"], summary["controls"])
    shares = [
        _share("Verdicts right", summary["right"], summary["cases"]),
        _share("controls without a material component", *controls),
    ]
    return "\n\n".join(["; ".join(shares) + ".", _matrix(summary["confusion"]), _table(summary["errors"])]) + "\n"


def _share(what: str, count: int, of: int) -> str:
    return f"{what}: {count} of {of}" + (f" ({100 * count / of:.0f} %)" if of else "")


def _matrix(table: Mapping[str, Mapping[str, int]]) -> str:
    columns = sorted({name for verdicts in table.values() for name in verdicts}, key=lambda n: (n in NO_CAUSE, n))
    lines = ["| planted \\ named | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in sorted(table, key=lambda n: (n == CONTROL, n)):
        lines.append(f"| {name} | " + " | ".join(str(table[name].get(c, "")) for c in columns) + " |")
    return "\n".join(lines)


def _table(rows: Sequence[ErrorRow]) -> str:
    lines = [
        "| planted | cases | right | true x | measured: median, 90 % | predicted: median, 90 % |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        off = [f"{e[0]:.1f} %, {e[1]:.1f} %" if e else "-" for e in (row["measured_pct"], row["predicted_pct"])]
        truth = f"{row['truth_x'][0]:.2f} - {row['truth_x'][1]:.2f}" if row["truth_x"] else "-"
        cells = [row["cause"] or "**all**", str(row["cases"]), str(row["right"]), truth, *off]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
