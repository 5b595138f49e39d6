"""From trials of causes to verdicts: what bounds a cell, predicted and measured. Pure functions of records.

A *headroom* is the step time over the step time with a cause removed. Causes are tried on two axes, *where* (a
component) and *why* (a resource), which cut the same time twice: they are never compared with each other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmbench import stats

Record = Mapping[str, Any]
Row = dict[str, Any]

THRESHOLD = 1.10  # a headroom up to this is not worth a change: the materiality threshold
LEVEL = 0.95
AXES = ("where", "why")

#: Verdicts that name no cause.
BALANCED, UNDECIDED, UNISOLATED = "balanced", "undecided", "unisolated"


NOT_SETTLED = "its lower bound is not above the threshold"


def bottlenecks(records: Iterable[Record]) -> list[Row]:
    """Return one row per cause of a cell, the measured ones first, by headroom; `records` are its good repeats.

    `measured_x` and `ci` come from all pairs; `low` is the bound that holds for all measured causes of the axis
    together (Bonferroni), `material` whether the cause exceeds the threshold by Holm's decision. `headroom_x` and
    `headroom_ci` are estimated on every second pair, and `rank_x` on the others: see `verdict`.
    """
    return bottlenecks_of([list(records)])[0]


def bottlenecks_of(cells: Sequence[Sequence[Record]]) -> list[list[Row]]:
    """Return `bottlenecks` of each cell, for less than one by one."""
    trials = [_by_cause(records) for records in cells]
    pairs = iter(_pairs([found for of_cell in trials for found in of_cell.values()]))
    known = [{cause: next(pairs) for cause in of_cell} for of_cell in trials]
    return [_rows(*one) for one in zip(cells, trials, known, strict=True)]


def _by_cause(records: Sequence[Record]) -> dict[str, list[Mapping[str, Any]]]:
    trials: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        for cause, trial in (record.get("interventions") or {}).items():
            trials.setdefault(cause, []).append(trial)
    return trials


def _rows(
    records: Sequence[Record],
    trials: Mapping[str, Sequence[Mapping[str, Any]]],
    pairs: Mapping[str, stats.Paired | None],
) -> list[Row]:
    cell_id = records[-1]["cell_id"] if records else None
    rows = [_row(cell_id, cause, found, pairs[cause]) for cause, found in trials.items()]
    for axis in AXES:
        measured = [row for row in rows if row["axis"] == axis and row["measured_x"] is not None]
        tried = [found for row in measured if (found := pairs[row["cause"]]) is not None]
        bounds = stats.simultaneous_paired(tried, LEVEL, threshold=THRESHOLD) if tried else []
        for row, bound in zip(measured, bounds, strict=True):
            row["low"], row["material"] = bound.low, bound.exceeds
    return sorted(rows, key=lambda row: (row["measured_x"] is None, -(row["measured_x"] or row["predicted_x"] or 0.0)))


def _row(cell_id: str | None, cause: str, trials: Sequence[Mapping[str, Any]], pairs: stats.Paired | None) -> Row:
    first = next((t for t in trials if t["outcome"] == "measured"), trials[0])
    predictions = [t["predicted_x"] for t in trials if t.get("predicted_x") is not None]
    row: Row = {
        "cell_id": cell_id,
        "cause": cause,
        "class": first["class"],
        "axis": first["axis"],
        "outcome": first["outcome"],
        "reason": first.get("reason"),
        "advice": first.get("advice"),
        "predicted_x": statistics.median(predictions) if predictions else None,
        **_NOT_MEASURED,
    }
    if pairs is None:
        return row
    whole, second = pairs.interval(LEVEL), pairs.every_second(1)
    row["measured_x"], row["ci"], row["ci_kind"], row["pairs"] = whole.value, whole.ends, whole.method, pairs.pairs
    ranked = pairs.every_second(0)
    row["rank_x"] = None if ranked is None else ranked.value
    if second is not None:
        estimate = second.interval(LEVEL)
        row["headroom_x"], row["headroom_ci"] = estimate.value, estimate.ends
    return row


#: What a row holds that only pairs of blocks tell.
_NOT_MEASURED: Row = {
    **dict.fromkeys(("measured_x", "ci", "ci_kind", "low", "rank_x", "headroom_x", "headroom_ci")),
    "material": False,
    "pairs": 0,
}


def _pairs(causes: Sequence[Sequence[Mapping[str, Any]]]) -> list[stats.Paired | None]:
    """Return the pairs of blocks with and without each cause, from its trials; None where it was not measured.

    An intervention may remove only a share of its cause; the ratio is that of removing all of it.
    """
    measured = [[trial for trial in trials if trial["outcome"] == "measured" and trial["clean_s"]] for trials in causes]
    given = [
        ([t["clean_s"] for t in some], [t["treated_s"] for t in some], [t.get("share") or 1.0 for t in some])
        for some in measured
        if some
    ]
    found = iter(stats.Paired.all(given))
    return [next(found) if some else None for some in measured]


def verdict(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the fields of the verdict: where, why, headline, its class, and the headroom of what it names.

    Per axis, of the causes that exceed the threshold (Holm's decision over all that were measured on it), the largest
    by one half of the pairs; its headroom is estimated on the other half, so that the winner's luck is not in it. None
    exceeds it: `undecided` where a cause that may be material was not settled, `unisolated` where the only such cause
    has no clean intervention or where no cause of the axis could even be predicted, else `balanced`. The headline is
    `where`, if it names a cause, else `why`; where neither does, the headroom is that of the largest cause that was
    measured, which `leading` names. Empty without trials.
    """
    if not rows:
        return {}
    found = {axis: _of_axis([row for row in rows if row["axis"] == axis]) for axis in AXES}
    names = {axis: cause["cause"] if isinstance(cause, dict) else cause for axis, (cause, _) in found.items()}
    notes = {axis: why for axis, (_, why) in found.items() if why}
    causes = [cause for cause, _ in found.values() if isinstance(cause, dict)]
    out: dict[str, Any] = {"verdict_where": names["where"], "verdict_why": names["why"], "verdict_notes": notes}
    if not causes:
        order = (UNDECIDED, UNISOLATED, BALANCED)
        headline = min(names.values(), key=order.index)
        out |= {"verdict": headline, "verdict_class": None, "advice": None}
        measured = [row for row in rows if row["measured_x"] is not None]
        leading = max(measured, key=lambda row: row["measured_x"], default=None)
        if leading is None:
            return out | dict.fromkeys((*_HEADROOM, "leading"))
        return out | {"leading": leading["cause"]} | _headroom(leading)
    head = causes[0]
    out |= {
        "verdict": head["cause"],
        "verdict_class": head["class"],
        "advice": head["advice"],
        "leading": head["cause"],
    }
    return out | _headroom(head)


def _headroom(row: Row) -> Row:
    """Return the headroom of a cause: estimated on the pairs that did not select it, on all where there are few."""
    whole = row["headroom_ci"] is None
    values = (row["measured_x"], row["ci"]) if whole else (row["headroom_x"], row["headroom_ci"])
    return dict(zip(_HEADROOM, (row["predicted_x"], *values), strict=True))


_HEADROOM = ("headroom_predicted_x", "headroom_measured_x", "headroom_ci")


def _of_axis(rows: Sequence[Row]) -> tuple[Row | str, str | None]:
    """Return the cause of one axis, or a verdict that names none, and why."""
    material = [row for row in rows if row["material"]]
    if material:
        return max(material, key=lambda row: row["rank_x"]), None
    open_ = [row for row in rows if row["measured_x"] is not None and row["measured_x"] >= THRESHOLD]
    open_ += [row for row in rows if row["outcome"] in ("out_of_time", "failed") and _may_be_large(row)]
    if open_:
        return UNDECIDED, "; ".join(
            f"{row['cause']}: {row['reason'] or 'its interval holds the threshold'}" for row in open_
        )
    hidden = [row for row in rows if row["outcome"] == "unisolated" and (row["predicted_x"] or 0.0) >= THRESHOLD]
    if hidden:
        return UNISOLATED, "; ".join(f"{row['cause']}: {row['reason']}" for row in hidden)
    seen = any(row["predicted_x"] is not None or row["measured_x"] is not None for row in rows)
    closed = [row for row in rows if row["outcome"] == "unisolated"]
    if closed and not seen:  # nothing was looked at: that is no sign of balance
        return UNISOLATED, "; ".join(dict.fromkeys(str(row["reason"]) for row in closed))
    return BALANCED, None


def _may_be_large(row: Row) -> bool:
    return row["predicted_x"] is None or row["predicted_x"] >= THRESHOLD


def interactions(records: Iterable[Record]) -> list[Row]:
    """Return what the two largest causes of a cell give together: measured, and the product of each alone."""
    found = []
    for record in records:
        together = record.get("together")
        if not together:
            continue
        trials = record["interventions"]
        alone = [_gain(trials[cause]) for cause in together["causes"]]
        estimate = stats.ratio_interval([together["clean_s"]], [together["treated_s"]], LEVEL, paired=True)
        row: Row = {"cell_id": record["cell_id"], "causes": list(together["causes"]), "measured_x": estimate.value}
        found.append(row | {"ci": estimate.ends, "product_x": math.prod(alone)})
    return found


def _gain(trial: Mapping[str, Any]) -> float:
    (pairs,) = _pairs([[trial]])
    return 1.0 if pairs is None else pairs.value


def prediction_errors(rows: Iterable[Row]) -> tuple[float, float, int] | None:
    """Return median and 90th percentile of |predicted / measured - 1| in percent, and the number of rows, or None."""
    errors = sorted(
        100.0 * abs(row["predicted_x"] / row["measured_x"] - 1)
        for row in rows
        if row["measured_x"] is not None and row["predicted_x"] is not None
    )
    if not errors:
        return None
    return statistics.median(errors), errors[math.ceil(0.9 * len(errors)) - 1], len(errors)
