"""The process of a cell: it is isolated, it has limits, and what goes wrong in it becomes a record."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from llmbench.contract.errors import Unsupported, is_out_of_memory
from llmbench.contract.files import write_atomic
from llmbench.contract.job import KEEP, Job, new_record
from llmbench.records.json_lines import dump_json

if TYPE_CHECKING:
    from llmbench.contract.record import ErrorFields, Event, Record, Status

MIB = 2**20
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
#: Event with which a child says that its fork server runs threads; the child then ends without working.
UNSAFE_SERVER = "unsafe_fork_server"


@dataclass(frozen=True)
class Task:
    """The work of a child: `target(job, emit)` when there is a job, else `target(*args)`."""

    target: str  # "module:function" or "file.py:function"
    result_path: str  # the JSON document that the child leaves
    log_path: str
    job: Job | None = None
    args: tuple[Any, ...] = ()
    from_server: bool = True  # the child is forked by a fork server, which must be single-threaded


class Answer(TypedDict, total=False):
    """The document of a child without a job: the value of its function, or the error."""

    value: Any
    error: ErrorFields


def child_main(task: Task, events: Connection) -> None:
    """Run `task` and leave the process; the entry point of every child."""
    code = 1
    if task.from_server:
        gc.freeze()  # the imported libraries are no garbage, and unwritten pages stay shared with the server
        gc.enable()
    try:
        _isolate(task)
        threads = parent_threads() if task.from_server else None
        if threads is not None and threads > 1:
            events.send_bytes(dump_json({"event": UNSAFE_SERVER, "threads": threads}).encode())
        else:
            result = _run_job(task, events) if task.job is not None else _call(task)
            write_atomic(Path(task.result_path), dump_json(result))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)  # no interpreter shutdown: it can hang in a library's threads


def resolve(target: str) -> Callable[..., Any]:
    """Return the function named `module:function` or `file.py:function`."""
    where, _, name = target.rpartition(":")
    if where.endswith(".py"):
        from llmbench.plugins.discovery import load_file

        return getattr(load_file(Path(where).resolve()), name)
    return getattr(importlib.import_module(where), name)


def parent_threads() -> int | None:
    """Return the number of threads of this process's parent, None where it is not known."""
    try:
        status = Path(f"/proc/{os.getppid()}/status").read_text()
    except OSError:
        return None
    match = re.search(r"^Threads:\s*(\d+)", status, re.MULTILINE)
    return int(match.group(1)) if match else None


# --- isolation ------------------------------------------------------------------------------------------


def _isolate(task: Task) -> None:
    with contextlib.suppress(OSError):
        os.setsid()
    _die_with_parent()
    fd = os.open(task.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)  # and end, as the signal says


def _die_with_parent() -> None:
    """Let this process, and those that it forks, end with the run, even where the run is killed with SIGKILL.

    The fork server ends when the last process that holds its `alive` pipe ends, and the kernel then kills the server's
    children. So this process, which inherited the pipe, has to close it.
    """
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and _set_death_signal() and _release_server():
        os.register_at_fork(before=_note_forking_thread, after_in_child=_death_signal_after_fork)
    elif parent is not None:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    if os.getppid() == 1 or (parent is not None and not parent.is_alive()):  # the parent had ended before
        os._exit(1)


def _leave_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _set_death_signal() -> bool:
    try:
        return ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False


def _release_server() -> bool:
    from multiprocessing import forkserver

    server = getattr(forkserver, "_forkserver", None)
    if not hasattr(server, "_forkserver_alive_fd"):
        return False
    fd = server._forkserver_alive_fd  # type: ignore[union-attr]
    if fd is not None:
        os.close(fd)
        server._forkserver_alive_fd = None  # type: ignore[union-attr]
    return True


_forking_pid: int | None = None  # of the process that forks, where its main thread does


def _note_forking_thread() -> None:
    global _forking_pid  # noqa: PLW0603 - a fork hook has nowhere else to put it
    main = threading.current_thread() is threading.main_thread()
    _forking_pid = os.getpid() if main else None


def _death_signal_after_fork() -> None:
    if _forking_pid is not None:  # a death signal follows the forking thread, and only the main one lives to the end
        _set_death_signal()
        if os.getppid() != _forking_pid:  # the parent had ended before
            os._exit(1)


def _limit_memory(memory_mib: float) -> None:
    """Let this process use at most `memory_mib` of private memory, with the memory that it uses already.

    The kernel counts reserved memory, too, so memory that is reserved and not touched at this point is added.
    """
    import resource

    status = Path("/proc/self/status")
    slack_kib = 0
    if status.exists():
        sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", status.read_text(), re.MULTILINE))
        slack_kib = max(0, int(sizes.get("VmData", 0)) - int(sizes.get("RssAnon", 0)))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_mib * MIB) + slack_kib * 1024, hard))


def _lift_memory_limit() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


# --- work -----------------------------------------------------------------------------------------------


def _run_job(task: Task, events: Connection) -> Record:
    job = task.job
    assert job is not None
    lock = threading.Lock()

    def emit(event: Event) -> None:
        if event.get("event") == KEEP:
            write_atomic(Path(task.result_path), dump_json(event["record"]))
            return
        with lock, contextlib.suppress(BrokenPipeError):
            events.send_bytes(dump_json(event).encode())

    try:
        function = resolve(task.target)
        if job.budget.memory_mib is not None and job.cell.device == "cpu":
            _limit_memory(job.budget.memory_mib)
        record: Record = function(job, emit)
        _lift_memory_limit()
        dump_json(record)
        return record
    except Exception as error:
        _lift_memory_limit()
        return new_record(job, classify(error), error=describe(error))


def _call(task: Task) -> Answer:
    try:
        return {"value": resolve(task.target)(*task.args)}
    except Exception as error:
        return {"error": describe(error)}


def classify(error: BaseException) -> Status:
    """Return the status that `error` gives a cell: unsupported, oom or error."""
    if isinstance(error, Unsupported):
        return "unsupported"
    return "oom" if is_out_of_memory(error) else "error"


def describe(error: BaseException) -> ErrorFields:
    """Return a record's `error`: type, message and traceback."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return {"type": type(error).__name__, "message": str(error), "traceback": "".join(lines)}
