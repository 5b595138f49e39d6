"""llmbench beside its peers. `python benchmarks/peers/run.py --rounds 8`, after `python benchmarks/peers/install.py`.

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
import shutil
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
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from workload import MODELS, PRECISIONS, STEADY_ALLOCATOR, Setting, write_suite  # noqa: E402

TOLD = str(HERE / "told.py")
PEERS = ("trainer", "lightning")
FIRST_STEPS = 1  # that llmbench takes before it warms up
WARMUP_STEPS = 20  # of a peer that are not counted
#: What must hold: a tool's own number within 2 % of the outside one; at least as fast; a tenth of the overhead.
PRINTED_LIMIT, SPEED_LIMIT, OVERHEAD_LIMIT = 0.02, 1.0, 0.1
SWEEP_BATCHES = {"bert": (4, 8, 16), "gpt": (4, 8)}
#: How optimum-benchmark runs the sweep: by its Python API, by its command for all cells (Hydra), by one for each.
WAYS = ("api", "multirun", "commands")
#: What llmbench looks at in the sweep: all that it looks at, or speed alone, as optimum-benchmark does.
OURS = {"llmbench": "all", "llmbench-speed": "speed"}
SWEEP_STEPS, SWEEP_WARMUP, SWEEP_EXAMPLES = 20, 10, 400
#: Variables that users do not set: without bytecode each start compiles what is installed as sources, as ours is here.
UNUSUAL = ("PYTHONDONTWRITEBYTECODE",)
#: glibc's allocator as it is, or one that keeps what it has.
ALLOCATORS = {"default": {}, "steady": STEADY_ALLOCATOR}


class NotHereError(Exception):
    """This machine cannot run a setting."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where things are: environments and a folder for data; and what every process gets: the C library's allocator."""

    envs: Path
    folder: Path
    allocator: str = "default"  # one of ALLOCATORS

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of every process that is started."""
        own = {
            "PYTHONPATH": str(HERE.parent),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "LLMBENCH_CACHE": str(self.folder / "cache-of-ceilings"),
            "NO_COLOR": "1",
        }
        usual = {name: value for name, value in os.environ.items() if name not in UNUSUAL}
        return {**usual, **own, **ALLOCATORS[self.allocator], **more}

    def start(self, command: Sequence[str], **more: str) -> str:
        """Run `command` to its end and return its standard output."""
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=self.environment(**more), cwd=self.folder
        )
        if done.returncode:
            raise SystemExit(f"{Path(command[1]).name}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout


class Kept:
    """The document, which a later call with the same `-o` goes on with. `stop_after` s after the start it is over."""

    def __init__(self, path: Path | None, stop_after: float) -> None:
        self.path = path
        self.end_s = time.monotonic() + stop_after
        known = path is not None and path.exists()
        self.document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if known and path else {}

    def over(self) -> bool:
        """Return whether nothing more should be started."""
        return time.monotonic() > self.end_s

    def save(self) -> None:
        """Write the document, where there is a file for it."""
        if self.path is not None:
            self.path.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")


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


def measure_speed(
    settings: Sequence[Setting], rounds: int, seconds: float, seed: int, place: Place, kept: Kept
) -> None:
    """Add to `kept`, per setting and tool, what is measured in each round that it does not hold yet."""
    found = kept.document.setdefault("speed_raw", {})
    lengths = kept.document.setdefault("speed_steps", {})
    for number in range(rounds):
        rng = random.Random(f"{seed} {number}")
        for setting in rng.sample(settings, len(settings)):
            order = rng.sample(("llmbench", *PEERS), 1 + len(PEERS))
            tools = found.setdefault(setting.label, {name: [] for name in ("llmbench", *PEERS, "lightning-monitor")})
            if len(tools["llmbench"]) > number or lengths.get(setting.label, 1) is None:
                continue
            if kept.over():
                return
            if setting.label not in lengths:
                lengths[setting.label] = peer_steps(setting, seconds, place)
                if lengths[setting.label] is None:
                    continue
            longer = dataclasses.replace(setting, steps=lengths[setting.label])
            one = {name: measure_tool(name, setting, longer, seconds, place) for name in order}
            if number == 0:  # what Lightning says of itself slows it, so that run is no comparison
                one["lightning-monitor"] = measure_peer("lightning", longer, place, monitor=True)
            for name, measured in one.items():
                tools[name].append(measured)
            kept.save()
            print(f"round {number + 1} of {rounds}: {setting.label}", file=sys.stderr, flush=True)


def measure_tool(name: str, setting: Setting, longer: Setting, seconds: float, place: Place) -> dict[str, Any]:
    """Run llmbench for `seconds` of timed steps, or a peer for the steps of `longer`."""
    return measure_llmbench(setting, seconds, place) if name == "llmbench" else measure_peer(name, longer, place)


def peer_steps(setting: Setting, seconds: float, place: Place) -> int | None:
    """Return how many steps take about `seconds`, None where this machine cannot run them; fills llmbench's caches."""
    try:
        steps = measure_llmbench(setting, min(seconds, 1.0), place)["steps"]
    except NotHereError as error:
        print(f"{setting.label} is left out: {error}", file=sys.stderr, flush=True)
        return None
    return WARMUP_STEPS + max(20, round(steps * seconds / min(seconds, 1.0)))


def speed_rows(found: dict[str, dict[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return a row per setting and tool; the ratio is llmbench's tokens/s over the tool's, rounds as pairs."""
    from llmbench import stats

    rows = []
    for label, tools in found.items():
        if not tools["llmbench"]:
            continue
        ours = [[1 / one["outside_tokens_per_s"]] for one in tools["llmbench"]]
        for name, measured in tools.items():
            if not measured:
                continue
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


def sweep_suite(seconds: float, measure: str) -> dict[str, Any]:
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
        "measure": measure,
    }


def sweep_llmbench(seconds: float, place: Place, measure: str) -> dict[str, Any]:
    """Run the sweep with the command line; return its seconds.

    `work_s` are steps: the first one, warm-ups, pilot, timed pass, phase pass, training and scoring. Building, tracing,
    the memory parts and everything else is overhead. `spent_s` is all that a cell does behind its preparation.
    """
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        suite = write_suite(sweep_suite(seconds, measure), Path(folder) / "sweep.yaml")
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
    from llmbench.worker.measuring.passes import PHASE_WARMUP_STEPS

    samples, timing = record["samples"], record["counts"]["timing"]
    first = FIRST_STEPS if record["cell"]["stage"] != "eval" else 0
    before = first + timing["warmup_steps"] + timing["pilot_steps"] + PHASE_WARMUP_STEPS
    phases = sum(sum(times) for times in record["phases"].values())
    steps = before * statistics.median(samples["step_s"]) + sum(samples["step_s"])
    trained = (record["training"] or {}).get("seconds", 0.0)
    return steps + phases + sum(samples["paired_step_s"]) + trained + record["spent"].get("score_s", 0.0)


def sweep_optimum(way: str, place: Place, folder: Path) -> dict[str, Any]:
    """Run the sweep with optimum-benchmark in one of WAYS; return its seconds and what it says of training."""
    python, script = str(place.envs / "optimum" / "bin" / "python"), str(HERE / "with_optimum.py")
    shutil.rmtree(place.folder / "runs", ignore_errors=True)
    command = [python, script, "command", "--config-dir", str(folder / "configs"), "--config-name", "sweep"]
    names = [f"{cell['model']}-{cell['stage']}-{cell['batch_size']}" for cell in sweep_cells()]
    begin = time.perf_counter()
    if way == "api":
        place.start([python, script, "api", json.dumps(optimum_request()), str(folder)])
    elif way == "multirun":
        place.start([*command, "--multirun", f"+cell={','.join(names)}"])
    else:
        for name in names:
            place.start([*command, f"+cell={name}"])
    wall_s = time.perf_counter() - begin
    if way == "api":
        cells = json.loads((folder / "api.json").read_text(encoding="utf-8"))
    else:
        reports = [place.folder / "runs" / name / "benchmark_report.json" for name in names]
        cells = [
            {**cell, "report": json.loads(report.read_text(encoding="utf-8"))}
            for cell, report in zip(sweep_cells(), reports, strict=True)
        ]
    claims = [claim(cell) for cell in cells if cell["stage"] == "finetune"]
    return ended(wall_s, sum(map(optimum_work_s, cells)), training=claims)


def optimum_request() -> dict[str, Any]:
    """Return what `with_optimum.py` is asked for."""
    from llmbench.plugins.discovery import discover

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


def measure_sweep(ways: Sequence[str], rounds: int, seconds: float, seed: int, place: Place, kept: Kept) -> None:
    """Add to `kept` what is not in it yet: in each round llmbench and optimum-benchmark in each of `ways`, shuffled."""
    found = kept.document.setdefault("sweep_raw", {})
    folder = place.folder / "optimum"
    if not folder.exists():
        folder.mkdir()
        python, script = str(place.envs / "optimum" / "bin" / "python"), str(HERE / "with_optimum.py")
        place.start([python, script, "prepare", json.dumps(optimum_request()), str(folder)])
    if "calibration_s" not in found:
        begin = time.perf_counter()
        place.start([sys.executable, "-m", "llmbench", "calibrate", "--device", "cpu"])
        found["calibration_s"] = time.perf_counter() - begin
    for number in range(rounds):
        rng = random.Random(f"{seed} {number}")
        for name in rng.sample((*OURS, *ways), len(OURS) + len(ways)):
            some = found.setdefault(name, [])
            if len(some) > number:
                continue
            if kept.over():
                return
            ours = OURS.get(name)
            some.append(sweep_llmbench(seconds, place, ours) if ours else sweep_optimum(name, place, folder))
            kept.save()
            print(f"sweep {number + 1} of {rounds}: {name} {some[-1]['wall_s']:.1f} s", file=sys.stderr, flush=True)


def sweep_summary(found: dict[str, Any], ours: str) -> dict[str, Any]:
    """Return ours (one of OURS) over theirs per way, of what is not training or inference, rounds as pairs."""
    from llmbench import stats

    out = {}
    for way in WAYS:
        pairs = list(zip(found.get(ours, ()), found.get(way, ()), strict=False))
        if pairs:
            mine, theirs = ([[pair[i]["overhead_s"]] for pair in pairs] for i in (0, 1))
            ratio = stats.ratio_interval(mine, theirs, paired=True)
            out[way] = {"overhead_ratio": ratio.value, "overhead_ratio_ci": [ratio.low, ratio.high]}
    return out


def sweep_table(found: dict[str, Any], summaries: dict[str, dict[str, Any]]) -> str:
    """Return all sweeps and optimum-benchmark's claims as Markdown."""
    over = [f"{name} / it (95 % interval)" for name in summaries]
    lines = [f"| sweep | wall s | training and inference s | overhead s | {' | '.join(over)} | sweeps |"]
    lines += ["|---|---|---|---|" + "---|" * len(over) + "---|"]
    for name in (*OURS, *WAYS):
        if not found.get(name):
            continue
        means = [statistics.fmean(one[key] for one in found[name]) for key in ("wall_s", "work_s", "overhead_s")]
        cells = [f"optimum-benchmark, {name}" if name in WAYS else name, *(f"{mean:.1f}" for mean in means)]
        ratios = [ratio_text(summary.get(name)) for summary in summaries.values()]
        lines.append(f"| {' | '.join([*cells, *ratios])} | {len(found[name])} |")
    lines += ["", f"Measuring this machine's ceilings, once: {found['calibration_s']:.1f} s, not in the table.", ""]
    claims = next((found[way][0]["training"] for way in WAYS if found.get(way)), [])
    lines += ["| optimum-benchmark, training | steps | reported samples/s | true samples/s | factor |"]
    lines += ["|---|---|---|---|---|"]
    for one in claims:
        values = f"{one['reported_samples_per_s']:,.1f} | {one['true_samples_per_s']:,.1f} | {one['factor']:.1f}"
        lines.append(f"| {one['model']}, batch {one['batch_size']} | {one['steps']} | {values} |")
    return "\n".join(lines)


def ratio_text(one: dict[str, Any] | None) -> str:
    """Return a ratio and its interval in words."""
    if one is None:
        return ""
    low, high = one["overhead_ratio_ci"]
    return f"{one['overhead_ratio']:.3f}" + ("" if low is None else f" ({low:.3f} - {high:.3f})")


# --- all of it ------------------------------------------------------------------------------------------


def with_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is trained, and where things are."""
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument(
        "--allocator", choices=ALLOCATORS, default="steady", help="of all tools: glibc as it is, or keeping what it has"
    )
    parser.add_argument("--envs", type=Path, default=ROOT / ".venv-peers", help="where install.py made environments")
    parser.add_argument("--folder", type=Path, help="for data and ceilings, to be kept between calls")
    parser.add_argument("-o", "--output", type=Path, help="the JSON document; what it holds is not measured again")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    with_settings(parser)
    parser.add_argument("--rounds", type=int, default=8, help="fresh processes per tool and setting")
    parser.add_argument("--sweeps", type=int, default=3, help="rounds of the sweep")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timed training per process")
    parser.add_argument("--sweep-seconds", type=float, default=0.5, help="of timed steps per cell of our sweep")
    parser.add_argument("--parts", nargs="+", choices=("speed", "sweep"), default=["speed", "sweep"])
    parser.add_argument("--seed", type=int, default=0, help="of the orders")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="how optimum-benchmark sweeps")
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="S", help="begin nothing after S s")
    return parser.parse_args()


def capture(place: Place) -> dict[str, Any]:
    """Return the environment, as llmbench records it."""
    code = "import json; from llmbench.worker.machine.environment import capture; print(json.dumps(capture()))"
    return json.loads(place.start([sys.executable, "-c", code]))


def settings_of(args: argparse.Namespace) -> list[Setting]:
    """Return what is trained."""
    shape = {"size": args.size, "batch_size": args.batch_size, "seq_len": args.seq_len, "steps": 10}
    return [
        Setting(model=model, precision=precision, prefix="told-", **shape)
        for model in args.models
        for precision in args.precisions
    ]


def main() -> None:
    """Measure, print the tables and write the document."""
    args = arguments()
    kept = Kept(args.output, args.stop_after)
    with tempfile.TemporaryDirectory() as name:
        folder = (args.folder or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        place = Place(args.envs.resolve(), folder)
        if "environment" not in kept.document:
            kept.document["environment"] = capture(place)
        if "sweep" in args.parts:
            measure_sweep(args.ways, args.sweeps, args.sweep_seconds, args.seed, place, kept)
        if "speed" in args.parts:
            place = dataclasses.replace(place, allocator=args.allocator)
            measure_speed(settings_of(args), args.rounds, args.seconds, args.seed, place, kept)
    show(kept)


def show(kept: Kept) -> None:
    """Print the tables of all that was measured; write the document."""
    document = kept.document
    if "speed_raw" in document:
        document["speed"] = speed_rows(document["speed_raw"])
        print(speed_table(document["speed"]) + "\n", flush=True)
    if document.get("sweep_raw", {}).get("llmbench"):
        document["sweep"] = {ours: sweep_summary(document["sweep_raw"], ours) for ours in OURS}
        print(sweep_table(document["sweep_raw"], document["sweep"]))
    kept.save()


if __name__ == "__main__":
    main()
