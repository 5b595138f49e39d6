"""Plant bottlenecks, and score how well `diagnose` names them: what `llmbench planted` runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbench.planted.cases import Case
    from llmbench.planted.score import Row, Summary


def select_cases(expression: str) -> list[Case]:
    """Return the cases whose name holds one of the words, or whose cause is one. Raises UserError without a case."""
    from llmbench.contract.errors import UserError
    from llmbench.planted import cases

    words = [word for word in expression.split(",") if word]
    selection = [c for c in cases.every() if not words or any(w in c.name or w == c.cause for w in words)]
    if not selection:
        raise UserError(f"-k {expression!r}: no case matches; see --list")
    return selection


def plant(
    output: Path,
    expression: str = "",
    *,
    limit: int | None = None,
    rounds: int = 3,
    seconds: float = 0.7,
    budget_s: float = 30.0,
    on_case: Callable[[str], None] = lambda text: None,
) -> tuple[Summary, str]:
    """Run the cases, write the score to `output`, and return it: as a summary, and as Markdown.

    `on_case` is given a line on each new case.
    """
    import json

    from llmbench.planted import cases, measurement, score

    selection = select_cases(expression)
    order = cases.interleave(tuple(c for c in selection if c.plant not in cases.NEEDS_DEVICE))
    known = {row["case"] for row in measurement.read_rows(output / "cases.jsonl")}
    new = [c for c in order if c.name not in known][:limit]
    to_run = [c for c in order if c.name in known or c in new]
    rows: list[Row] = []
    for row in measurement.run_cases(output, to_run, rounds=rounds, seconds=seconds, budget_s=budget_s):
        rows.append(row)
        if row["case"] not in known:
            on_case(line_of(row))
    good = [row for row in rows if "error" not in row]
    summary = score.summarize(good) | {"failed": [row["case"] for row in rows if "error" in row]}
    text = score.markdown(summary)
    output.joinpath("confusion.md").write_text(text)
    output.joinpath("report.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary, text


def line_of(row: Row) -> str:
    """Return one line on a case."""
    from llmbench.planted import score

    if "error" in row:
        return f"{row['case']:34s} FAILED: {row['error'].strip().splitlines()[-1][:200]}"
    finding = row["found"]
    mark = "right" if score.is_right(row) else "WRONG"
    numbers = ""
    if row["cause"]:
        shown = [f"{x:.2f}" if x else "-" for x in (finding["predicted_x"], finding["measured_x"])]
        numbers = f"true {score.true_x(row).value:.2f} predicted {shown[0]} measured {shown[1]}"
    verdict = f"{finding['verdict_where']}/{finding['verdict_why']}"
    return f"{row['case']:34s} {mark} {verdict:32s} {numbers} ({row['diagnose_s']:.0f} s)"
