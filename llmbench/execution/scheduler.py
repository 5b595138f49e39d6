"""Run a plan: cells in order, repeats interleaved, everything recorded, nothing that is settled run twice."""

from __future__ import annotations

import contextlib
import datetime
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from llmbench.analysis import process_counts
from llmbench.contract.cell import Cell
from llmbench.contract.job import FAILED, Job, new_record
from llmbench.records.run_dir import RunDir
from llmbench.suite.plan import PlannedCell

if TYPE_CHECKING:
    from llmbench.contract.record import Record, Status
    from llmbench.plugins.registry import Registry
    from llmbench.suite.plan import Plan

Repeat = tuple[str, int]  # id of a cell, and which of its processes


class Executor(Protocol):
    """Runs one job at a time; `LocalExecutor` is one."""

    def run(self, job: Job) -> Record:
        """Return the record of `job`, whatever happens to its process; stop it and go on when interrupted."""


class RunListener(Protocol):
    """Follows a run; `llmbench.execution.progress.Progress`, which shows it, is one."""

    def start(self, job: Job) -> None:
        """Note that the process of `job` begins."""

    def record(self, record: Record) -> None:
        """Note that a job ended with `record`, or was not run for the reason in it."""

    def expect(self, processes: int, first: int = 0) -> None:
        """Note how many processes are left to run, `first` of them the first of their cell."""


class _Silent:
    """Listens to nothing."""

    def start(self, job: Job) -> None:
        """Do nothing."""

    def record(self, record: Record) -> None:
        """Do nothing."""

    def expect(self, processes: int, first: int = 0) -> None:
        """Do nothing."""


SILENT: RunListener = _Silent()


@dataclass(frozen=True)
class RunContext:
    """What a run has from its begin to its end."""

    plan: Plan
    run_dir: RunDir
    executor: Executor
    registry: Registry
    cwd_plugins: str | None = None  # the folder whose `plugins/` is loaded, too
    environment_id: str | None = None
    ceilings_ids: Mapping[str, str] = field(default_factory=dict)  # device -> its measured ceilings
    retry_failed: bool = False
    listener: RunListener = SILENT


@dataclass(frozen=True)
class Outcome:
    """How a plan ended. `counts`: status -> repeats of the plan's cells, earlier runs included."""

    counts: Mapping[str, int]
    ran: int  # processes started by this call

    @property
    def any_failed(self) -> bool:
        """Whether any cell failed."""
        return any(self.counts.get(status) for status in FAILED)


def pairs_left(plan: Plan, run_dir: RunDir, retry_failed: bool = False) -> set[Repeat]:
    """Return the repeats that are known to be left to run: the first ones; when these are done, the further ones.

    Repeats of a cell whose first one failed are not left: they do not run.
    """
    settled = run_dir.list_settled(retry_failed)
    left = set()
    for planned in plan.cells:
        name = planned.cell.cell_id
        failed = (name, 0) in settled and run_dir.status(name, 0) != "ok"
        repeats = 0 if failed else 1 if planned.obstacle else plan.suite.repeats
        left |= {(name, repeat) for repeat in range(repeats)} - settled
    return left or _further_repeats(plan, run_dir, decide_counts(plan, run_dir)) - settled


def decide_counts(plan: Plan, run_dir: RunDir) -> dict[str, int]:
    """Return, for each cell of the plan by its id, how many processes the recorded first ones ask for."""
    suite = plan.suite
    counts = {planned.cell.cell_id: suite.repeats for planned in plan.cells}
    if suite.budget.max_repeats is None:
        return counts
    decided = process_counts.decide(
        run_dir.records(), repeats=suite.repeats, max_repeats=suite.budget.max_repeats, ci_pct=suite.budget.ci_pct
    )
    return counts | {name: count for name, count in decided.items() if name in counts}


def _further_repeats(plan: Plan, run_dir: RunDir, counts: Mapping[str, int]) -> set[Repeat]:
    """Return the repeats after the plan's first ones, of cells whose first one is ok."""
    runs = {name: count for name, count in counts.items() if run_dir.status(name, 0) == "ok"}
    return {(name, repeat) for name, count in runs.items() for repeat in range(plan.suite.repeats, count)}


class Schedule:
    """Runs the jobs of one run in order, records them, and leaves out what is settled.

    `run_plan` runs the plan's cells. What follows from their records (see `follow_up` and `remedy_search`) adds cells
    with `run_round`, or runs jobs of its own with `run_jobs`.
    """

    def __init__(self, context: RunContext) -> None:
        plan = context.plan
        self.context = context
        self.planned: dict[str, PlannedCell] = {planned.cell.cell_id: planned for planned in plan.cells}
        self.counts: dict[str, int] = dict.fromkeys(self.planned, plan.suite.repeats)  # processes by cell id
        self.settled: set[Repeat] = context.run_dir.list_settled(context.retry_failed)
        self._run_dir = context.run_dir
        self._listener = context.listener
        self._interrupts = _Interrupts()
        self._ran = 0

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[Schedule]:
        """Let Ctrl-C and SIGTERM stop the cell that runs: it is recorded as `interrupted`; raises KeyboardInterrupt."""
        with self._interrupts.install():
            yield self

    def run_plan(self) -> None:
        """Run what the plan still needs and append every record to the run directory.

        Every cell gets its first repeats, cell by cell in rounds. Then it is decided once, from what these recorded,
        which cells get more (see `llmbench.analysis.process_counts`), and those follow in rounds, too.
        """
        plan = self.context.plan
        for repeat in range(plan.suite.repeats):
            self.run_round(plan.cells, repeat)
        self.counts = decide_counts(plan, self._run_dir)
        self._listener.expect(len(_further_repeats(plan, self._run_dir, self.counts) - self.settled))
        for repeat in range(plan.suite.repeats, max(self.counts.values(), default=0)):
            self.run_round([one for one in plan.cells if self.counts[one.cell.cell_id] > repeat], repeat)

    def add_cells(self, cells: Iterable[PlannedCell]) -> None:
        """Count `cells` as part of the plan, with as many processes as its others at first."""
        for planned in cells:
            self.planned[planned.cell.cell_id] = planned
            self.counts[planned.cell.cell_id] = self.context.plan.suite.repeats

    def run_round(self, cells: Iterable[PlannedCell], repeat: int) -> None:
        """Run one repeat of each of `cells` that needs it."""
        for planned in cells:
            self._interrupts.check()
            if (planned.cell.cell_id, repeat) in self.settled:
                continue
            if planned.obstacle is None:
                self._visit(self.make_job(planned.cell, repeat))
            elif repeat == 0:
                self.record_unrun(self.make_job(planned.cell, 0), "unsupported", "Unsupported", planned.obstacle)

    def run_jobs(self, jobs: Iterable[Job]) -> None:
        """Run those of `jobs` that are not settled. An iterator is asked for a job when its turn has come."""
        for job in jobs:
            self._interrupts.check()
            if (job.cell.cell_id, job.repeat) not in self.settled:
                self._visit(job)

    def make_job(self, cell: Cell, repeat: int) -> Job:
        """Return the job of the next attempt at one repeat of a cell."""
        context, suite = self.context, self.context.plan.suite
        return Job(
            cell=cell,
            repeat=repeat,
            attempt=self._run_dir.next_attempt(cell.cell_id, repeat),
            repeats=suite.repeats,
            budget=suite.budget,
            run_dir=str(self._run_dir.path.resolve()),
            sources=dict(context.plan.sources),
            corpora=tuple(context.plan.corpora),
            plugin_files=context.registry.files,
            cwd_plugins=context.cwd_plugins,
            left_out=context.registry.keys_left_out,
            environment_id=context.environment_id,
            ceilings_id=context.ceilings_ids.get(cell.device),
            processes=self.counts.get(cell.cell_id),
            score=suite.score,
            trace=suite.trace,
            verify=suite.verify,
            weights=dict(context.plan.weights),
        )

    def record_unrun(self, job: Job, status: Status, error_type: str, reason: str) -> None:
        """Record why a job is not run, unless an earlier run has said so."""
        if self._run_dir.status(job.cell.cell_id, job.repeat) == status:
            return
        error = {"type": error_type, "message": reason, "traceback": None}
        self._append(new_record(job, status, started_at=_now(), wall_s=0.0, error=error))

    @property
    def outcome(self) -> Outcome:
        """The latest status of every repeat of the plan's cells, counted."""
        statuses = [
            self._run_dir.status(name, repeat) for name, count in self.counts.items() for repeat in range(count)
        ]
        return Outcome(dict(Counter(status for status in statuses if status is not None)), self._ran)

    # --- one job ---

    def _visit(self, job: Job) -> None:
        """Run a job, or record why it is not run."""
        cell = job.cell
        if job.repeat > 0 and self._run_dir.status(cell.cell_id, 0) != "ok":
            return
        reason = self._parent_refusal(cell)
        if reason is not None:
            self.record_unrun(job, "unsupported", "Unsupported", reason)
            return
        problem = self._parent_problem(cell)
        if problem is None:
            self._attempt(job)
        else:
            self.record_unrun(job, "skipped", "Skipped", problem)

    def _parent_refusal(self, cell: Cell) -> str | None:
        """Return why the parent of `cell` cannot run here, in the words of a plan; None where it can."""
        parent = self.planned.get(cell.parent or "")
        if parent is None or self._run_dir.status(parent.cell.cell_id, 0) != "unsupported":
            return None
        attempts = [r for r in self._run_dir.records() if r["cell_id"] == parent.cell.cell_id and r["repeat"] == 0]
        why = str((attempts[-1].get("error") or {}).get("message") or "it is not supported")
        return why if why.startswith("its ") else f"its {parent.cell.stage} cell cannot run: {why}"

    def _parent_problem(self, cell: Cell) -> str | None:
        """Return why the checkpoint that `cell` starts from cannot be had, None when it is there."""
        if cell.parent is None:
            return None
        parent = self.planned.get(cell.parent)
        name = f"{parent.cell.label} ({cell.parent})" if parent else cell.parent
        status = self._run_dir.status(cell.parent, 0)
        if status != "ok":
            return f"needs the checkpoint of {name}, which " + (f"ended as {status}" if status else "has not run")
        if self._has_checkpoint(cell.parent):
            return None
        if parent is None:
            return f"needs the checkpoint of {name}, which is gone and not in this plan"
        return self._make_again(parent.cell, name)

    def _make_again(self, cell: Cell, name: str) -> str | None:
        """Run a cell whose checkpoint was deleted once more; return why that did not bring it back, or None."""
        problem = self._parent_problem(cell)
        if problem is not None:
            return problem
        status = self._attempt(self.make_job(cell, 0))["status"]
        if status != "ok":
            return f"needs the checkpoint of {name}, which ended as {status} when it was run again"
        return None if self._has_checkpoint(cell.cell_id) else f"needs the checkpoint of {name}, which left none"

    def _has_checkpoint(self, cell_id: str) -> bool:
        return (self._run_dir.checkpoints / cell_id).is_dir()

    def _attempt(self, job: Job) -> Record:
        """Run a job and return its record."""
        self._listener.start(job)
        started_at, start_s = _now(), time.monotonic()
        self._ran += 1
        try:
            with self._interrupts.arm():
                record = self.context.executor.run(job)
        except KeyboardInterrupt:
            error = {"type": "Interrupted", "message": "stopped by the user", "traceback": None}
            wall_s = time.monotonic() - start_s
            self._append(new_record(job, "interrupted", started_at=started_at, wall_s=wall_s, error=error))
            raise
        self._append(record)
        return record

    def _append(self, record: Record) -> None:
        self._run_dir.append(record)
        self._listener.record(record)


class _Interrupts:
    """Ctrl-C and SIGTERM as KeyboardInterrupt, but only where a cell runs; elsewhere they wait for `check`."""

    def __init__(self) -> None:
        self._armed = False
        self._pending = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False  # a second Ctrl-C does not disturb the killing and recording
            raise KeyboardInterrupt
        self._pending = True

    def check(self) -> None:
        """Raise KeyboardInterrupt when a signal has come."""
        if self._pending:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def arm(self) -> Iterator[None]:
        """Let a signal interrupt what runs inside."""
        self._armed = True
        try:
            self.check()
            yield
        finally:
            self._armed = False

    @contextlib.contextmanager
    def install(self) -> Iterator[None]:
        """Handle the signals inside; outside the main thread, where Python forbids it, leave them as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._handle) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
