"""Tokens/s of llmbench, Trainer and Lightning, taking turns on one core: `python benchmarks/peers/turns.py -o FILE`.

All processes are started first and take some steps, wherever there is room; then they wait. From then on one at a time
may take steps, on the core `--core` and for about `--window` seconds, in random order within a block, so that all tools
see the same machine. What is counted is the time between the starts of steps, on the clock of this process (`pipe.py`),
which is on that core, too, and sleeps between two steps. llmbench is in its clean pass then (2,000 steps, with all that
watches it). The C library's allocator is the same for all tools (`--allocator`), and by default one that keeps memory:
whether glibc's own gives it back after each step, which costs up to a quarter of the next one, is luck of the process.
Each call is one process per tool and setting; a later call with the same FILE adds its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipe import Steps, tokens_per_s
from run import HERE, PEERS, TOLD, Kept, Place, Setting, capture, settings_of, with_settings, write_suite

TOOLS = ("llmbench", *PEERS)
FIRST_STEPS = {"llmbench": 150, **dict.fromkeys(PEERS, 20)}  # of llmbench more than it takes before its clean pass
PEER_STEPS = 4000  # more than are taken
LOOK_STEPS = 12  # that say how many steps make a window
SHORTEST_STEPS = 5  # of a window
LONGEST_S, END_S = 1500.0, 10.0


class Runner:
    """A tool that trains one setting and waits for leave before each step; a context manager."""

    def __init__(self, tool: str, setting: Setting, place: Place, folder: Path) -> None:
        self.tool, self.setting, self.place, self.folder = tool, setting, place, folder
        self.steps = Steps(folder / "pipe")
        self.granted, self.window = 0, 0

    def __enter__(self) -> Runner:
        self.steps.__enter__()
        gate = self.folder / "gate"
        os.mkfifo(gate)
        self.gate = os.open(gate, os.O_RDWR)
        self.log = (self.folder / "log").open("w")
        self.process = subprocess.Popen(
            self.command(),
            env=self.place.environment(TOLD_PIPE=str(self.steps.path), TOLD_GATE=str(gate)),
            cwd=self.place.folder,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(ProcessLookupError):  # it has failed, and says why
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        trains = self.folder / "gate.pid"
        until_s = time.monotonic() + END_S
        while trains.exists() and Path(f"/proc/{trains.read_text()}").exists() and time.monotonic() < until_s:
            time.sleep(0.01)  # llmbench's cell dies with its parent, a little later
        os.close(self.gate)
        self.log.close()
        self.steps.__exit__(None, None, None)

    def command(self) -> list[str]:
        """Return the command line."""
        if self.tool == "llmbench":
            suite = write_suite(self.setting.suite("turns", LONGEST_S), self.folder / "turns.yaml")
            run = ["-o", str(self.folder / "run"), "--plugin", TOLD, "--quiet"]
            return [sys.executable, "-m", "llmbench", "run", str(suite), *run]
        longer = dataclasses.asdict(dataclasses.replace(self.setting, steps=PEER_STEPS))
        request = {"setting": longer, "folder": str(self.folder), "plugins": [TOLD], "monitor": False}
        python = self.place.envs / self.tool / "bin" / "python"
        return [str(python), str(HERE / f"with_{self.tool}.py"), json.dumps(request)]

    def grant(self, steps: int) -> None:
        """Give leave to take `steps` more."""
        os.write(self.gate, b"%08d" % steps)
        self.granted += steps

    def wait(self, until_s: float) -> None:
        """Wait until all that was granted is done: the next step has begun, and waits."""
        while len(self.steps.seen) <= self.granted:
            if self.process.poll() is not None or time.monotonic() > until_s:
                said = (self.folder / "log").read_text()[-2000:]
                raise SystemExit(f"{self.setting.label}: {self.tool} took {len(self.steps.seen)} steps\n{said}")
            time.sleep(0.01)

    def move(self, core: int) -> None:
        """Move the process that trains to a core."""
        move((self.folder / "gate.pid").read_text(), core)

    def turn(self, steps: int) -> float:
        """Take `steps` and return tokens/s, without the first one, which comes out of a pause."""
        begin = len(self.steps.seen)
        self.grant(steps)
        self.wait(time.monotonic() + LONGEST_S)
        return tokens_per_s(self.steps.seen[begin : begin + steps])


def move(process: str, core: int) -> None:
    """Move all threads of a process to a core."""
    for task in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Hold a lock that others respect, where one is given."""
    if path is None:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take_turns(runners: list[Runner], args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return, per setting and tool, tokens/s of each block."""
    rng = random.Random()
    end_s = time.monotonic() + args.longest
    move("self", args.core)  # where nothing else runs, so that the clock is looked at in time
    for runner in runners:
        runner.move(args.core)
        speed = runner.turn(LOOK_STEPS)
        tokens = statistics.fmean(tokens for _, tokens in runner.steps.seen[-LOOK_STEPS:])
        runner.window = max(SHORTEST_STEPS, round(args.window * speed / tokens))
    found: dict[str, dict[str, list[float]]] = {}
    by_setting: dict[str, list[Runner]] = {}
    for runner in runners:
        by_setting.setdefault(runner.setting.label, []).append(runner)
    for _ in range(args.blocks):
        for label in rng.sample(list(by_setting), len(by_setting)):
            if time.monotonic() > end_s:
                return found
            some = by_setting[label]
            for runner in rng.sample(some, len(some)):
                tools = found.setdefault(label, {name: [] for name in TOOLS})
                tools[runner.tool].append(runner.turn(runner.window))
    return found


def rows(sessions: list[dict[str, dict[str, list[float]]]]) -> list[dict[str, Any]]:
    """Return a row per setting and peer: llmbench's tokens/s over its, sessions as processes and blocks as pairs."""
    from llmbench import stats

    out = []
    for label in dict.fromkeys(name for session in sessions for name in session):
        some = [session[label] for session in sessions if label in session]
        ours = [[1 / speed for speed in one["llmbench"]] for one in some]
        for name in TOOLS:
            theirs = [[1 / speed for speed in one[name]] for one in some]
            speed = statistics.fmean(statistics.median(one[name]) for one in some)
            row = {"setting": label, "tool": name, "tokens_per_s": speed, "processes": len(some)}
            row["blocks"] = sum(len(one[name]) for one in some)
            if name != "llmbench":
                ratio = stats.ratio_interval(theirs, ours, paired=True)
                row |= {"ratio": ratio.value, "ratio_ci": [ratio.low, ratio.high]}
            out.append(row)
    return out


def table(found: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| setting | tool | tokens/s | llmbench / tool (95 % interval) | processes | blocks |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        low, high = row.get("ratio_ci", (None, None))
        interval = f" ({low:.3f} - {high:.3f})" if low is not None else ""
        ratio = f"{row['ratio']:.3f}{interval}" if "ratio" in row else ""
        cells = [row["setting"], row["tool"], f"{row['tokens_per_s']:,.0f}", ratio, row["processes"], row["blocks"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    with_settings(parser)
    parser.add_argument("--blocks", type=int, default=24, help="turns of each process")
    parser.add_argument("--window", type=float, default=0.4, help="seconds of a turn")
    parser.add_argument("--core", type=int, default=0, help="where turns are taken")
    parser.add_argument("--lock", type=Path, help="a file that is locked meanwhile")
    parser.add_argument("--longest", type=float, default=float("inf"), metavar="S", help="take no turn after S s")
    return parser.parse_args()


def main() -> None:
    """Start everything, take turns, add them to the document and print the table."""
    args = arguments()
    kept = Kept(args.output, float("inf"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        place = Place(args.envs.resolve(), (args.folder or Path(name)).resolve(), args.allocator)
        place.folder.mkdir(parents=True, exist_ok=True)
        kept.document.setdefault("environment", None)
        kept.document["environment"] = kept.document["environment"] or capture(place)
        runners = []
        for setting in settings_of(args):
            for tool in TOOLS:
                folder = Path(name) / f"{setting.label.replace('/', '-')}-{tool}"
                folder.mkdir()
                runners.append(stack.enter_context(Runner(tool, setting, place, folder)))
                runners[-1].grant(FIRST_STEPS[tool])
        for runner in runners:
            runner.wait(time.monotonic() + LONGEST_S)
            print(f"ready: {runner.setting.label} {runner.tool}", file=sys.stderr, flush=True)
        with locked(args.lock):
            found = take_turns(runners, args)
    name = "turns" if args.allocator == "steady" else f"turns_{args.allocator}"
    kept.document.setdefault(f"{name}_raw", []).append(found)
    kept.document[name] = rows(kept.document[f"{name}_raw"])
    kept.save()
    print(table(kept.document[name]))


if __name__ == "__main__":
    main()
