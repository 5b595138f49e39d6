"""Run cases: the truth in processes of its own, then `diagnose` on the planted target in another."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmbench.analysis import attribution
from llmbench.contract.errors import UserError
from llmbench.execution.local import LocalExecutor
from llmbench.execution.worker_calls import DIAGNOSE_TARGET
from llmbench.planted.cases import PLANTS, Case

TARGETS = "llmbench.planted.targets"
TURNS = "llmbench.planted.truth:turns"
KEPT = ("outcome", "reason", "predicted_x", "measured_x", "ci", "low", "material")


def run_case(executor: LocalExecutor, case: Case, *, rounds: int, seconds: float, budget_s: float) -> dict[str, Any]:
    """Return the row of a case. `rounds` times a planted and an unplanted process take turns."""
    begin = time.perf_counter()
    times = [executor.call(TURNS, case.name, seconds) for _ in range(rounds if case.plant else 0)]
    options = {"budget_s": budget_s, "mode": "verdict"}
    record = executor.call(DIAGNOSE_TARGET, f"{TARGETS}:{case.name}", options)["record"]
    return {
        "case": case.name,
        **{key: getattr(case, key) for key in ("host", "plant", "cause", "axis", "strength", "threads")},
        "work": PLANTS[case.plant].work if case.plant else 1.0,
        "in_turns": True,
        **{side: [turn[side] for turn in times] for side in ("planted_s", "unplanted_s")},
        "found": found(record, case.cause),
        "diagnose_s": record["wall_s"],
        "wall_s": time.perf_counter() - begin,
    }


def found(record: dict[str, Any], cause: str | None) -> dict[str, Any]:
    """Return the verdict of a record, and what it says of the planted cause and of all others."""
    rows = attribution.bottlenecks([record])
    verdict = attribution.verdict(rows)
    own = next((row for row in rows if row["cause"] == cause), {})
    kept = {key: verdict.get(key) for key in ("verdict", "verdict_where", "verdict_why", "verdict_notes")}
    by_cause = {row["cause"]: {key: row.get(key) for key in KEPT} for row in rows}
    spent = {name: trial.get("spent_s") for name, trial in (record.get("interventions") or {}).items()}
    return {**kept, "predicted_x": own.get("predicted_x"), "measured_x": own.get("measured_x")} | {
        "causes": by_cause,
        "spent_s": spent,
    }


def run_all(folder: Path, cases: Sequence[Case], **options: Any) -> Iterator[dict[str, Any]]:
    """Yield a row per case, those first that `folder` holds already; new ones are added to `cases.jsonl` there."""
    path = folder / "cases.jsonl"
    known = {row["case"]: row for row in read(path)}
    folder.mkdir(parents=True, exist_ok=True)
    with LocalExecutor(folder / "logs", preload=(TARGETS,)) as executor:
        for case in cases:
            row = known.get(case.name)
            if row is None:
                row = _tried(executor, case, options)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            yield row


def _tried(executor: LocalExecutor, case: Case, options: dict[str, Any]) -> dict[str, Any]:
    try:
        return run_case(executor, case, **options)
    except RuntimeError as error:
        return {"case": case.name, "cause": case.cause, "axis": case.axis, "error": str(error)[-2000:]}


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `cases.jsonl`; a last line that was not finished is left out."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(path.read_text().splitlines()):
                raise UserError(f"{path}:{number}: no JSON; delete the line to run its case again") from None
    return rows
