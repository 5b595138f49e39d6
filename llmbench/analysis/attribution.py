"""From trials of causes to verdicts: what bounds a cell, predicted and measured. Pure functions of records.

A *headroom* is the step time over the step time with a cause removed. Causes are tried on two axes, *where* (a
component) and *why* (a resource), which cut the same time twice: they are never compared with each other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from llmbench import stats

if TYPE_CHECKING:
    from llmbench.contract.record import BottleneckRow, InteractionRow, Intervention, Record, VerdictFields

THRESHOLD = 1.10  # materiality: a headroom up to this is not worth a change
LEVEL = 0.95
AXES = ("where", "why")

#: Verdicts that name no cause.
BALANCED, UNDECIDED, UNISOLATED = "balanced", "undecided", "unisolated"


def bottlenecks(records: Iterable[Record]) -> list[BottleneckRow]:
    """Return one row per cause of a cell, the measured ones first, by headroom; `records` are its good repeats.

    `measured_x` and `ci` come from all pairs; `low` is the bound that holds for all measured causes of the axis
    together (Bonferroni), `material` whether the cause exceeds the threshold by Holm's decision. `headroom_x` and
    `headroom_ci` are estimated on every second pair, and `rank_x` on the others: see `verdict`.
    """
    return bottlenecks_of([list(records)])[0]


def bottlenecks_of(cells: Sequence[Sequence[Record]]) -> list[list[BottleneckRow]]:
    """Return `bottlenecks` of each cell, faster than one by one."""
    trials = [_by_cause(records) for records in cells]
    pairs = iter(_pairs([repeats for of_cell in trials for repeats in of_cell.values()]))
    by_cause = [{cause: next(pairs) for cause in of_cell} for of_cell in trials]
    return [_rows(*cell) for cell in zip(cells, trials, by_cause, strict=True)]


def _by_cause(records: Sequence[Record]) -> dict[str, list[Intervention]]:
    """Return cause -> its trials, one per repeat that has some."""
    trials: dict[str, list[Intervention]] = {}
    for record in records:
        for cause, trial in (record.get("interventions") or {}).items():
            trials.setdefault(cause, []).append(trial)
    return trials


def _rows(
    records: Sequence[Record],
    trials: Mapping[str, Sequence[Intervention]],
    pairs: Mapping[str, stats.Paired | None],
) -> list[BottleneckRow]:
    cell_id = records[-1]["cell_id"] if records else None
    rows = [_row(cell_id, cause, repeats, pairs[cause]) for cause, repeats in trials.items()]
    for axis in AXES:
        measured = [row for row in rows if row["axis"] == axis and row["measured_x"] is not None]
        own_pairs = [own for row in measured if (own := pairs[row["cause"]]) is not None]
        bounds = stats.simultaneous_paired(own_pairs, LEVEL, threshold=THRESHOLD) if own_pairs else []
        for row, bound in zip(measured, bounds, strict=True):
            row["low"], row["material"] = bound.low, bound.exceeds
    return sorted(rows, key=lambda row: (row["measured_x"] is None, -(row["measured_x"] or row["predicted_x"] or 0.0)))


def _row(cell_id: str | None, cause: str, trials: Sequence[Intervention], pairs: stats.Paired | None) -> BottleneckRow:
    first = next((t for t in trials if t["outcome"] == "measured"), trials[0])
    predictions = [predicted for t in trials if (predicted := t.get("predicted_x")) is not None]
    row: BottleneckRow = {
        "cell_id": cell_id,
        "cause": cause,
        "class": first["class"],
        "axis": first["axis"],
        "outcome": first["outcome"],
        "reason": first.get("reason"),
        "advice": first.get("advice"),
        "predicted_x": statistics.median(predictions) if predictions else None,
        "measured_x": None,
        "ci": None,
        "ci_kind": None,
        "low": None,
        "rank_x": None,
        "headroom_x": None,
        "headroom_ci": None,
        "material": False,
        "pairs": 0,
    }
    if pairs is None:
        return row
    whole, rank_half, headroom_half = pairs.interval(LEVEL), pairs.every_second(0), pairs.every_second(1)
    row["measured_x"], row["ci"], row["ci_kind"], row["pairs"] = whole.value, whole.ends, whole.method, pairs.pairs
    row["rank_x"] = None if rank_half is None else rank_half.value
    if headroom_half is not None:
        headroom = headroom_half.interval(LEVEL)
        row["headroom_x"], row["headroom_ci"] = headroom.value, headroom.ends
    return row


def _pairs(causes: Sequence[Sequence[Intervention]]) -> list[stats.Paired | None]:
    """Return the pairs of blocks with and without each cause, from its trials; None where it was not measured.

    An intervention may remove only a share of its cause; the ratio is that of removing all of it.
    """
    measured = [[trial for trial in trials if trial["outcome"] == "measured" and trial["clean_s"]] for trials in causes]
    sides = [
        ([t["clean_s"] for t in trials], [t["treated_s"] for t in trials], [t.get("share") or 1.0 for t in trials])
        for trials in measured
        if trials
    ]
    pairs = iter(stats.Paired.all(sides))
    return [next(pairs) if trials else None for trials in measured]


def verdict(rows: Sequence[BottleneckRow]) -> VerdictFields:
    """Return the fields of the verdict: where, why, headline, its class, and the headroom of the cause that it names.

    Per axis, of the causes that exceed the threshold (Holm's decision over all that were measured on it), the largest
    by one half of the pairs; its headroom is estimated on the other half, so that the winner's luck is not in it. None
    exceeds it: `undecided` where a cause that may be material was not settled, `unisolated` where the only such cause
    has no clean intervention or where no cause of the axis could even be predicted, else `balanced`. The headline is
    `where`, if it names a cause, else `why`; where neither does, the headroom is that of the largest cause that was
    measured, which `leading` names. Empty without trials.
    """
    if not rows:
        return {}
    axes = {axis: _axis_verdict([row for row in rows if row["axis"] == axis]) for axis in AXES}
    fields: VerdictFields = {
        "verdict_where": axes["where"].name,
        "verdict_why": axes["why"].name,
        "verdict_notes": {axis: one.note for axis, one in axes.items() if one.note},
    }
    causes = [one.cause for one in axes.values() if one.cause is not None]
    if not causes:
        order = (UNDECIDED, UNISOLATED, BALANCED)
        headline = min((one.name for one in axes.values()), key=order.index)
        fields |= {"verdict": headline, "verdict_class": None, "advice": None}
        measured = [(row["measured_x"], row) for row in rows if row["measured_x"] is not None]
        if not measured:
            nothing: VerdictFields = {"headroom_predicted_x": None, "headroom_measured_x": None, "headroom_ci": None}
            return fields | nothing | {"leading": None}
        _, leading = max(measured, key=lambda pair: pair[0])
        return fields | {"leading": leading["cause"]} | _headroom(leading)
    head = causes[0]
    fields |= {
        "verdict": head["cause"],
        "verdict_class": head["class"],
        "advice": head["advice"],
        "leading": head["cause"],
    }
    return fields | _headroom(head)


def _headroom(row: BottleneckRow) -> VerdictFields:
    """Return the headroom of a cause: from the pairs that did not select it, from all pairs where there are few."""
    from_all = row["headroom_ci"] is None
    return {
        "headroom_predicted_x": row["predicted_x"],
        "headroom_measured_x": row["measured_x"] if from_all else row["headroom_x"],
        "headroom_ci": row["ci"] if from_all else row["headroom_ci"],
    }


class _AxisVerdict(NamedTuple):
    """The verdict of one axis."""

    name: str  # a cause, or a verdict that names none
    cause: BottleneckRow | None = None
    note: str | None = None  # why no cause is named


def _axis_verdict(rows: Sequence[BottleneckRow]) -> _AxisVerdict:
    material = [row for row in rows if row["material"]]
    if material:
        largest = max(material, key=lambda row: row["rank_x"] or 0.0)
        return _AxisVerdict(largest["cause"], largest)
    open_ = [row for row in rows if (row["measured_x"] or 0.0) >= THRESHOLD]
    open_ += [row for row in rows if row["outcome"] in ("out_of_time", "failed") and _may_be_large(row)]
    if open_:
        reasons = [f"{row['cause']}: {row['reason'] or 'its interval holds the threshold'}" for row in open_]
        return _AxisVerdict(UNDECIDED, note="; ".join(reasons))
    unisolated = [row for row in rows if row["outcome"] == "unisolated"]
    large = [row for row in unisolated if (row["predicted_x"] or 0.0) >= THRESHOLD]
    if large:
        return _AxisVerdict(UNISOLATED, note="; ".join(f"{row['cause']}: {row['reason']}" for row in large))
    anything = any(row["predicted_x"] is not None or row["measured_x"] is not None for row in rows)
    if unisolated and not anything:  # nothing was looked at: that is no sign of balance
        return _AxisVerdict(UNISOLATED, note="; ".join(dict.fromkeys(str(row["reason"]) for row in unisolated)))
    return _AxisVerdict(BALANCED)


def _may_be_large(row: BottleneckRow) -> bool:
    return row["predicted_x"] is None or row["predicted_x"] >= THRESHOLD


def interactions(records: Iterable[Record]) -> list[InteractionRow]:
    """Return the gain of removing the two largest causes of a cell at once, and the product of their own gains."""
    rows: list[InteractionRow] = []
    for record in records:
        together = record.get("together")
        if not together:
            continue
        gains = [_gain(record["interventions"][cause]) for cause in together["causes"]]
        estimate = stats.ratio_interval([together["clean_s"]], [together["treated_s"]], LEVEL, paired=True)
        rows.append(
            {
                "cell_id": record["cell_id"],
                "causes": list(together["causes"]),
                "measured_x": estimate.value,
                "ci": estimate.ends,
                "product_x": math.prod(gains),
            }
        )
    return rows


def _gain(trial: Intervention) -> float:
    (pairs,) = _pairs([[trial]])
    return 1.0 if pairs is None else pairs.value


class PredictionErrors(NamedTuple):
    """How far predictions are from measurements: |predicted / measured - 1|, in percent."""

    median_pct: float
    percentile_90_pct: float
    count: int


def prediction_errors(rows: Iterable[BottleneckRow]) -> PredictionErrors | None:
    """Return the errors of the predictions of all rows that were measured, too; None where there are none."""
    errors = sorted(
        100.0 * abs(row["predicted_x"] / row["measured_x"] - 1)
        for row in rows
        if row["measured_x"] is not None and row["predicted_x"] is not None
    )
    if not errors:
        return None
    return PredictionErrors(statistics.median(errors), errors[math.ceil(0.9 * len(errors)) - 1], len(errors))
