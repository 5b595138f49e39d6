"""From case results to a confusion matrix and errors. Pure functions of the rows of `cases.jsonl`.

A *row* is one case: what was planted, the seconds per step in bursts of planted and unplanted processes, and what was
found.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmbench import stats

Row = Mapping[str, Any]
CONTROL = "control"
NO_CAUSE = frozenset({"balanced", "undecided", "unisolated", None})


def true_x(row: Row) -> stats.Estimate:
    """Return planted over unplanted step time per piece of work, with the range that it has over rounds.

    Each round is a planted and an unplanted process that took turns in bursts, and its ratio is the median of those of
    bursts next to each other; the truth is the median of the rounds: what disturbs the machine for a second, or one
    process, does not move it.
    """
    work = row.get("work") or 1.0
    rounds = zip(row["planted_s"], row["unplanted_s"], strict=True)
    found = [work * (_in_turns(*sides) if row.get("in_turns") else _one_by_one(*sides)) for sides in rounds]
    return stats.Estimate(statistics.median(found), min(found), max(found), "rounds")


def _in_turns(planted_s: Sequence[float], unplanted_s: Sequence[float]) -> float:
    return statistics.median(p / u for p, u in zip(planted_s, unplanted_s, strict=True))


def _one_by_one(planted_s: Sequence[float], unplanted_s: Sequence[float]) -> float:
    """Return the ratio of two processes that ran one after the other, as rows of older files have them."""
    return statistics.median(planted_s) / statistics.median(unplanted_s)


def right(row: Row) -> bool:
    """Return whether the verdict is right.

    Of a control: no component (axis `where`) is named. Of a component that is planted: it is the headline. Of a
    resource: it is the resource that is named, and the headline, unless a component is material too.
    """
    found = row["found"]
    if row["cause"] is None:
        return found.get("verdict_where") in NO_CAUSE
    return named(row) == row["cause"]


def named(row: Row) -> str:
    """Return what is named on the axis on which something was planted; of a control, on the axis of components."""
    found = row["found"]
    if row["axis"] == "why":
        return found.get("verdict_why") or "none"
    return found.get("verdict_where") or "none"


def confusion(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Return planted cause (`control` without one) -> what was named on its axis -> number of cases."""
    table: dict[str, dict[str, int]] = {}
    for row in rows:
        of_cause = table.setdefault(row["cause"] or CONTROL, {})
        of_cause[named(row)] = of_cause.get(named(row), 0) + 1
    return table


def errors(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return per cause, and for all (`cause` None), the errors in percent of what was measured and predicted.

    `measured_pct` and `predicted_pct` are [median, 90th percentile] of |x / truth - 1|, None without any.
    """
    planted = [row for row in rows if row["cause"] is not None]
    names = sorted({row["cause"] for row in planted})
    return [_errors(name, [r for r in planted if name in (None, r["cause"])]) for name in (*names, None)]


def _errors(name: str | None, rows: Sequence[Row]) -> dict[str, Any]:
    out: dict[str, Any] = {"cause": name, "cases": len(rows), "right": sum(map(right, rows))}
    for key in ("measured", "predicted"):
        off = [error for row in rows if (error := error_pct(row, f"{key}_x")) is not None]
        out[f"{key}_pct"] = [statistics.median(off), percentile(off, 0.9)] if off else None
        out[f"{key}_cases"] = len(off)
    truth = [true_x(row).value for row in rows]
    out["truth_x"] = [min(truth), max(truth)] if truth else None
    return out


def error_pct(row: Row, key: str) -> float | None:
    """Return |found / true - 1| in percent, None where nothing was found."""
    value = row["found"].get(key)
    return None if value is None else 100.0 * abs(value / true_x(row).value - 1)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the score: all of it as one JSON document."""
    planted = [row for row in rows if row["cause"] is not None]
    controls = [row for row in rows if row["cause"] is None]
    return {
        "schema_version": 1,
        "cases": len(planted),
        "right": sum(map(right, planted)),
        "controls": len(controls),
        "controls_without_component": sum(map(right, controls)),
        "confusion": confusion(rows),
        "errors": errors(rows),
        "wrong": [
            {"case": r["case"], "cause": r["cause"], "true_x": true_x(r).value, "found": r["found"]}
            for r in rows
            if not right(r)
        ],
    }


# --- tables ---------------------------------------------------------------------------------------------


def markdown(found: Mapping[str, Any]) -> str:
    """Return the tables of a summary."""
    lines = [_share("Verdicts right", found["right"], found["cases"])]
    lines += [_share("controls without a material component", found["controls_without_component"], found["controls"])]
    return "\n\n".join(["; ".join(lines) + ".", _matrix(found["confusion"]), _table(found["errors"])]) + "\n"


def _share(what: str, count: int, of: int) -> str:
    return f"{what}: {count} of {of}" + (f" ({100 * count / of:.0f} %)" if of else "")


def _matrix(table: Mapping[str, Mapping[str, int]]) -> str:
    columns = sorted({name for found in table.values() for name in found}, key=lambda n: (n in NO_CAUSE, n))
    lines = ["| planted \\ named | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in sorted(table, key=lambda n: (n == CONTROL, n)):
        lines.append(f"| {name} | " + " | ".join(str(table[name].get(c, "")) for c in columns) + " |")
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| planted | cases | right | true x | measured: median, 90 % | predicted: median, 90 % |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        off = [f"{r[0]:.1f} %, {r[1]:.1f} %" if (r := row[f"{key}_pct"]) else "-" for key in ("measured", "predicted")]
        truth = f"{row['truth_x'][0]:.2f} - {row['truth_x'][1]:.2f}" if row["truth_x"] else "-"
        cells = [row["cause"] or "**all**", str(row["cases"]), str(row["right"]), truth, *off]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
