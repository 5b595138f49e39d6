"""The tables of a scaling study: how cost grows along each axis, and where the bottleneck of a cell changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

from llmbench.analysis.studies import scaling
from llmbench.report.table import Column, Table, number

if TYPE_CHECKING:
    from llmbench.contract.record import Record, ScalingRow

NOTES = (
    f"exponent: slope of log time over log axis, within a factor of {scaling.END_X} of the smallest and of the largest "
    f"point ({scaling.END_POINTS} points at least); 95 % interval over processes",
    "in the limit: the value that the exponent at the large end approaches, from the fit log t = a + p log x + b / x; "
    "its interval includes the error of this fit (not known from three points)",
    "limit: the highest power in the fit a + b x + c x^2 (no coefficient negative) that is above zero with confidence",
    "held out: the largest point, predicted from all others. Each part is predicted from its counted work (calls, "
    "FLOPs, bytes) at fitted rates; the step is the sum of its parts",
    "parts: the step, and the operator classes that take 5 % of it or more at the second-largest point (traced, scaled "
    "to the step)",
)
CHANGE_NOTES = (
    "verdict: from the trials of causes; operators: the class with most time, and the point where the two cross",
)


def scaling_table(records: Iterable[Record], known: Sequence[ScalingRow] | None = None) -> Table:
    """Return one row per curve and part of the step.

    `known` are the rows of `scaling.scaling_rows(records)`, if the caller has them.
    """
    columns: tuple[Column, ...] = (Column("model"), Column("stage"), Column("axis"), Column("points"), Column("part"))
    columns += (number("smallest", "ms"), number("largest", "ms"), Column("exponent, small"), Column("exponent, large"))
    columns += (Column("in the limit"),)
    columns += (number("limit"), number("held out"), number("predicted", "ms"), number("measured", "ms"))
    columns += (number("error", "%", 1), number("processes"))
    rows = []
    for row in _scaling_rows(records) if known is None else known:
        what = (row["model"], row["stage"], row["axis"], f"{row['points'][0]} - {row['points'][-1]}", row["part"])
        exponents = (
            _exponent_text(row["exponent_small"], row["exponent_small_ci"]),
            _exponent_text(row["exponent"], row["exponent_ci"]),
            _exponent_text(row["power"], row["power_ci"]),
        )
        held = (row["held_out"], row["predicted_ms"], row["measured_ms"], row["error_pct"])
        rows.append((*what, row["ms"][0], row["ms"][-1], *exponents, row["limit"], *held, row["rounds"]))
    return Table("How cost grows", columns, tuple(rows), NOTES)


def _scaling_rows(records: Iterable[Record]) -> list[ScalingRow]:
    return cast("list[ScalingRow]", scaling.scaling_rows(records))


def changes_table(records: Iterable[Record], known: Sequence[ScalingRow] | None = None) -> Table:
    """Return where along each curve the verdict, or the class of operators with most time, changes."""
    columns: tuple[Column, ...] = (
        Column("model"),
        Column("stage"),
        Column("axis"),
        Column("what"),
        Column("from"),
        Column("to"),
    )
    columns += (Column("between"), number("at", digits=0))
    rows = [
        (
            row["model"],
            row["stage"],
            row["axis"],
            c["kind"],
            c["from"],
            c["to"],
            " - ".join(map(str, c["between"])),
            c["at"],
        )
        for row in (_scaling_rows(records) if known is None else known)
        for c in row["changes"]
    ]
    return Table("Where the bottleneck changes", columns, tuple(rows), CHANGE_NOTES)


def _exponent_text(value: float | None, ci: Sequence[float] | None) -> str | None:
    if value is None:
        return None
    return f"{value:.2f}" + ("" if ci is None else f" [{ci[0]:.2f}, {ci[1]:.2f}]")
