"""TraceML on the planted cases: `python benchmarks/peers/with_traceml.py CASES.jsonl --python ENV/bin/python -o FILE`.

TraceML (traceml-ai, `requirements-traceml.txt`) lives in an environment of its own and watches `traceml_loop.py`; its
verdict is the one of its `final_summary.json`. It runs the same cases whatever llmbench made of them: the first ones of
every cause, and controls. What llmbench said of them is read from `cases.jsonl`, as `llmbench planted` writes it; cases
that it does not hold (yet) count for TraceML alone. TraceML's vocabulary is smaller than ours, so it
is scored twice, openly:

- `named`: its verdict names the cause: INPUT_BOUND is `input`, COMPUTE_BOUND is `compute`, RESIDUAL_HEAVY (time that is
  in none of its phases) is `host`; of a control that it is not INPUT_BOUND.
- `compatible`: its verdict does not contradict the cause: INPUT_BOUND for `input`, RESIDUAL_HEAVY for `host` and
  `communication`, COMPUTE_BOUND for all that is spent in forward, backward or optimizer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from llmbench.planted import score
from llmbench.planted.cases import Case, interleave, runnable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LONGEST_S = 120.0
NAMES = {"INPUT_BOUND": "input", "COMPUTE_BOUND": "compute", "RESIDUAL_HEAVY": "host"}


def watched(python: Path, case: str, seconds: float) -> dict[str, Any]:
    """Return TraceML's verdict of a case: `status`, and the reason where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python.parent / "traceml"), "run", str(HERE / "traceml_loop.py"), "--mode", "summary"]
        command += ["--logs-dir", folder, "--run-name", "case", "--aggregator-port", str(free_port())]
        command += ["--args", case, f"{seconds:g}"]
        done = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = done.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(done.pid, signal.SIGKILL)  # its aggregator would live on and keep its port
            output, _ = done.communicate()
        found = list(Path(folder).rglob("final_summary.json"))
        if not found:
            return {"status": None, "reason": without_paths(output[-500:])}
        return {"status": status_of(json.loads(found[0].read_text())), "reason": None}


def without_paths(text: str) -> str:
    """Return `text` with every absolute path reduced to its last part."""
    return re.sub(r"(?<!\w)/[\w./@-]*/", "", text)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def status_of(summary: dict[str, Any]) -> str | None:
    """Return the kind of the primary diagnosis, None where TraceML says that it has too little data."""
    kind = (summary.get("primary_diagnosis") or {}).get("kind")
    return None if kind in (None, "NO_DATA", "INSUFFICIENT_STEP_TIME_DATA") else kind


def named(row: dict[str, Any], status: str | None) -> bool:
    """Return whether the cause is named."""
    if row["cause"] is None:
        return status not in ("INPUT_BOUND", None)
    return NAMES.get(status or "") == row["cause"]


def compatible(row: dict[str, Any], status: str | None) -> bool:
    """Return whether the verdict does not contradict the cause."""
    if row["cause"] is None:
        return status not in ("INPUT_BOUND", None)
    if row["cause"] in ("host", "communication"):
        return status == "RESIDUAL_HEAVY"
    return status == ("INPUT_BOUND" if row["cause"] == "input" else "COMPUTE_BOUND")


def chosen(per_cause: int, controls: int) -> list[Case]:
    """Return the first cases of every cause, and controls, on one thread; any first part of them samples all causes."""
    left: dict[str | None, int] = {None: controls}
    some = []
    for case in interleave(tuple(case for case in runnable() if case.threads == 1)):
        left.setdefault(case.cause, per_cause)
        left[case.cause] -= 1
        if left[case.cause] >= 0:
            some.append(case)
    return some


def scores(rows: list[dict[str, Any]], known: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how many cases each has right; TraceML's are scored over all that it ran, a missing verdict as a miss.

    `llmbench_cases` are those of them that llmbench ran as well, of which it has `llmbench` right.
    """
    ours = {row["case"]: row for row in rows}
    table = {}
    for kind, planted in (("planted", True), ("controls", False)):
        some = {name: one for name, one in known.items() if (one["cause"] is not None) == planted}
        shared = [ours[name] for name in some if name in ours]
        table[kind] = {
            "cases": len(some),
            "traceml_named": sum(named(one, one["status"]) for one in some.values()),
            "traceml_compatible": sum(compatible(one, one["status"]) for one in some.values()),
            "traceml_without_verdict": sum(one["status"] is None for one in some.values()),
            "llmbench_cases": len(shared),
            "llmbench": sum(map(score.is_right, shared)),
        }
    return table


def said(row: dict[str, Any] | None) -> str | None:
    """Return what llmbench named on the axis of the case; None where it has not run."""
    return None if row is None else score.verdict_of(row)


def table(rows: list[dict[str, Any]], known: dict[str, dict[str, Any]]) -> str:
    """Return both verdicts of every case as Markdown."""
    ours = {row["case"]: row for row in rows}
    lines = ["| case | planted | llmbench | TraceML |", "|---|---|---|---|"]
    for name, one in known.items():
        planted = one["cause"] or "(control)"
        lines.append(
            f"| `{name}` | {planted} | {said(ours.get(name)) or 'not run'} | {one['status'] or 'no verdict'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the cases that are not known yet, and print both verdicts and scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--python", type=Path, required=True, help="of TraceML's environment")
    parser.add_argument("--seconds", type=float, default=4.0, help="of training per case")
    parser.add_argument("--per-cause", type=int, default=2, help="cases per cause")
    parser.add_argument("--controls", type=int, default=6)
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="S", help="begin no case after S s")
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, help="JSON; cases that it holds do not run again"
    )
    given = parser.parse_args()
    known = json.loads(given.output.read_text())["cases"] if given.output.exists() else {}
    begin_s = time.monotonic()
    for case in chosen(given.per_cause, given.controls):
        if known.get(case.name, {}).get("status") or time.monotonic() - begin_s > given.stop_after:
            continue
        known[case.name] = {"cause": case.cause, **watched(given.python, case.name, given.seconds)}
        given.output.write_text(json.dumps({"cases": known}, indent=1) + "\n")
        print(case.name, case.cause, known[case.name]["status"], flush=True)
    rows = [json.loads(line) for line in given.cases.read_text().splitlines()] if given.cases.exists() else []
    rows = [row for row in rows if "error" not in row]
    found = scores(rows, known)
    ours = {row["case"]: said(row) for row in rows if row["case"] in known}
    document = {"traceml": "0.5.0", "score": found, "llmbench": ours, "cases": known}
    given.output.write_text(json.dumps(document, indent=1) + "\n")
    print(table(rows, known), json.dumps(found, indent=1), sep="\n\n")


if __name__ == "__main__":
    main()
