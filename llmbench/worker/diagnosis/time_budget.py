"""What a diagnosis may take: a budget of wall time since the command began, and what it went to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llmbench.contract.errors import OutOfTime
from llmbench.worker.torch_engine.trial import TorchTrial

LEAST_END_S = 0.5  # kept for putting things back, writing the record and printing it
#: A budget that is used up before causes are looked at is overrun by this, so that some of them are.
LEAST_S, LEAST_STEPS = 1.0, 8


def now_s() -> float:
    """Return the reading of the clock."""
    return time.perf_counter()


@dataclass
class TimeBudget:
    """The seconds there are, counted by `clock` from `begun_s`, and the seconds that parts of the work took.

    `end_s` of them are kept for what comes behind the measuring.
    """

    budget_s: float
    begun_s: float
    end_s: float = LEAST_END_S
    clock: Callable[[], float] = now_s
    spent_s: dict[str, float] = field(default_factory=dict)

    @property
    def until(self) -> float:
        """The reading of the clock at which measuring must have ended."""
        return self.begun_s + self.budget_s - self.end_s

    def left_s(self) -> float:
        """Return the seconds that are left for measuring, 0 where it is over."""
        return max(0.0, self.until - self.clock())

    @contextlib.contextmanager
    def spending(self, name: str) -> Iterator[None]:
        """Note what happens inside under `name`."""
        begin = self.clock()
        try:
            yield
        finally:
            self.spent_s[name] = self.spent_s.get(name, 0.0) + self.clock() - begin

    def steps(self, step_s: float, share: float, least: int) -> int:
        """Return how many steps of `step_s` seconds a `share` of what is left pays for, `least` at least."""
        return max(least, int(share * self.left_s() / step_s)) if step_s > 0 else least

    def bound(self, trial: BoundedTrial) -> None:
        """Let the trial's steps end with the budget, or a few steps from now where that is later."""
        trial.clock = self.clock
        trial.until = max(self.until, self.clock() + LEAST_S + LEAST_STEPS * trial.step_s)


class BoundedTrial(TorchTrial):
    """A trial whose steps are refused from `until` on: a cause that is on trial then is out of time."""

    clock: Callable[[], float] = staticmethod(now_s)

    def step(self, batch: Any) -> Any:
        """Take the ordinary step on `batch`. Raises OutOfTime where the time is over."""
        if self.clock() >= self.until:
            raise OutOfTime
        return super().step(batch)
