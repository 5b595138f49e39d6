"""The time of a step on the CPU that is Python and no operator: inside of the module, and between the step's parts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import llmbench
from llmbench_plugins.causes._collectives import collectives
from llmbench_plugins.causes._operators import OperatorClock
from llmbench_plugins.causes._swap import Function, substitute

PLACES = ("step", "forward", "other")  # where a step is: between its parts, in the module, in another part


class HostSeconds(NamedTuple):
    """Seconds per step of Python, one number for each step that was timed."""

    inside: list[float]  # in the module's forward pass
    outside: list[float]  # outside of that pass, the backward pass, the update and collectives
    asleep: list[float]  # of `outside`: in `time.sleep`


def host_seconds(trial: llmbench.Trial) -> HostSeconds:
    """Return the seconds per step that are no operators, on the CPU.

    Operators are timed one by one where they leave Python. What watching itself takes is subtracted: it is measured
    with an operator that does next to nothing.
    """
    clock = HostClock()

    def parts(batch: Any, pace: float) -> tuple[float, float, float]:
        with clock.watch():
            clock.clear()
            whole = trial.once(lambda: trial.step(batch))
        inside = max(0.0, clock.forward_s - clock.operators_s("forward"))
        outside = max(0.0, whole - clock.forward_s - clock.others_s - clock.operators_s("step"))
        asleep = {place: min(clock.asleep[place], s) for place, s in (("forward", inside), ("step", outside))}
        # a sleep does not get longer on a slow machine
        inside = (inside - asleep["forward"]) * pace + asleep["forward"]
        return inside, (outside - asleep["step"]) * pace + asleep["step"], asleep["step"]

    with clock.watch():
        clock.calibrate(trial.trains)
    with clock.places(trial):
        parts(trial.pool[0], 1.0)  # warm up
        rows = [parts(batch, trial.paced(lambda: 1.0, batch)) for batch in trial.probes()]
    return HostSeconds(*(list(column) for column in zip(*rows, strict=True)))


class HostClock:
    """Knows where a step is (`place`), and adds up what its operators, its parts and its sleeps take."""

    def __init__(self) -> None:
        self.watching_s = 0.0  # what watching one operator takes
        self.on = False
        self.operators = OperatorClock(lambda *_: self.place)
        self.clear()

    def clear(self) -> None:
        """Begin a step."""
        self.place = "step"
        self.operators.clear()
        self.asleep = dict.fromkeys(PLACES, 0.0)
        self.forward_s = self.others_s = 0.0

    def operators_s(self, place: str) -> float:
        """Return the seconds of the operators there, including those of watching them."""
        return self.operators.seconds[place] + self.operators.counts[place] * self.watching_s

    def calibrate(self, trains: bool, calls: int = 500) -> None:
        """Measure what watching an operator takes, including what autograd notes of it."""
        import torch

        x = torch.zeros(1, requires_grad=trains)
        begin = time.perf_counter()
        for _ in range(calls):
            torch.neg(x)
        self.watching_s = max(0.0, time.perf_counter() - begin - self.operators.seconds["step"]) / calls

    def time_part(self, place: str, total: str) -> Callable[[Function], Function]:
        """Return a wrapper of functions that are a part of the step: `place` while they run, adding to `total`."""

        def wrap(inner: Function) -> Function:
            def call(*args: Any, **kwargs: Any) -> Any:
                if self.place != "step" or not self.on:
                    return inner(*args, **kwargs)
                self.place, begin = place, time.perf_counter()
                try:
                    return inner(*args, **kwargs)
                finally:
                    setattr(self, total, getattr(self, total) + time.perf_counter() - begin)
                    self.place = "step"

            return call

        return wrap

    def time_sleep(self, inner: Function) -> Function:
        """Return `time.sleep`, timed."""

        def call(seconds: float) -> None:
            begin = time.perf_counter()
            inner(seconds)
            self.asleep[self.place] += time.perf_counter() - begin

        return call

    @contextlib.contextmanager
    def places(self, trial: llmbench.Trial) -> Iterator[None]:
        """Note where steps are while they are watched. Entering takes a while, so it is done once for many steps."""
        import torch

        others = [(torch.autograd, "backward"), (torch.autograd, "grad")]
        others += [(trial.optimizer, "step")] if trial.optimizer is not None else []
        others += [place for _, places in collectives() for place in places]
        with contextlib.ExitStack() as stack:
            stack.enter_context(substitute([(trial.module, "forward")], self.time_part("forward", "forward_s")))
            stack.enter_context(substitute(others, self.time_part("other", "others_s")))
            stack.enter_context(substitute([(time, "sleep")], self.time_sleep))
            yield

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Time every operator, and the parts of the step."""
        self.on = True
        try:
            with self.operators.watch():
                yield
        finally:
            self.on = False
