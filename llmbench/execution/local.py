"""Run each cell in a process of its own on this machine, and turn crash, hang and memory exhaustion into records."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from llmbench.contract import errors
from llmbench.contract.job import Job, new_record
from llmbench.execution.child import UNSAFE_SERVER, Task, child_main
from llmbench.execution.exit_reason import Ending, count_oom_kills, explain_exit, log_size, log_tail
from llmbench.execution.worker_calls import PRELOAD_MODULE, RUN_JOB
from llmbench.records.run_dir import WORK

if TYPE_CHECKING:
    from llmbench.contract.record import Emit, Event, Record

PRELOAD = ("llmbench.execution.child", PRELOAD_MODULE)
SERVER_ENVIRONMENT = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
STACK_DUMP_S = 10.0  # time for a hanging cell to write its stack to the log; it ends when that is done
KILL_WAIT_S = 10.0
CALL_TIMEOUT_S = 300.0


class LocalExecutor:
    """Cells as child processes, one at a time; use it as a context manager.

    `start_method` is `forkserver` (a warm server that has imported the libraries, so that a cell starts in a tenth
    of a second) or `spawn`. `preload` names modules that the server imports, too; one server serves the whole process,
    so the first executor decides them. `timeout_s` limits each cell. `log_dir` gets one file per cell and repeat.
    `on_event` is called with each progress event of a cell.
    """

    def __init__(
        self,
        log_dir: str | Path,
        *,
        start_method: str = "forkserver",
        preload: Sequence[str] = (),
        timeout_s: float | None = None,
        on_event: Emit | None = None,
        target: str = RUN_JOB,
    ) -> None:
        self.log_dir = Path(log_dir).resolve()
        self.start_method = start_method
        self.preload = (*PRELOAD, *preload)
        self.timeout_s = timeout_s
        self.on_event = on_event
        self.target = target
        self._calls = 0

    def __enter__(self) -> LocalExecutor:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._work_dir.mkdir(parents=True, exist_ok=True)
        if self.start_method == "forkserver":
            from multiprocessing import forkserver

            forkserver.set_forkserver_preload(list(dict.fromkeys(self.preload)))
            with _launching():
                forkserver.ensure_running()  # it imports while the caller goes on
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._work_dir.rmdir()

    @property
    def _work_dir(self) -> Path:
        return self.log_dir.parent / WORK

    def run(self, job: Job) -> Record:
        """Run one repeat of one cell and return its record, whatever happens to the process.

        An exception, such as KeyboardInterrupt, kills the process and reaches the caller.
        """
        name = f"{job.cell.cell_id}-{job.repeat}"
        ending = self._run_task(self._task(self.target, name, job=job), self.timeout_s)
        if ending.result is not None:
            record = cast("Record", dict(ending.result))
        else:
            status, error = explain_exit(ending, self.timeout_s)
            record = new_record(job, status, error=error)
        record["started_at"] = ending.started_at
        record["wall_s"] = ending.wall_s
        return record

    def call(self, function_name: str, *args: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Return the JSON value of `module:function` called with `args` in a fresh process.

        An LlmbenchError of the process is raised here as it was; any other failure is a RuntimeError with its
        traceback. Calls have a time limit of their own, not that of cells.
        """
        self._calls += 1
        task = self._task(function_name, f"call-{os.getpid()}-{self._calls}", args=args)
        ending = self._run_task(task, timeout_s)
        if ending.result is None:
            _, failure = explain_exit(ending, timeout_s)
        elif "value" in ending.result:
            return ending.result["value"]
        else:
            failure = ending.result["error"]
        kind = getattr(errors, failure["type"], None)
        if isinstance(kind, type) and issubclass(kind, errors.LlmbenchError):
            raise kind(failure["message"])
        raise RuntimeError(f"{function_name}: {failure['message']}\n{failure['traceback']}")

    def server_threads(self) -> int | None:
        """Return the number of threads of the fork server (1 when it is safe to fork), None without a server."""
        if self.start_method != "forkserver":
            return None
        threads: int | None = self.call("llmbench.execution.child:parent_threads")
        return threads if self.start_method == "forkserver" else None

    # --- one child ---

    def _task(self, target: str, name: str, *, job: Job | None = None, args: tuple[Any, ...] = ()) -> Task:
        attempt = job.attempt if job else 0
        return Task(
            target=target,
            result_path=str(self._work_dir / f"{name}-{attempt}.json"),
            log_path=str(self.log_dir / f"{name}.log"),
            job=job,
            args=args,
            from_server=self.start_method == "forkserver",
        )

    def _run_task(self, task: Task, timeout_s: float | None) -> Ending:
        Path(task.result_path).unlink(missing_ok=True)
        unsafe: list[int] = []

        def on_event(event: Event) -> None:
            if event.get("event") == UNSAFE_SERVER:
                unsafe.append(event["threads"])
            elif self.on_event is not None:
                self.on_event(event)

        try:
            ending = self._run_child(task, timeout_s, on_event)
        except _ServerFailedError as error:
            return self._run_spawned(task, timeout_s, f"the fork server could not be used ({error})")
        if unsafe:
            reason = f"the fork server runs {unsafe[0]} threads, so that its children could hang"
            return self._run_spawned(task, timeout_s, reason)
        if task.job is None:
            with contextlib.suppress(OSError):
                if Path(task.log_path).stat().st_size == 0:
                    Path(task.log_path).unlink()
        return ending

    def _run_spawned(self, task: Task, timeout_s: float | None, reason: str) -> Ending:
        self.start_method = "spawn"
        sys.stderr.write(f"llmbench: {reason}; going on with fresh processes, which start more slowly\n")
        return self._run_task(dataclasses.replace(task, from_server=False), timeout_s)

    def _run_child(self, task: Task, timeout_s: float | None, on_event: Emit) -> Ending:
        context: Any = multiprocessing.get_context(self.start_method)
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=child_main, args=(task, writer))
        log_start = log_size(task.log_path)
        try:
            _start(process)
            writer.close()
            oom_kills = count_oom_kills()
            started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            start_s = time.monotonic()
            in_time = _watch(process, reader, None if timeout_s is None else start_s + timeout_s, on_event)
            wall_s = time.monotonic() - start_s
            if not in_time:
                _dump_stack(process)
            _kill(process)
            _drain(reader, on_event)
            return Ending(
                exit_code=process.exitcode if in_time else None,
                started_at=started_at,
                wall_s=wall_s,
                result=_take_json(task.result_path),
                log_tail=log_tail(task.log_path, log_start),
                oom_kills=count_oom_kills() - oom_kills,
            )
        finally:
            if process.pid is not None:
                _kill(process)
                with contextlib.suppress(ValueError):
                    process.close()
            reader.close()
            writer.close()


class _ServerFailedError(Exception):
    """The fork server died, in a module that it imports for instance."""


@contextlib.contextmanager
def _launching() -> Iterator[None]:
    """Let a child start without traces of this process.

    It must not import the user's script (or notebook, or console script), so the file of `__main__` is hidden. And
    pyarrow's allocator must not start a thread in the fork server.
    """
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: main.__dict__[name] for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    added = {name: value for name, value in SERVER_ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
        main.__dict__.update(hidden)


def _start(process: Any) -> None:
    try:
        with _launching():
            process.start()
    except (EOFError, ConnectionError, FileNotFoundError) as error:
        raise _ServerFailedError(f"{type(error).__name__}: {error}".rstrip(": ")) from error


def _watch(process: Any, reader: Connection, deadline_s: float | None, on_event: Emit) -> bool:
    """Sleep until the process ends, handing on its events; return False when the deadline came first."""
    sources = [reader, process.sentinel]
    while True:
        remaining_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        ready = wait(sources, remaining_s)
        if not ready:
            return False
        if process.sentinel in ready:
            return True
        if not _receive(reader, on_event):
            sources.remove(reader)


def _receive(reader: Connection, on_event: Emit) -> bool:
    try:
        event = json.loads(reader.recv_bytes())
    except (EOFError, OSError):
        return False
    on_event(event)
    return True


def _drain(reader: Connection, on_event: Emit) -> None:
    with contextlib.suppress(EOFError, OSError):
        while reader.poll() and _receive(reader, on_event):
            pass


def _dump_stack(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGUSR1)
    wait([process.sentinel], STACK_DUMP_S)


def _kill(process: Any) -> None:
    """Kill the process and everything in its group (a loader's workers), and wait for its end."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
        process.join(KILL_WAIT_S)


def _take_json(path: str) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    Path(path).unlink()
    return json.loads(text)
