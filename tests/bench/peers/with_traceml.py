"""TraceML on the planted cases: `python tests/bench/peers/with_traceml.py CASES.jsonl --python ENV/bin/python -o FILE`.

TraceML (traceml-ai, `requirements-traceml.txt`) lives in an environment of its own and watches `traceml_loop.py`; its
verdict is the one of its `final_summary.json`. What llmbench said of the same cases is read from `cases.jsonl`, as
`llmbench planted` writes it. TraceML's vocabulary is smaller than ours, so it is scored twice, openly:

- `named`: its verdict names the cause: INPUT_BOUND is `input`, COMPUTE_BOUND is `compute`, RESIDUAL_HEAVY (time that is
  in none of its phases) is `host`; of a control that it is not INPUT_BOUND.
- `compatible`: its verdict does not contradict the cause: INPUT_BOUND for `input`, RESIDUAL_HEAVY for `host` and
  `communication`, COMPUTE_BOUND for all that is spent in forward, backward or optimizer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from llmbench.planted import score

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
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
            said, _ = done.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(done.pid, signal.SIGKILL)  # its aggregator would live on and keep its port
            said, _ = done.communicate()
        found = list(Path(folder).rglob("final_summary.json"))
        if not found:
            return {"status": None, "reason": said[-500:]}
        return {"status": status_of(json.loads(found[0].read_text())), "reason": None}


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
    return status != "INPUT_BOUND" if row["cause"] is None else NAMES.get(status or "") == row["cause"]


def compatible(row: dict[str, Any], status: str | None) -> bool:
    """Return whether the verdict does not contradict the cause."""
    if row["cause"] is None:
        return status != "INPUT_BOUND"
    if row["cause"] in ("host", "communication"):
        return status == "RESIDUAL_HEAVY"
    return status == ("INPUT_BOUND" if row["cause"] == "input" else "COMPUTE_BOUND")


def main() -> None:
    """Run the cases and print both scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--python", type=Path, required=True, help="of TraceML's environment")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--limit", type=int, default=200, help="new cases at most")
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, help="JSON; cases that it holds are not run again"
    )
    given = parser.parse_args()
    known = json.loads(given.output.read_text())["cases"] if given.output.exists() else {}
    rows = [json.loads(line) for line in given.cases.read_text().splitlines()]
    rows = [row for row in rows if "error" not in row]
    for row in [row for row in rows if row["case"] not in known][: given.limit]:
        known[row["case"]] = watched(given.python, row["case"], given.seconds)
        given.output.write_text(json.dumps({"cases": known}, indent=1) + "\n")
        print(row["case"], row["cause"], known[row["case"]]["status"], flush=True)
    ran = [row for row in rows if known.get(row["case"], {}).get("status")]
    table = {}
    for kind, some in (("planted", [r for r in ran if r["cause"]]), ("controls", [r for r in ran if not r["cause"]])):
        status = [known[row["case"]]["status"] for row in some]
        table[kind] = {
            "cases": len(some),
            "llmbench": sum(map(score.right, some)),
            "traceml_named": sum(map(named, some, status)),
            "traceml_compatible": sum(map(compatible, some, status)),
        }
    given.output.write_text(json.dumps({"traceml": "0.5.0", "score": table, "cases": known}, indent=1) + "\n")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
