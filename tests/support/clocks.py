"""A clock that tests turn: what they plant is what is measured, on any machine."""

from __future__ import annotations

import threading
import time


class Clock:
    """Time passes where a test says so; whoever looks takes a microsecond."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.spend(1e-6)
        return self.now

    def spend(self, seconds):
        self.now += seconds

    @classmethod
    def instead_of_time(cls, monkeypatch, *, sleep=False):
        """Return a clock that all measuring in this thread looks at, and, with `sleep`, that sleeping turns.

        Waiting for a process sleeps, too, so often as that takes: a test that starts one has to leave sleeping alone.
        Libraries that are first imported meanwhile keep these functions, so they are the real ones after the test.
        """
        clock, thread = cls(), threading.get_ident()
        real_look, real_sleep = time.perf_counter, time.sleep

        def in_the_test():
            return time.perf_counter is look and threading.get_ident() == thread

        def look():
            return clock() if in_the_test() else real_look()

        def asleep(seconds):
            return clock.spend(seconds) if in_the_test() else real_sleep(seconds)

        monkeypatch.setattr(time, "perf_counter", look)
        if sleep:
            monkeypatch.setattr(time, "sleep", asleep)
        return clock
