"""A step under test, without anything of a framework: its batches, its clock, and all that these two are enough for."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmbench.contract.errors import Unisolated

if TYPE_CHECKING:
    from llmbench.contract.record import Function

MIN_PROBES = 3  # steps in which a part is timed
MAX_PROBES = 24
PROBE_S = 0.1  # of ordinary steps, for the number in between


@dataclass
class StepTrial:
    """See `llmbench.contract.specs.Trial`. `mark` and `between` are the clock; `regroup` and `tokens` know of padding.

    An engine that shows more of its step derives from this (`Engine.trial`).
    """

    module: Any  # of the engine; None where it shows none
    optimizer: Any  # None where the step has none, or it is not shown
    device: str  # kind: cpu, cuda, mps
    trains: bool  # whether a step has a backward pass
    generates: bool  # whether a step makes tokens one by one
    pool: Sequence[Any]  # batches, collated and in memory
    take_step: Callable[[Any], Any]  # of a batch
    make_fresh: Callable[[], Iterator[Any]]  # endless, as the loader gives them
    mark: Callable[[], Any]  # of `Engine`
    between: Callable[[Sequence[Any]], list[float]]  # `Engine.seconds_between`
    compiled: bool = False  # whether operators are hidden in compiled code
    workers: int = 0  # loader processes
    regroup: Callable[[], list[Any]] | None = None  # the pool by length
    tokens: Callable[[Any], int | None] | None = None  # of a batch, without padding
    scratch: dict[str, Any] = field(default_factory=dict)  # what `probe` keeps for `intervene`, by cause
    step_s: float = 0.0  # seconds of a step, about
    until: float = math.inf  # reading of `time.perf_counter` at which trials must have ended
    pace_s: float = 0.0  # seconds of a step in the clean pass, the wait for its batch left out; 0 where not known
    engine: str = "torch"  # its name
    origin: Any = None  # of a cell's step: what made it
    memory_used: float | None = None  # the share of the memory that is in use at the peak, None where not known
    #: Of a generation: batch -> the number of its passes, and a function that reads all tokens in one pass.
    one_pass: Callable[[Any], tuple[int, Callable[[], Any]]] | None = None  # see `llmbench.Trial`

    @property
    def facts(self) -> dict[str, Any]:
        """Return `scratch`, with `memory_used` and `teacher_forced` (`one_pass`) in it, as in version 1 of the API."""
        if self.memory_used is not None:
            self.scratch["memory_used"] = self.memory_used
        if self.one_pass is not None:
            self.scratch["teacher_forced"] = self.one_pass
        return self.scratch

    def step(self, batch: Any) -> Any:
        """Take the ordinary step on `batch`."""
        return self.take_step(batch)

    def fresh(self) -> Iterator[Any]:
        """Return an endless iterator over newly made batches."""
        return self.make_fresh()

    def tensors(self, batch: Any) -> dict[str, Any]:
        """Return the arrays of `batch` by a name each."""
        return dict(batch.arrays)

    def rebuilt(self, batch: Any, tensors: Mapping[str, Any]) -> Any:
        """Return `batch` with other arrays under the same names."""
        return dataclasses.replace(batch, arrays=dict(tensors))

    def real_tokens(self, batch: Any) -> int | None:
        """Return the number of tokens that are no padding, None where it is not known."""
        return None if self.tokens is None else self.tokens(batch)

    def regrouped(self) -> list[Any]:
        """Return the pool's examples in batches of the same size, by length, no longer than needed."""
        if self.regroup is None:
            raise Unisolated("it cannot be told which tokens are padding")
        return self.regroup()

    def merged(self, batches: Sequence[Any]) -> Any:
        """Return one batch with the examples of all. Raises Unisolated where they cannot be put together."""
        raise Unisolated(f"the engine {self.engine} cannot put batches together")

    def timed(self, parts: Callable[[Callable[[Function], Function]], AbstractContextManager[Any]]) -> list[float]:
        """Return the seconds per step that calls of the functions take. Raises Unisolated where they are in a graph."""
        raise Unisolated(f"the engine {self.engine} cannot time functions inside of a step")

    def without_update(self) -> AbstractContextManager[None]:
        """Return a context in which steps compute gradients and update nothing."""
        raise Unisolated(f"the engine {self.engine} cannot leave the update out")

    def without_recurrence(self) -> AbstractContextManager[None]:
        """Return a context in which recurrent layers are given the states before each token."""
        raise Unisolated(f"not written for the engine {self.engine}")

    def seconds(self, call: Callable[[], Any], *, least: int = 5) -> list[float]:
        """Return the seconds of each of `least` calls, after one that is not counted."""
        call()
        return [self.once(call) for _ in range(least)]

    def once(self, call: Callable[[], Any]) -> float:
        """Return the seconds of a call."""
        begin = self.mark()
        call()
        return self.between([begin, self.mark()])[0]

    def probes(self) -> Iterator[Any]:
        """Yield batches for timing parts of a step: a few, more of them where steps are short."""
        count = max(MIN_PROBES, min(MAX_PROBES, int(PROBE_S / self.step_s) if self.step_s else 0))
        return itertools.islice(itertools.cycle(self.pool), count)

    def paced(self, call: Callable[[], float], batch: Any) -> float:
        """Return the seconds that `call()` returns, at the pace of the clean pass.

        Machines change their speed from one second to the next, and a part of a step must not be compared with a whole
        step of another time. So an ordinary step on `batch` is timed right before, and the result of `call` is scaled
        by the time of a step in the clean pass over that of this step.
        """
        now_s = self.once(lambda: self.step(batch))
        then_s = self.pace_s or now_s
        return call() * then_s / now_s

    def settle(self, budget_s: float = 1.0) -> None:
        """Set `step_s` from a few steps on the pool."""
        begin = time.perf_counter()
        times: list[float] = []
        while len(times) < 3 or (len(times) < 7 and time.perf_counter() - begin < budget_s):
            batch = self.pool[len(times) % len(self.pool)]
            times += self.seconds(lambda batch=batch: self.step(batch), least=1)  # type: ignore[misc]
        self.step_s = statistics.median(times)
