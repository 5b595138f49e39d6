"""Progress of a run on standard error: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from llmbench.contract.job import Job
    from llmbench.contract.record import Event, Record

#: Seconds between plain lines about one cell, where there is no terminal to redraw.
PLAIN_INTERVAL_S = 10.0
#: Keys of a record's `spent` that only the first repeat of a cell has.
FIRST_ONLY = ("train_s", "verify_s", "score_s")


def style_for(stream: TextIO, *, quiet: bool) -> str:
    """Return how to show progress on `stream`: `none`, `bar` or `plain`.

    `CI` counts as no terminal; without rich there is no bar.
    """
    if quiet:
        return "none"
    redraws = stream.isatty() and not os.environ.get("CI") and importlib.util.find_spec("rich") is not None
    return "bar" if redraws else "plain"


class Progress:
    """Shows which repeat of which cell is running, its stage, step and loss, and the time left.

    Use it as a context manager. It is the listener of a run (`llmbench.execution.scheduler.RunListener`); an executor
    hands the events of a cell to `event`. `total` is the number of repeats to run, `first` how many of them are the
    first of their cell, which train, verify and are scored. The time left is the repeats left times the mean time of
    their kind. Until a later repeat has run, its time is that of the first ones without what only they do.
    """

    def __init__(self, total: int, first: int = 0, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.style = style_for(self.stream, quiet=quiet)
        self.total, self.first, self.done = total, first, 0
        self._times: dict[str, list[float]] = {"first": [], "later": [], "as later": []}
        self._printed_s = time.monotonic()
        self._label, self._detail = "", ""
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self.style == "bar":
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            text = TextColumn("{task.description}", markup=False)
            self._bar = Bar(
                text,
                BarColumn(20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}", markup=False),
                console=Console(file=self.stream),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("planning", total=self.total, left="")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, job: Job) -> None:
        """Note that the process of `job` begins."""
        self._label, self._detail = f"{job.cell.label} repeat {job.repeat + 1}/{job.processes or job.repeats}", ""
        self._show(now=True)

    def expect(self, processes: int, first: int = 0) -> None:
        """Note that so many processes are left, `first` of them the first of their cell; earlier counts are void."""
        self.total, self.first = self.done + processes, first
        if self._bar is not None:
            self._bar.update(self._task, total=self.total, left=self.time_left())

    def event(self, event: Event) -> None:
        """Note an event of a worker: `event` (setup, measure, train, score) and perhaps `step`, `steps`, `loss`."""
        parts = [str(event["event"])] if event.get("event") else []
        if event.get("step") is not None:
            parts.append(f"step {event['step']}" + (f"/{event['steps']}" if event.get("steps") else ""))
        if event.get("loss") is not None:
            parts.append(f"loss {event['loss']:.4g}")
        if parts:
            self._detail = " ".join(parts)
            self._show(now=False)

    def record(self, record: Record) -> None:
        """Note that a job ended with `record`, or was not run for the reason in it."""
        self.done += 1
        wall_s = record.get("wall_s") or 0.0
        if record["repeat"] == 0:
            self.first = max(0, self.first - 1)
            once_s = sum((record.get("spent") or {}).get(name) or 0.0 for name in FIRST_ONLY)
            self._times["as later"].append(max(0.0, wall_s - once_s))
        self._times["later" if record["repeat"] else "first"].append(wall_s)
        if self.style == "plain":
            cell = record["cell"]
            name = "/".join(str(cell[k]) for k in ("stage", "model", "size", "task", "precision", "device"))
            name += f"/{cell['role']}" if cell.get("role") else ""
            took = f" in {record['wall_s']:.1f} s" if record.get("wall_s") is not None else ""
            error = (record.get("error") or {}).get("message")
            why = f": {' '.join(str(error).split())}" if error else ""
            head = f"[{self.done}/{self.total}] {name} repeat {record['repeat'] + 1}: {record['status']}"
            self._line(f"{head}{took}{why}{self._comma_left()}")
        elif self._bar is not None:
            self._bar.update(self._task, completed=self.done, left=self.time_left())

    def time_left(self) -> str:
        """Return the time left, such as `~1:05 left`; empty while nothing has ended or nothing is left."""
        if not self.done or self.done >= self.total:
            return ""
        first, later = self._times["first"], self._times["later"] or self._times["as later"]
        left_s = self.first * statistics.fmean(first or later)
        left_s += (self.total - self.done - self.first) * statistics.fmean(later or first)
        return f"~{int(left_s) // 60}:{int(left_s) % 60:02d} left"

    def _comma_left(self) -> str:
        left = self.time_left()
        return f", {left}" if left else ""

    def _show(self, *, now: bool) -> None:
        text = " ".join(filter(None, [self._label, self._detail]))
        if self._bar is not None:
            self._bar.update(self._task, description=text, left=self.time_left())
        elif self.style == "plain" and not now and time.monotonic() - self._printed_s >= PLAIN_INTERVAL_S:
            self._line(text)

    def _line(self, text: str) -> None:
        self._printed_s = time.monotonic()
        print(text, file=self.stream, flush=True)
