"""Run the planted bottlenecks, and score how well they are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def chosen_cases(expression: str) -> list[Any]:
    """Return the cases whose name or cause holds one of the words. Raises UserError where there is none."""
    from llmbench.contract.errors import UserError
    from llmbench.planted import cases

    words = [word for word in expression.split(",") if word]
    chosen = [c for c in cases.every() if not words or any(w in c.name or w == c.cause for w in words)]
    if not chosen:
        raise UserError(f"-k {expression!r}: no case matches; see --list")
    return chosen


def plant(
    output: Path,
    expression: str = "",
    *,
    limit: int | None = None,
    rounds: int = 3,
    seconds: float = 0.7,
    budget_s: float = 30.0,
    on_case: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], str]:
    """Run the cases, write what was found to `output`, and return it: as a summary, and as Markdown.

    `on_case` is given a line on each new case.
    """
    import json

    from llmbench.planted import cases, running, score

    chosen = chosen_cases(expression)
    order = cases.interleaved(tuple(c for c in chosen if c.plant not in cases.NEEDS_DEVICE))
    known = {row["case"] for row in running.read(output / "cases.jsonl")}
    new = [c for c in order if c.name not in known][:limit]
    run = [c for c in order if c.name in known or c in new]
    rows = []
    for row in running.run_all(output, run, rounds=rounds, seconds=seconds, budget_s=budget_s):
        rows.append(row)
        if row["case"] not in known:
            on_case(line(row))
    good = [row for row in rows if "error" not in row]
    summary = score.summary(good) | {"failed": [row["case"] for row in rows if "error" in row]}
    text = score.markdown(summary)
    output.joinpath("confusion.md").write_text(text)
    output.joinpath("report.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary, text


def line(row: dict) -> str:  # type: ignore[type-arg]
    """Return one line on a case."""
    from llmbench.planted import score

    if "error" in row:
        return f"{row['case']:34s} FAILED: {row['error'].strip().splitlines()[-1][:200]}"
    found = row["found"]
    mark = "right" if score.right(row) else "WRONG"
    numbers = ""
    if row["cause"]:
        shown = [f"{x:.2f}" if x else "-" for x in (found["predicted_x"], found["measured_x"])]
        numbers = f"true {score.true_x(row).value:.2f} predicted {shown[0]} measured {shown[1]}"
    verdict = f"{found['verdict_where']}/{found['verdict_why']}"
    return f"{row['case']:34s} {mark} {verdict:32s} {numbers} ({row['diagnose_s']:.0f} s)"
