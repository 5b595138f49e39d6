"""The tables of a learning study: the gain of doubling each axis, the verdict, and the parts of the distance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from llmbench.analysis.studies import learning, time_to_quality
from llmbench.report.table import Column, Table, number

if TYPE_CHECKING:
    from llmbench.contract.record import Ends, LearningRow, Record, TimeToQualityRow

NOTES = (
    "more data, steps, parameters: the gain of so many times as much of one, with the other two unchanged, on the "
    "metric's scale (perplexity: minus its logarithm). The 95 % interval covers other seeds and other test examples",
    "verdict: the one with the largest gain, if this is certain and more than "
    f"{learning.MATERIAL:.0%} of the distance between the best trivial baseline and the oracle. none: no gain is that "
    "large, and the oracle is no further away. If doubling does not decide, a larger factor may have been tried",
)
MISSING_NOTES = (
    "for lack of: the gain of making one ample, averaged over the orders in which all are made ample (Shapley). rest: "
    "the distance that remains with ample data, training and capacity. The parts add up to the distance",
)

REACH_NOTES = (
    f"target: {time_to_quality.SHARE:.0%} of the way from the best trivial baseline to the oracle. steps: "
    "interpolated between the two runs around the target; each run has its own length and schedule. time: at the "
    "measured step time",
)


def learning_table(records: Iterable[Record], known: Sequence[LearningRow] | None = None) -> Table:
    """Return one row per point: its quality, the gain of each doubling, and the verdict.

    `known` are the rows of `learning.learning_rows(records)`, if the caller has them.
    """
    columns: tuple[Column, ...] = (Column("model"), Column("size"), Column("task"), number("examples"), number("steps"))
    columns += (number("parameters"), number("epochs", digits=1), Column("metric"), number("quality", digits=3))
    columns += (number("oracle", digits=3), number("times"), Column("more data"), Column("more steps"))
    columns += (Column("more parameters"), number("seeds"), Column("verdict"), Column("because"))
    rows = []
    for row in _learning_rows(records) if known is None else known:
        what = (row["model"], row["size"], row["task"], row["train_examples"], row["steps"], row["parameters"])
        by_axis = [row["gains"].get(axis) for axis in learning.AXES]
        gains = [None if one is None else _with_sign(one["gain"], one["ci"]) for one in by_axis]
        values = (row["epochs"], row["metric"], row["quality"], row["oracle"], row["times"], *gains)
        rows.append((*what, *values, row["seeds"], row["verdict"], row["because"] or ""))
    return Table("What limits learning", columns, tuple(rows), NOTES)


def _learning_rows(records: Iterable[Record]) -> list[LearningRow]:
    return cast("list[LearningRow]", learning.learning_rows(records))


def missing_table(records: Iterable[Record], known: Sequence[LearningRow] | None = None) -> Table:
    """Return the distance to the oracle of each point that has ample neighbours, split into its parts."""
    names = ("data", "training", "capacity", "rest")
    columns: tuple[Column, ...] = (Column("model"), Column("size"), Column("task"), number("examples"), number("steps"))
    columns += (number("distance", digits=3), *(Column(f"for lack of {name}") for name in names[:3]), Column("rest"))
    columns += (Column("ample"),)
    rows = []
    for row in _learning_rows(records) if known is None else known:
        split = row["missing"]
        if split is not None:
            what = (row["model"], row["size"], row["task"], row["train_examples"], row["steps"])
            by_name = [split["parts"].get(name) for name in names]
            parts = [None if part is None else _with_sign(part["value"], part["ci"]) for part in by_name]
            rows.append((*what, split["distance"], *parts, _ample(split["ample"])))
    return Table("Distance to the oracle", columns, tuple(rows), MISSING_NOTES)


def reach_table(records: Iterable[Record], known: Sequence[TimeToQualityRow] | None = None) -> Table:
    """Return the time and energy to the target quality, of all ladders of runs that reach it; the fastest first."""
    columns: tuple[Column, ...] = (Column("model"), Column("size"), Column("task"), Column("precision"))
    columns += (number("examples"), number("parameters"), Column("metric"), number("target", digits=3))
    columns += (number("steps", digits=0), Column("95 % interval"), number("time", "s"), number("energy", "J"))
    columns += (number("seeds"),)
    if known is None:
        known = cast("list[TimeToQualityRow]", time_to_quality.ladder_rows(records))
    rows = []
    for row in sorted(known, key=lambda row: (row["task"], row["seconds"] or 0.0)):
        if row["seconds"] is None:
            continue
        ci = row["steps_ci"]
        what = (row["model"], row["size"], row["task"], row["precision"], row["train_examples"], row["parameters"])
        between = None if ci is None else f"{ci[0]:,.0f} - {ci[1]:,.0f}"
        rows.append(
            (*what, row["metric"], row["target"], row["steps"], between, row["seconds"], row["joules"], row["seeds"])
        )
    return Table("Time to a target quality", columns, tuple(rows), REACH_NOTES)


def _ample(ample: Mapping[str, object]) -> str:
    return f"{ample['data']:,} examples, {ample['steps']:,} steps, {ample['parameters']}"


def _with_sign(value: float, ci: Ends | None) -> str:
    """Return a value with its sign and its interval."""
    return f"{value:+.3f}" + ("" if ci is None else f" [{ci[0]:+.3f}, {ci[1]:+.3f}]")
