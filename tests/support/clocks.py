"""A clock that tests turn: what they plant is what is measured, on any machine."""

from __future__ import annotations

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
    def instead_of_time(cls, monkeypatch):
        """Return a clock that all measuring looks at, and that sleeping turns."""
        clock = cls()
        monkeypatch.setattr(time, "perf_counter", clock)
        monkeypatch.setattr(time, "sleep", clock.spend)
        return clock
