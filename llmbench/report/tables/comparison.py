"""A comparison of two runs as tables, as Markdown that fits a pull-request comment, and as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmbench import stats
from llmbench.analysis.comparison import CellChange, Comparison
from llmbench.contract.cell import label_of
from llmbench.contract.job import SCHEMA_VERSION
from llmbench.report.cells.variants import find_variants
from llmbench.report.formats import csv, markdown
from llmbench.report.table import CELL, Column, Table, cell_values, number

if TYPE_CHECKING:
    from llmbench.contract.record import JsonObject, Row

#: Rows that a pull-request comment shows; all others are folded.
SHOWN_ROWS = 20
#: Characters that a comment may have; GitHub allows 65,536.
MOST_CHARACTERS = 60_000
#: Verdicts in the order in which people look for them.
ORDER = ("slower", "faster", "undecided", "same")


def tables(found: Comparison) -> list[Table]:
    """Return the differences between the machines, the cells without a pair, and the changes; without empty tables."""
    every = [
        _differences_table(found),
        _not_compared_table(found),
        _cells_table(found, found.cells),
        _quality_table(found),
    ]
    return [table for table in every if table.rows]


def summary(found: Comparison) -> str:
    """Return the comparison in one line."""
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items() if count) or "no cell in both"
    quality = [f"{n} {v}" for v in ("worse", "better") if (n := sum(q.verdict == v for q in found.quality))]
    return f"{found.head} beside {found.base}: {counts}" + (f"; quality: {', '.join(quality)}" if quality else "")


def notes(found: Comparison) -> list[str]:
    """Return the notes of a comparison: the change that all cells share, the method, and the processes left out."""
    lines = []
    if found.common is not None:
        ends = f"[{_pct(found.common.low)}, {_pct(found.common.high)}]"
        lines.append(f"all cells share a change of {_pct(found.common.value)} {ends}: {_describe_shared_change(found)}")
    lines.append(
        f"all verdicts hold together with {100 * found.level:g} % confidence; the units are processes; same: within "
        f"{found.margin_pct:g} %"
    )
    if not found.in_turns and found.noise_floor_pct:
        lines.append(
            "the runs were measured one after the other: a change that all cells share counts only above "
            f"{found.noise_floor_pct:g} % (--noise-floor)"
        )
    if any(found.disturbed_counts):
        base, head = found.disturbed_counts
        lines.append(
            f"{base} processes of {found.base} and {head} of {found.head} are left out: other processes took their "
            "cores while they were timed (by the kernel's counters, not by their speed)"
        )
    return lines


def _describe_shared_change(found: Comparison) -> str:
    """Return the verdict about the change that all cells share, and how the cells' changes treat it."""
    if found.common_verdict in ("slower", "faster"):
        return f"{found.common_verdict}, and part of every cell's change"
    state = "no change" if found.common_verdict == "same" else "not distinguished from changes of the machine"
    return f"{state}, and taken out of every cell's change"


def _differences_table(found: Comparison) -> Table:
    columns = (Column("what"), Column(found.base), Column(found.head))
    rows = tuple((one.what, one.base, one.head) for one in found.differences)
    return Table("What differs between the runs", columns, rows)


def _not_compared_table(found: Comparison) -> Table:
    named = [
        {**cell, "variant": v}
        for (cell, _), v in zip(found.only, find_variants([c for c, _ in found.only]), strict=True)
    ]
    rows = tuple((*cell_values(cell), why) for cell, (_, why) in zip(named, found.only, strict=True))
    return Table("Not compared", (*CELL, Column("because")), rows)


def _cells_table(found: Comparison, cells: Sequence[CellChange], title: str = "Step time") -> Table:
    names = dict(zip(map(id, found.cells), find_variants([one.cell for one in found.cells]), strict=True))
    columns = (
        *CELL,
        *(number("base", "ms"), number("head", "ms"), number("ratio", "x", 3), number("change", "%", 1)),
        *(
            Column("interval (%)", align="right"),
            Column("verdict"),
            Column("repeats to decide", align="right"),
            Column("note"),
        ),
    )
    rows = []
    for one in sorted(cells, key=lambda c: (ORDER.index(c.verdict), -abs(c.change - 1))):
        values = cell_values({**one.cell, "variant": names[id(one)]})
        times = (1e3 * one.base_s, 1e3 * one.head_s, one.ratio, 100 * (one.change - 1))
        rows.append((*values, *times, _interval(one), one.verdict, str(one.repeats_to_decide or ""), _note(one)))
    return Table(title, columns, tuple(rows), tuple(notes(found)))


def _note(one: CellChange) -> str:
    parts = [] if one.beyond_common else ["the whole change"]
    parts += ["the data differ"] if one.data_differ else []
    parts += [one.reason] if one.reason and one.repeats_to_decide is None else []
    return "; ".join(parts)


def _quality_table(found: Comparison) -> Table:
    """Return the metrics that are not the same; how many are is in the notes."""
    shown = [one for one in found.quality if one.verdict != "same"]
    named = find_variants([one.cell for one in shown])
    columns: tuple[Column, ...] = (*CELL, Column("metric"), number("base", digits=4), number("head", digits=4))
    columns += (Column("difference", align="right"), Column("verdict"), number("examples"), Column("note"))
    rows = []
    for one, variant in zip(shown, named, strict=True):
        between = None if one.low is None or one.high is None else f"{one.low:+.4f} to {one.high:+.4f}"
        values = (one.metric, one.base, one.head, between, one.verdict, one.examples, one.reason or "")
        rows.append((*cell_values({**one.cell, "variant": variant}), *values))
    text = "intervals: for another sample of test examples; another seed may differ by more"
    return Table("Quality", columns, tuple(rows), (f"{len(found.quality) - len(shown)} other metrics are equal", text))


def _interval(one: CellChange) -> str | None:
    if one.low is None or one.high is None:
        return None
    return f"{100 * (one.low - 1):+.1f} to {100 * (one.high - 1):+.1f}"


def _pct(ratio: float | None) -> str:
    return "n/a" if ratio is None else f"{100 * (ratio - 1):+.1f} %"


def rows(found: Comparison) -> str:
    """Return the cells as CSV."""
    return csv.render(_cells_table(found, found.cells))


# --- a pull-request comment ---


def comment(found: Comparison) -> str:
    """Return Markdown that begins with the verdicts; everything else is folded."""
    escape = markdown._escape
    parts = [f"### llmbench: {escape(summary(found))}\n"]
    if found.fail_on_pct is not None:
        state = "regressed" if found.regressions or found.failures else "no cell is slower with confidence"
        parts.append(f"Limit: {found.fail_on_pct:g} % slower. **{state.capitalize()}.**\n")
    moved = [one for one in found.cells if one.verdict in ("slower", "faster")]
    moved.sort(key=lambda one: (ORDER.index(one.verdict), -abs(one.change - 1)))
    if moved:
        lines = [
            "| cell | base (ms) | head (ms) | change | interval | verdict |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
        ]
        for one in moved[:SHOWN_ROWS]:
            between = f"{_pct(one.low)} to {_pct(one.high)}"
            lines.append(
                f"| {escape(label_of(one.cell))} | {1e3 * one.base_s:.2f} | {1e3 * one.head_s:.2f} "
                f"| {_pct(one.change)} | {between} | {one.verdict} |"
            )
        if len(moved) > SHOWN_ROWS:
            lines.append(f"\n{len(moved) - SHOWN_ROWS} more below.")
        parts.append("\n".join(lines) + "\n")
    listed = [f"{len(found.differences)} differences of machine or software"] if found.differences else []
    listed += [f"{len(found.only)} cells not compared"] if found.only else []
    if listed:
        parts.append(f"Mind: {', '.join(listed)}.\n")
    parts.append("\n".join(f"- {escape(note)}" for note in notes(found)) + "\n")
    room = MOST_CHARACTERS - sum(map(len, parts))
    for table in tables(found):
        heading = f"<summary>{escape(table.title)} ({len(table.rows)})</summary>"
        text = f"<details>{heading}\n\n{markdown.render([table], 4)}\n</details>\n"
        if len(text) <= room:
            parts.append(text)
            room -= len(text)
        else:
            parts.append(f"{escape(table.title)}: {len(table.rows)} rows, too long for a comment.\n")
    return "\n".join(parts)


# --- JSON ---


def document(found: Comparison) -> JsonObject:
    """Return the comparison for scripts; ratios are head over base, above 1: slower. Unknown is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "base": found.base,
        "head": found.head,
        "level": found.level,
        "margin_pct": found.margin_pct,
        "noise_floor_pct": found.noise_floor_pct,
        "interleaved": found.in_turns,
        "left_out": {"base": found.disturbed_counts[0], "head": found.disturbed_counts[1]},
        "differences": [{"what": d.what, "base": d.base, "head": d.head} for d in found.differences],
        "not_compared": [{"cell": dict(cell), "because": why} for cell, why in found.only],
        "shared": _estimate(found),
        "counts": found.counts,
        "cells": [_cell_row(one) for one in found.cells],
        "quality": [
            {
                **_cell_names(q.cell),
                "metric": q.metric,
                "base": q.base,
                "head": q.head,
                "difference_ci": q.ends,
                "verdict": q.verdict,
                "examples": q.examples,
                "reason": q.reason,
            }
            for q in found.quality
        ],
        "fail_on_pct": found.fail_on_pct,
        "regressed": list(found.regressions),
        "unsure": list(found.unsure),
    }


def render(found: Comparison) -> str:
    """Return `document` as strict JSON text."""
    return json.dumps(document(found), indent=1, ensure_ascii=False, allow_nan=False)


def _estimate(found: Comparison) -> Row | None:
    shared: stats.Estimate | None = found.common
    if shared is None:
        return None
    return {"ratio": shared.value, "ratio_ci": shared.ends, "verdict": found.common_verdict}


def _cell_row(one: CellChange) -> Row:
    return {
        "cell_id": one.cell_ids[1],
        "base_cell_id": one.cell_ids[0],
        **_cell_names(one.cell),
        "base_ms": 1e3 * one.base_s,
        "head_ms": 1e3 * one.head_s,
        "ratio": one.ratio,
        "change": one.change,
        "change_ci": one.ends,
        "beyond_shared": one.beyond_common,
        "verdict": one.verdict,
        "repeats": list(one.repeats),
        "repeats_to_decide": one.repeats_to_decide,
        "reason": one.reason,
        "data_differ": one.data_differ,
    }


def _cell_names(cell: Row) -> Row:
    return {name: cell.get(name) for name in ("model", "size", "task", "dataset", "stage", "device", "precision")}
