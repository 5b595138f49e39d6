"""Run a plan: cells in order, repeats interleaved, everything recorded, nothing that is settled run twice."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from llmbench.analysis import process_counts
from llmbench.contract.cell import Cell
from llmbench.contract.job import FAILED, Job, new_record
from llmbench.records.run_dir import RunDir
from llmbench.suite.plan import PlannedCell

if TYPE_CHECKING:
    from llmbench.suite.plan import Plan


class Executor(Protocol):
    """What runs one job; `LocalExecutor` is one."""

    def run(self, job: Job) -> dict[str, Any]:
        """Return the record of `job`, whatever happens to its process; stop it and go on when interrupted."""


@dataclass(frozen=True)
class Outcome:
    """How a plan ended. `counts`: status -> repeats of the plan's cells, earlier runs included."""

    counts: Mapping[str, int]
    ran: int  # processes started by this call

    @property
    def failed(self) -> bool:
        """Return whether any cell failed."""
        return any(self.counts.get(status) for status in FAILED)


def run_plan(
    plan: Plan,
    run_dir: RunDir,
    executor: Executor,
    *,
    retry_failed: bool = False,
    plugin_files: Sequence[str] = (),
    cwd_plugins: str | None = None,
    left_out: Sequence[str] = (),
    environment_id: str | None = None,
    ceilings_ids: Mapping[str, str] | None = None,
    on_start: Callable[[Job], None] | None = None,
    on_record: Callable[[dict[str, Any]], None] | None = None,
    on_left: Callable[[int], None] | None = None,
    then: Callable[[Rounds], None] | None = None,
) -> Outcome:
    """Run what `plan` still needs and append every record to `run_dir`.

    Every cell gets its first repeats, cell by cell in rounds; then it is decided once, from what these recorded, which
    cells get more (see `llmbench.analysis.process_counts`), and those follow in rounds, too.
    `on_start` is called before each process and `on_record` after each record, also of cells that did not run;
    `on_left` with the number of processes that the decision left to run.
    `then` is called with the rounds when all cells are done, to run more of them.
    `ceilings_ids`: device -> id of its measured ceilings, to be noted in the records.
    Ctrl-C and SIGTERM stop the cell, record it as `interrupted` and raise KeyboardInterrupt.
    """
    common = {
        "repeats": plan.suite.repeats,
        "budget": plan.suite.budget,
        "verify": plan.suite.verify,
        "score": plan.suite.score,
        "trace": plan.suite.trace,
        "run_dir": str(run_dir.path.resolve()),
        "sources": dict(plan.sources),
        "weights": dict(plan.weights),
        "corpora": tuple(plan.corpora),
        "plugin_files": tuple(plugin_files),
        "cwd_plugins": cwd_plugins,
        "left_out": tuple(left_out),
        "environment_id": environment_id,
    }
    run = Rounds(
        plan, run_dir, executor, common=common, ceilings_ids=ceilings_ids or {}, on_start=on_start, on_record=on_record
    )
    settled = run.settled = run_dir.settled(retry_failed)
    with run.interrupts.installed():
        for repeat in range(plan.suite.repeats):
            run.round(plan.cells, repeat, settled)
        run.decide(plan)
        if on_left is not None:
            on_left(len(_further(plan, run_dir, run.counts) - settled))
        for repeat in range(plan.suite.repeats, max(run.counts.values(), default=0)):
            run.round([one for one in plan.cells if run.counts[one.cell.cell_id] > repeat], repeat, settled)
        if then is not None:
            then(run)
    return run.outcome()


def pairs_left(plan: Plan, run_dir: RunDir, retry_failed: bool = False) -> set[tuple[str, int]]:
    """Return the (cell id, repeat) that are known to be left to run: the first ones; when these are done, the further.

    Repeats of a cell whose first one failed are not left: they do not run.
    """
    settled = run_dir.settled(retry_failed)
    left = set()
    for one in plan.cells:
        name = one.cell.cell_id
        failed = (name, 0) in settled and run_dir.status(name, 0) != "ok"
        repeats = 0 if failed else 1 if one.blocked else plan.suite.repeats
        left |= {(name, repeat) for repeat in range(repeats)} - settled
    return left or _further(plan, run_dir, decided(plan, run_dir)) - settled


def decided(plan: Plan, run_dir: RunDir) -> dict[str, int]:
    """Return cell id -> how many processes the recorded first ones ask for; all of the plan's cells are in it."""
    suite = plan.suite
    counts = {one.cell.cell_id: suite.repeats for one in plan.cells}
    if suite.budget.max_repeats is None:
        return counts
    found = process_counts.decide(
        run_dir.records(), repeats=suite.repeats, max_repeats=suite.budget.max_repeats, ci_pct=suite.budget.ci_pct
    )
    return counts | {name: count for name, count in found.items() if name in counts}


def _further(plan: Plan, run_dir: RunDir, counts: Mapping[str, int]) -> set[tuple[str, int]]:
    runs = {name: count for name, count in counts.items() if run_dir.status(name, 0) == "ok"}
    return {(name, repeat) for name, count in runs.items() for repeat in range(plan.suite.repeats, count)}


class Rounds:
    """The state of one `run_plan`: runs repeats of cells in rounds, records them, and leaves out what is settled."""

    def __init__(
        self,
        plan: Plan,
        run_dir: RunDir,
        executor: Executor,
        *,
        common: dict[str, Any],
        ceilings_ids: Mapping[str, str],
        on_start: Callable[[Job], None] | None,
        on_record: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.planned: dict[str, PlannedCell] = {planned.cell.cell_id: planned for planned in plan.cells}
        self.run_dir = run_dir
        self.executor = executor
        self.common = common
        self.ceilings_ids = ceilings_ids
        self.on_start = on_start
        self.on_record = on_record
        self.counts: dict[str, int] = dict.fromkeys(self.planned, common["repeats"])
        self.interrupts = _Interrupts()
        self.settled: set[tuple[str, int]] = set()
        self.trials: dict[str, dict[str, Any]] = {}  # cell id of a trial of a remedy -> what its records say of it
        self.ran = 0

    def trial(self, cells: Sequence[Cell], repeat: int, about: Mapping[str, dict[str, Any]]) -> None:
        """Run one repeat of every trial of remedies that is not settled; `about`: cell id -> what records say of it."""
        self.trials |= about
        self.round([PlannedCell(cell) for cell in cells], repeat, self.settled)

    def decline(self, cell: Cell, reason: str, about: dict[str, Any]) -> None:
        """Record why a trial of a remedy is not run."""
        self.trials[cell.cell_id] = about
        self._record_unrun(cell, 0, "unsupported", "NotTried", reason)

    def round(self, cells: Sequence[PlannedCell], repeat: int, settled: set[tuple[str, int]]) -> None:
        """Run one repeat of every one of `cells` that needs it."""
        for one in cells:
            self.interrupts.check()
            if (one.cell.cell_id, repeat) not in settled:
                self.visit(one, repeat)

    def decide(self, plan: Plan) -> None:
        """Fix how many processes each cell gets."""
        self.counts = decided(plan, self.run_dir)

    def visit(self, planned: PlannedCell, repeat: int) -> None:
        """Run one repeat of one cell, or record why it is not run."""
        cell = planned.cell
        if planned.blocked is not None:
            if repeat == 0:
                self._record_unrun(cell, repeat, "unsupported", "Unsupported", planned.blocked)
            return
        if repeat > 0 and self.run_dir.status(cell.cell_id, 0) != "ok":
            return
        reason = self._unsupported_parent(cell)
        if reason is not None:
            self._record_unrun(cell, repeat, "unsupported", "Unsupported", reason)
            return
        problem = self._parent_problem(cell)
        if problem is None:
            self._attempt(cell, repeat)
        else:
            self._record_unrun(cell, repeat, "skipped", "Skipped", problem)

    def _unsupported_parent(self, cell: Cell) -> str | None:
        """Return why what `cell` starts from cannot run here, as a plan says it; None where it can."""
        parent = self.planned.get(cell.parent or "")
        if parent is None or self.run_dir.status(parent.cell.cell_id, 0) != "unsupported":
            return None
        found = [r for r in self.run_dir.records() if r["cell_id"] == parent.cell.cell_id and r["repeat"] == 0]
        why = str((found[-1].get("error") or {}).get("message") or "it is not supported")
        return why if why.startswith("its ") else f"its {parent.cell.stage} cell cannot run: {why}"

    def _parent_problem(self, cell: Cell) -> str | None:
        """Return why the checkpoint that `cell` starts from cannot be had, None when it is there."""
        if cell.parent is None:
            return None
        parent = self.planned.get(cell.parent)
        name = f"{parent.cell.label} ({cell.parent})" if parent else cell.parent
        status = self.run_dir.status(cell.parent, 0)
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
        status = self._attempt(cell, 0)["status"]
        if status != "ok":
            return f"needs the checkpoint of {name}, which ended as {status} when it was run again"
        return None if self._has_checkpoint(cell.cell_id) else f"needs the checkpoint of {name}, which left none"

    def _has_checkpoint(self, cell_id: str) -> bool:
        return (self.run_dir.checkpoints / cell_id).is_dir()

    def _attempt(self, cell: Cell, repeat: int) -> dict[str, Any]:
        job = self._job(cell, repeat)
        if self.on_start is not None:
            self.on_start(job)
        started_at, start_s = _now(), time.monotonic()
        self.ran += 1
        try:
            with self.interrupts.armed():
                record = self.executor.run(job)
        except KeyboardInterrupt:
            error = {"type": "Interrupted", "message": "stopped by the user", "traceback": None}
            wall_s = time.monotonic() - start_s
            self._append(new_record(job, "interrupted", started_at=started_at, wall_s=wall_s, error=error))
            raise
        self._append(record)
        return record

    def _job(self, cell: Cell, repeat: int) -> Job:
        attempt = self.run_dir.next_attempt(cell.cell_id, repeat)
        ceilings_id = self.ceilings_ids.get(cell.device)
        count = self.counts.get(cell.cell_id)
        job = Job(cell=cell, repeat=repeat, attempt=attempt, ceilings_id=ceilings_id, processes=count, **self.common)
        if cell.remedy_of is None:
            return job
        return dataclasses.replace(job, verify="none", remedy=self.trials[cell.cell_id])

    def _record_unrun(self, cell: Cell, repeat: int, status: str, kind: str, reason: str) -> None:
        if self.run_dir.status(cell.cell_id, repeat) == status:
            return  # said by an earlier run already
        error = {"type": kind, "message": reason, "traceback": None}
        self._append(new_record(self._job(cell, repeat), status, started_at=_now(), wall_s=0.0, error=error))

    def _append(self, record: dict[str, Any]) -> None:
        self.run_dir.append(record)
        if self.on_record is not None:
            self.on_record(record)

    def outcome(self) -> Outcome:
        """Return the latest status of every repeat of the plan's cells, counted."""
        found = [self.run_dir.status(name, repeat) for name, count in self.counts.items() for repeat in range(count)]
        return Outcome(dict(Counter(status for status in found if status is not None)), self.ran)


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
    def armed(self) -> Iterator[None]:
        """Let a signal interrupt what runs inside."""
        self._armed = True
        try:
            self.check()
            yield
        finally:
            self._armed = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
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
