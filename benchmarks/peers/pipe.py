"""An independent clock: when each step began, as seen by the process that reads a named pipe."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType


class Steps:
    """Reads the pipe that `told.py` writes to; `seen` holds (seconds, tokens) per step, on this process's clock.

    A thread sleeps in `read` and looks at the clock when a line comes. Use it as a context manager.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[tuple[float, int]] = []

    def __enter__(self) -> Steps:
        os.mkfifo(self.path)
        self._end = os.open(self.path, os.O_RDWR)  # also a writer, so that the pipe outlives those that come and go
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.write(self._end, b"end\n")
        self._thread.join()
        os.close(self._end)
        self.path.unlink()

    def _read(self) -> None:
        rest = b""
        while True:
            data = os.read(self._end, 1 << 16)
            now_s = time.perf_counter()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line == b"end":
                    return
                self.seen.append((now_s, int(line)))


def tokens_per_s(seen: list[tuple[float, int]]) -> float:
    """Return tokens over wall time from the start of the first step to the start of the last, which is not counted."""
    (begin_s, _), (end_s, _) = seen[0], seen[-1]
    return sum(tokens for _, tokens in seen[:-1]) / (end_s - begin_s)
