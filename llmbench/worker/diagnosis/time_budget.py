"""The time of a diagnosis: a budget of wall time since the command began, and the parts that it went to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llmbench.contract.errors import OutOfTime
from llmbench.worker.torch_engine.trial import TorchTrial

LEAST_END_S = 0.5  # for the end: values are restored, the record is written and printed
#: A budget that is used up before any cause is looked at is overrun by so much, so that some of them are looked at.
LEAST_S = 1.0
LEAST_STEPS = 8


def now_s() -> float:
    """Return the reading of the clock."""
    return time.perf_counter()


@dataclass
class TimeBudget:
    """The seconds of a diagnosis, and the seconds that its parts took."""

    budget_s: float
    start_s: float  # the reading of `clock` at which it began
    end_s: float = LEAST_END_S  # seconds for everything after the measuring
    clock: Callable[[], float] = now_s
    spent_s: dict[str, float] = field(default_factory=dict)  # part -> its seconds

    @property
    def until(self) -> float:
        """The reading of the clock at which measuring must have ended."""
        return self.start_s + self.budget_s - self.end_s

    def remaining_s(self) -> float:
        """Return the seconds that remain for measuring, 0 after its end."""
        return max(0.0, self.until - self.clock())

    @contextlib.contextmanager
    def spending(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to the part `name`."""
        begin = self.clock()
        try:
            yield
        finally:
            self.spent_s[name] = self.spent_s.get(name, 0.0) + self.clock() - begin

    def steps(self, step_s: float, share: float, least: int) -> int:
        """Return the number of steps of `step_s` seconds in a `share` of the remaining time, `least` at least."""
        return max(least, int(share * self.remaining_s() / step_s)) if step_s > 0 else least

    def limit(self, trial: BoundedTrial) -> None:
        """Let the trial's steps end with the budget, or a few steps from now where that is later."""
        trial.clock = self.clock
        trial.until = max(self.until, self.clock() + LEAST_S + LEAST_STEPS * trial.step_s)


class BoundedTrial(TorchTrial):
    """A trial that refuses steps after `until`: a cause that is on trial then is out of time."""

    clock: Callable[[], float] = staticmethod(now_s)

    def step(self, batch: Any) -> Any:
        """Take the ordinary step on `batch`. Raises OutOfTime where the time is over."""
        if self.clock() >= self.until:
            raise OutOfTime
        return super().step(batch)
