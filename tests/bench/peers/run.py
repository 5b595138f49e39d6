"""llmbench beside its peers. `python tests/bench/peers/run.py --rounds 8`, after `python tests/bench/peers/install.py`.

Two parts, which `--parts` selects:

- `speed`: llmbench, Hugging Face Trainer and Lightning train the same module on the same data with the same optimizer,
  each in fresh processes, in random order within a round. Throughput is seen from outside: the module tells a pipe at
  the start of each step how many tokens it holds (`told.py`), and this process reads its own clock (`pipe.py`). It is
  compared between the tools, round by round, and with what each tool says of itself.
- `sweep`: ten short cells with optimum-benchmark and with llmbench; what their wall time holds beside training and
  inference.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipe import Steps, tokens_per_s

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(HERE.parent))

from workload import MODELS, PRECISIONS, Setting, write_suite  # noqa: E402

TOLD = str(HERE / "told.py")
PEERS = ("trainer", "lightning")
FIRST_STEPS = 1  # that llmbench takes before it warms up
WARMUP_STEPS = 20  # of a peer that are not counted
#: What must hold: a tool's own number within 2 % of the outside one; at least as fast; a tenth of the overhead.
PRINTED_LIMIT, SPEED_LIMIT, OVERHEAD_LIMIT = 0.02, 1.0, 0.1
SWEEP_BATCHES = {"bert": (4, 8, 16), "gpt": (4, 8)}
SWEEP_STEPS, SWEEP_WARMUP, SWEEP_EXAMPLES = 20, 10, 400


class NotHereError(Exception):
    """This machine cannot run a setting."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where things are: environments, a folder for data, and the pipe."""

    envs: Path
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of every process that is started."""
        own = {
            "PYTHONPATH": str(HERE.parent),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "LLMBENCH_CACHE": str(self.folder / "cache-of-ceilings"),
            "NO_COLOR": "1",
        }
        return {**os.environ, **own, **more}

    def start(self, command: Sequence[str], **more: str) -> str:
        """Run `command` to its end and return its standard output."""
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=self.environment(**more), cwd=self.folder
        )
        if done.returncode:
            raise SystemExit(f"{Path(command[1]).name}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout


# --- speed ----------------------------------------------------------------------------------------------


def measure_llmbench(setting: Setting, seconds: float, place: Place) -> dict[str, Any]:
    """Run the cell with the command line; return what it prints and what was seen of the same steps."""
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        suite = write_suite(setting.suite("peers", seconds), Path(folder) / "peers.yaml")
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "llmbench", "run", str(suite), "-o", str(run), "--plugin", TOLD, "--json"]
        with Steps(Path(folder) / "pipe") as steps:
            printed = json.loads(place.start(command, TOLD_PIPE=str(steps.path)))
        (record,) = [json.loads(line) for line in (run / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    if record["status"] == "unsupported":
        raise NotHereError(record["error"]["message"])
    if record["status"] != "ok":
        raise SystemExit(f"{setting.label}: {record['status']}: {record['error']}")
    timing = record["counts"]["timing"]
    first = FIRST_STEPS + timing["warmup_steps"] + timing["pilot_steps"]
    seen = steps.seen[first : first + timing["samples"]]
    return {
        "printed_tokens_per_s": printed["cells"][0]["tokens_per_s"],
        "outside_tokens_per_s": tokens_per_s(seen),
        "steps": timing["samples"],
        "warnings": record["warnings"],
    }


def measure_peer(name: str, setting: Setting, place: Place, monitor: bool = False) -> dict[str, Any]:
    """Train with a peer; return what it says of itself and what was seen of all steps but the first ones."""
    request = {"setting": dataclasses.asdict(setting), "folder": str(place.folder), "plugins": [TOLD]}
    python = place.envs / name / "bin" / "python"
    command = [str(python), str(HERE / f"with_{name}.py"), json.dumps({**request, "monitor": monitor})]
    with Steps(place.folder / "pipe") as steps:
        said = json.loads(place.start(command, TOLD_PIPE=str(steps.path)).splitlines()[-1])
    window = said.get("window_steps")
    counted = steps.seen[-window:] if monitor and window else steps.seen[WARMUP_STEPS:]
    return {
        "printed_tokens_per_s": said["tokens_per_s"],
        "outside_tokens_per_s": tokens_per_s(counted),
        "whole_tokens_per_s": tokens_per_s(steps.seen),
        "steps": len(counted) - 1,
        "said": said,
    }


def measure_speed(settings: Sequence[Setting], rounds: int, seconds: float, seed: int, place: Place) -> dict[str, Any]:
    """Return, per setting and tool, what was measured in each round."""
    rng = random.Random(seed)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    lengths = {}
    for setting in settings:
        try:
            lengths[setting.label] = peer_steps(setting, seconds, place)
        except NotHereError as error:
            print(f"{setting.label} is left out: {error}", file=sys.stderr, flush=True)
    able = [setting for setting in settings if setting.label in lengths]
    for number in range(rounds):
        for setting in rng.sample(able, len(able)):
            longer = dataclasses.replace(setting, steps=lengths[setting.label])
            tools = found.setdefault(setting.label, {name: [] for name in ("llmbench", *PEERS, "lightning-monitor")})
            for name in rng.sample(("llmbench", *PEERS), 1 + len(PEERS)):
                if name == "llmbench":
                    tools[name].append(measure_llmbench(setting, seconds, place))
                else:
                    tools[name].append(measure_peer(name, longer, place))
            if number == 0:  # what Lightning says of itself slows it, so that run is no comparison
                tools["lightning-monitor"].append(measure_peer("lightning", longer, place, monitor=True))
            print(f"round {number + 1} of {rounds}: {setting.label}", file=sys.stderr, flush=True)
    return found


def peer_steps(setting: Setting, seconds: float, place: Place) -> int:
    """Return how many steps take about `seconds`; also fills the caches of all tools."""
    steps = measure_llmbench(setting, min(seconds, 2.0), place)["steps"]
    return WARMUP_STEPS + max(20, round(steps * seconds / min(seconds, 2.0)))


def speed_rows(found: dict[str, dict[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return a row per setting and tool; the ratio is llmbench's tokens/s over the tool's, rounds as pairs."""
    from llmbench import stats

    rows = []
    for label, tools in found.items():
        ours = [[1 / one["outside_tokens_per_s"]] for one in tools["llmbench"]]
        for name, measured in tools.items():
            theirs = [[1 / one["outside_tokens_per_s"]] for one in measured]
            compared = name in PEERS
            ratio = stats.ratio_interval(theirs, ours, paired=True) if compared else None
            shares = [share(one) for one in measured if one["printed_tokens_per_s"] is not None]
            rows.append(
                {
                    "setting": label,
                    "tool": name,
                    "outside_tokens_per_s": statistics.fmean(one["outside_tokens_per_s"] for one in measured),
                    "printed_over_outside": statistics.fmean(shares) if shares else None,
                    "printed_farthest": max(shares, key=lambda x: abs(x - 1)) if shares else None,
                    "ratio": ratio and ratio.value,
                    "ratio_ci": ratio and [ratio.low, ratio.high],
                    "rounds": len(measured),
                }
            )
    return rows


def share(one: dict[str, Any]) -> float:
    """Return a tool's own number over the outside one."""
    return one["printed_tokens_per_s"] / one["outside_tokens_per_s"]


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| setting | tool | tokens/s from outside | printed / outside (farthest) | llmbench / tool | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["ratio_ci"] or (None, None)
        printed = row["printed_over_outside"]
        cells = [
            row["setting"],
            row["tool"],
            f"{row['outside_tokens_per_s']:,.0f}",
            "says nothing" if printed is None else f"{printed:.4f} ({row['printed_farthest']:.4f})",
            "" if row["ratio"] is None else f"{row['ratio']:.3f}",
            "" if low is None else f"{low:.3f} - {high:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# --- sweep ----------------------------------------------------------------------------------------------


def sweep_cells() -> list[dict[str, Any]]:
    """Return the ten cells: training and inference of two models at several batch sizes."""
    return [
        {"model": model, "batch_size": size, "stage": stage}
        for model, sizes in SWEEP_BATCHES.items()
        for size in sizes
        for stage in ("finetune", "eval")
    ]


def sweep_suite(seconds: float) -> dict[str, Any]:
    """Return llmbench's suite of the same cells: classification of sequences of 64 tokens."""
    return {
        "name": "sweep",
        "matrix": {
            "model": list(SWEEP_BATCHES),
            "size": "tiny",
            "task": "classification",
            "stage": ["finetune", "eval"],
            "batch_size": {model: list(sizes) for model, sizes in SWEEP_BATCHES.items()},
        },
        "defaults": {
            "seq_len": 64,
            "vocab_size": 1024,
            "steps": SWEEP_STEPS,
            "train_examples": SWEEP_EXAMPLES,
            "test_examples": 100,
        },
        "repeats": 1,
        "budget": {"seconds": seconds},
        "verify": "none",
    }


def sweep_llmbench(seconds: float, place: Place) -> dict[str, Any]:
    """Run the sweep with the command line; return its seconds.

    `work_s` are steps: warm-up, pilot, timed pass, phase pass, training and scoring. Building, tracing, the memory
    parts and everything else is overhead. `spent_s` is all that a cell does behind its preparation.
    """
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        suite = write_suite(sweep_suite(seconds), Path(folder) / "sweep.yaml")
        run = Path(folder) / "run"
        begin = time.perf_counter()
        place.start([sys.executable, "-m", "llmbench", "run", str(suite), "-o", str(run), "--quiet"])
        wall_s = time.perf_counter() - begin
        records = [json.loads(line) for line in (run / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    bad = [r for r in records if r["status"] != "ok"]
    if bad or len(records) != len(sweep_cells()):
        raise SystemExit(f"llmbench's sweep has {len(records)} records, {len(bad)} of them not ok")
    spent_s = sum(sum(record["spent"].values()) for record in records)
    return ended(wall_s, sum(map(work_s, records)), spent_s=spent_s, cells_s=sum(r["wall_s"] for r in records))


def work_s(record: dict[str, Any]) -> float:
    """Return the seconds that a cell of llmbench spends in training and inference."""
    samples, timing = record["samples"], record["counts"]["timing"]
    before = timing["warmup_steps"] + timing["pilot_steps"]
    phases = sum(sum(times) for times in record["phases"].values())
    steps = before * statistics.median(samples["step_s"]) + sum(samples["step_s"])
    trained = (record["training"] or {}).get("seconds", 0.0)
    return steps + phases + sum(samples["paired_step_s"]) + trained + record["spent"].get("score_s", 0.0)


def sweep_optimum(place: Place, folder: Path) -> dict[str, Any]:
    """Run the sweep with optimum-benchmark; return its seconds and what it says of training."""
    python, script = str(place.envs / "optimum" / "bin" / "python"), str(HERE / "with_optimum.py")
    begin = time.perf_counter()
    place.start([python, script, "sweep", json.dumps(optimum_request()), str(folder)])
    wall_s = time.perf_counter() - begin
    cells = json.loads((folder / "optimum.json").read_text(encoding="utf-8"))
    claims = [claim(cell) for cell in cells if cell["stage"] == "finetune"]
    return ended(wall_s, sum(map(optimum_work_s, cells)), training=claims)


def optimum_request() -> dict[str, Any]:
    """Return what `with_optimum.py` is asked for."""
    from llmbench.plugins import discover

    size = discover().get("model", "bert").sizes["tiny"]
    steps = {"iterations": SWEEP_STEPS, "warmup": SWEEP_WARMUP, "examples": SWEEP_EXAMPLES}
    return {"size": dict(size), "vocab_size": 1024, "seq_len": 64, "cells": sweep_cells(), **steps}


def optimum_work_s(cell: dict[str, Any]) -> float:
    """Return the seconds of all steps or passes, those of the warm-up included (at the mean of the others)."""
    report = cell["report"]
    if cell["stage"] == "finetune":
        return report["overall"]["latency"]["total"]
    passes = report["forward"]["latency"]
    return report["first_forward"]["latency"]["total"] + passes["total"] + SWEEP_WARMUP * passes["mean"]


def claim(cell: dict[str, Any]) -> dict[str, Any]:
    """Return the training throughput that the report holds beside samples over time."""
    train = cell["report"]["train"]
    true = cell["batch_size"] * train["latency"]["count"] / train["latency"]["total"]
    reported = train["throughput"]["value"]
    shape = {"model": cell["model"], "batch_size": cell["batch_size"], "steps": train["latency"]["count"]}
    return {**shape, "reported_samples_per_s": reported, "true_samples_per_s": true, "factor": reported / true}


def ended(wall_s: float, work: float, **more: Any) -> dict[str, Any]:
    """Return the seconds of a sweep."""
    return {"wall_s": wall_s, "work_s": work, "overhead_s": wall_s - work, **more}


def measure_sweep(rounds: int, seconds: float, seed: int, place: Place) -> dict[str, Any]:
    """Run both sweeps in each round, in random order, after a calibration and the making of models."""
    rng = random.Random(seed)
    folder = place.folder / "optimum"
    folder.mkdir()
    python, script = str(place.envs / "optimum" / "bin" / "python"), str(HERE / "with_optimum.py")
    place.start([python, script, "prepare", json.dumps(optimum_request()), str(folder)])
    begin = time.perf_counter()
    place.start([sys.executable, "-m", "llmbench", "calibrate", "--device", "cpu"])
    found: dict[str, Any] = {"calibration_s": time.perf_counter() - begin, "llmbench": [], "optimum-benchmark": []}
    for number in range(rounds):
        for name in rng.sample(("llmbench", "optimum-benchmark"), 2):
            one = sweep_llmbench(seconds, place) if name == "llmbench" else sweep_optimum(place, folder)
            found[name].append(one)
            print(f"sweep {number + 1} of {rounds}: {name} {one['wall_s']:.1f} s", file=sys.stderr, flush=True)
    return found


def sweep_summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return ours over theirs, of what is not training or inference, rounds as pairs."""
    from llmbench import stats

    ours, theirs = ([[one["overhead_s"]] for one in found[name]] for name in ("llmbench", "optimum-benchmark"))
    ratio = stats.ratio_interval(ours, theirs, paired=True)
    return {"overhead_ratio": ratio.value, "overhead_ratio_ci": [ratio.low, ratio.high]}


def sweep_table(found: dict[str, Any], summary: dict[str, Any]) -> str:
    """Return both sweeps and optimum-benchmark's claims as Markdown."""
    lines = ["| tool | wall s | training and inference s | overhead s | sweeps |", "|---|---|---|---|---|"]
    for name in ("llmbench", "optimum-benchmark"):
        means = [statistics.fmean(one[key] for one in found[name]) for key in ("wall_s", "work_s", "overhead_s")]
        lines.append(f"| {name} | {' | '.join(f'{mean:.1f}' for mean in means)} | {len(found[name])} |")
    low, high = summary["overhead_ratio_ci"]
    interval = "" if low is None else f" ({low:.3f} - {high:.3f})"
    lines += ["", f"Overhead, ours over theirs: {summary['overhead_ratio']:.3f}{interval}; the aim is at most 0.1."]
    lines += [f"Measuring this machine's ceilings, once: {found['calibration_s']:.1f} s, not in the table.", ""]
    lines += ["| optimum-benchmark, training | steps | reported samples/s | true samples/s | factor |"]
    lines += ["|---|---|---|---|---|"]
    for one in found["optimum-benchmark"][0]["training"]:
        values = f"{one['reported_samples_per_s']:,.1f} | {one['true_samples_per_s']:,.1f} | {one['factor']:.1f}"
        lines.append(f"| {one['model']}, batch {one['batch_size']} | {one['steps']} | {values} |")
    return "\n".join(lines)


# --- all of it ------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8, help="fresh processes per tool and setting")
    parser.add_argument("--sweeps", type=int, default=3, help="rounds of the sweep")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timed training per process")
    parser.add_argument("--sweep-seconds", type=float, default=0.5, help="of timed steps per cell of our sweep")
    parser.add_argument("--parts", nargs="+", choices=("speed", "sweep"), default=["speed", "sweep"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the orders")
    parser.add_argument("--envs", type=Path, default=ROOT / ".venv-peers", help="where install.py made environments")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON document there")
    return parser.parse_args()


def main() -> None:
    """Measure, print the tables and write the document."""
    args = arguments()
    with tempfile.TemporaryDirectory() as name:
        place = Place(args.envs.resolve(), Path(name))
        code = "import json; from llmbench.worker.environment import capture; print(json.dumps(capture()))"
        document: dict[str, Any] = {"environment": json.loads(place.start([sys.executable, "-c", code]))}
        if "speed" in args.parts:
            shape = {"size": args.size, "batch_size": args.batch_size, "seq_len": args.seq_len, "steps": 10}
            settings = [
                Setting(model=model, precision=precision, prefix="told-", **shape)
                for model in args.models
                for precision in args.precisions
            ]
            found = measure_speed(settings, args.rounds, args.seconds, args.seed, place)
            document |= {"speed": speed_rows(found), "speed_raw": found}
            print(speed_table(document["speed"]) + "\n", flush=True)
        if "sweep" in args.parts:
            sweeps = measure_sweep(args.sweeps, args.sweep_seconds, args.seed, place)
            document |= {"sweep": sweep_summary(sweeps), "sweep_raw": sweeps}
            print(sweep_table(sweeps, document["sweep"]))
    if args.output:
        args.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
