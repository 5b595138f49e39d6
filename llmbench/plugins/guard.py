"""A watch over a third party's plugin while it is loaded.

It must not hang, end the process, print to standard output or patch torch: others would suffer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from llmbench.plugins.monkeypatches import Snapshot, patches_of

LIMIT_VARIABLE = "LLMBENCH_PLUGIN_SECONDS"
LIMIT_S = 10.0
_AGAIN_S = 1.0  # a plugin that swallows the first interruption gets another one


class TooLong(BaseException):
    """A plugin took longer to load than it may. No Exception, so that its own handlers do not swallow it."""


class Ended(BaseException):
    """A plugin tried to end the process that loads it. No Exception, as the call that it made never returns."""


@dataclass
class SideEffects:
    """Side effects of a plugin while it was loaded."""

    output: str = ""  # the first line that it sent to standard output
    patches: list[str] = field(default_factory=list)  # attributes of torch and llmbench that it replaced


def limit_s() -> float:
    """Return the seconds that loading one plugin may take: `LLMBENCH_PLUGIN_SECONDS`, else 10."""
    try:
        return max(0.1, float(os.environ.get(LIMIT_VARIABLE, LIMIT_S)))
    except ValueError:
        return LIMIT_S


@contextlib.contextmanager
def watching(root: str) -> Iterator[SideEffects]:
    """Load a plugin inside; `root` is the name of its package or top-level module.

    Raises TooLong inside when it hangs, Ended when it would end the process. Its output goes only into
    `SideEffects`, and what it replaced in torch or in llmbench is put back, as far as torch was loaded before.
    """
    seen = SideEffects()
    before = Snapshot()
    try:
        with _capture_output(seen), _limit_time(limit_s()), _no_end():
            yield seen
    finally:
        changes = before.find_patches()
        seen.patches = [str(change) for change in changes]
        for change in changes:
            change.undo()
        if not before.torch and "torch" in sys.modules:
            seen.patches += [str(change) for change in patches_of(root)]


@contextlib.contextmanager
def keep_standard_output() -> Iterator[None]:
    """Send what is printed inside to standard error, by Python and by anything else: the result comes afterwards."""
    sys.stdout.flush()
    with _descriptor_1(2), contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _capture_output(seen: SideEffects) -> Iterator[None]:
    """Note the first line of what is written to standard output, by Python or below it."""
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        try:
            with _descriptor_1(file.fileno()), contextlib.redirect_stdout(file):
                yield
        finally:
            file.flush()
            file.seek(0)
            seen.output = next((" ".join(line.split()) for line in file if line.strip()), "")


@contextlib.contextmanager
def _no_end() -> Iterator[None]:
    """Raise Ended where `os._exit` or `os.abort` is called inside: they would take everything with them."""

    def refusal(name: str) -> Callable[..., None]:
        def end(*_: object) -> None:
            raise Ended(f"it calls os.{name}, which would end llmbench")

        return end

    kept = {name: getattr(os, name) for name in ("_exit", "abort")}
    try:
        for name in kept:
            setattr(os, name, refusal(name))
        yield
    finally:
        for name, function in kept.items():
            setattr(os, name, function)


@contextlib.contextmanager
def _descriptor_1(target: int) -> Iterator[None]:
    try:
        kept = os.dup(1)
    except OSError:  # it is closed: nothing can be written there
        yield
        return
    try:
        os.dup2(target, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _limit_time(seconds: float) -> Iterator[None]:
    """Raise TooLong inside after so many seconds; only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooLong(f"took longer than {seconds:g} s to load; {LIMIT_VARIABLE} sets the limit")

    handler = signal.signal(signal.SIGALRM, stop)
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left_s, every_s)
        signal.signal(signal.SIGALRM, handler)
