"""Run cases: the truth in processes of its own, then `diagnose` on the planted target in another."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

from llmbench.analysis import attribution
from llmbench.contract.errors import UserError
from llmbench.execution.local import LocalExecutor
from llmbench.execution.worker_calls import DIAGNOSE_TARGET
from llmbench.planted.cases import PLANTS, Case

if TYPE_CHECKING:
    from llmbench.contract.record import Record
    from llmbench.planted.score import Finding, Row

TARGETS = "llmbench.planted.targets"
TURNS = "llmbench.planted.truth:take_turns"
#: Keys of a bottleneck that a row keeps.
BOTTLENECK_KEYS = ("outcome", "reason", "predicted_x", "measured_x", "ci", "low", "material")
VERDICT_KEYS = ("verdict", "verdict_where", "verdict_why", "verdict_notes")


class Effort(TypedDict):
    """How long a case is measured."""

    rounds: int  # pairs of processes for the truth
    seconds: float  # of turns per process
    budget_s: float  # of the diagnosis


def run_case(executor: LocalExecutor, case: Case, **effort: Unpack[Effort]) -> Row:
    """Return the row of a case. `rounds` times a planted and an unplanted process take turns."""
    begin = time.perf_counter()
    rounds = effort["rounds"] if case.plant else 0
    times = [executor.call(TURNS, case.name, effort["seconds"]) for _ in range(rounds)]
    options = {"budget_s": effort["budget_s"], "mode": "verdict"}
    record = executor.call(DIAGNOSE_TARGET, f"{TARGETS}:{case.name}", options)["record"]
    return {
        "case": case.name,
        "host": case.host,
        "plant": case.plant,
        "cause": case.cause,
        "axis": case.axis,
        "strength": case.strength,
        "threads": case.threads,
        "work": PLANTS[case.plant].work if case.plant else 1.0,
        "in_turns": True,
        "planted_s": [turn["planted_s"] for turn in times],
        "unplanted_s": [turn["unplanted_s"] for turn in times],
        "found": finding_of(record, case.cause),
        "diagnose_s": record["wall_s"],
        "wall_s": time.perf_counter() - begin,
    }


def finding_of(record: Record, cause: str | None) -> Finding:
    """Return the verdict of a record, and its numbers on the planted cause and on all others."""
    rows = attribution.bottlenecks([record])
    verdict = attribution.verdict(rows)
    planted = next((row for row in rows if row["cause"] == cause), None)
    finding = {
        **{key: verdict.get(key) for key in VERDICT_KEYS},
        "predicted_x": planted and planted["predicted_x"],
        "measured_x": planted and planted["measured_x"],
        "causes": {row["cause"]: {key: row.get(key) for key in BOTTLENECK_KEYS} for row in rows},
        "spent_s": {name: trial.get("spent_s") for name, trial in (record.get("interventions") or {}).items()},
    }
    return cast("Finding", finding)


def run_cases(folder: Path, cases: Sequence[Case], **effort: Unpack[Effort]) -> Iterator[Row]:
    """Yield a row per case. Rows in `cases.jsonl` of `folder` are read from it, and new ones are added to it."""
    path = folder / "cases.jsonl"
    known = {row["case"]: row for row in read_rows(path)}
    folder.mkdir(parents=True, exist_ok=True)
    with LocalExecutor(folder / "logs", preload=(TARGETS,)) as executor:
        for case in cases:
            row = known.get(case.name)
            if row is None:
                row = _try_case(executor, case, effort)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            yield row


def _try_case(executor: LocalExecutor, case: Case, effort: Effort) -> Row:
    """Return the row of a case, with its error where it fails."""
    try:
        return run_case(executor, case, **effort)
    except RuntimeError as error:
        row = {"case": case.name, "cause": case.cause, "axis": case.axis, "error": str(error)[-2000:]}
        return cast("Row", row)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a `cases.jsonl`; an unfinished last line is left out."""
    if not path.exists():
        return []
    rows = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise UserError(f"{path}:{number}: no JSON; delete the line to run its case again") from None
    return rows
