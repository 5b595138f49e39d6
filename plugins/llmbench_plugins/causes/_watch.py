"""The time of operators that are told by the shapes of their tensors, forward and backward."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._collectives import collectives
from llmbench_plugins.causes._swap import Function, replaced

STEPS, WARMUP = 4, 1
LARGE_RESULT, GIVEN_BACK = 2**20, 2  # bytes of a result whose memory goes back to the system; times that is tried


def seconds_of(trial: llmbench.Trial, wanted: Callable[[str, Sequence[Any]], bool]) -> list[float]:
    """Return the seconds per step of the operators that `wanted(name, tensors)` names; updates are left out.

    `tensors` are an operator's arguments and, where it gives one tensor, its result. Looking on adds some ten
    microseconds to every operator, outside of what is timed: for large operators. Giving the memory of large results
    back takes time, too, behind the operator that needs it last: it is timed apart, for as many bytes (on the CPU).
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    counting, seconds = True, 0.0
    given_back: list[int] = []  # bytes of large results

    def wait() -> None:
        if trial.device == "cuda":
            torch.cuda.synchronize()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal seconds
            wait()
            begin = time.perf_counter()
            out = func(*args, **(kwargs or {}))
            wait()
            took = time.perf_counter() - begin
            if counting:
                tensors = [t for t in (*args, out) if isinstance(t, torch.Tensor)]
                if wanted(func.overloadpacket.__name__, tensors):
                    seconds += took
                    if trial.device == "cpu":
                        given_back.extend(_large_results(args, out))
            return out

    def paused(inner: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal counting
            counting = False
            try:
                return inner(*args, **kwargs)
            finally:
                counting = True

        return call

    update = [(trial.optimizer, "step")] if trial.optimizer is not None else []

    def part(batch: Any) -> float:
        nonlocal seconds
        seconds = 0.0
        given_back.clear()
        with replaced(update, paused), Watch():
            trial.step(batch)
        return seconds + sum(count * _giving_back_s(size) for size, count in Counter(given_back).items())

    part(trial.pool[0])  # warm up
    return [trial.paced(lambda batch=batch: part(batch), batch) for batch in trial.probes()]  # type: ignore[misc]


def _large_results(args: Sequence[Any], out: Any) -> Iterator[int]:
    """Yield the bytes of the large tensors that an operator gives in memory of their own."""
    import torch

    results = [t for t in (out if isinstance(out, tuple | list) else (out,)) if isinstance(t, torch.Tensor)]
    large = [storage for t in results if (storage := t.untyped_storage()).nbytes() >= LARGE_RESULT]
    if large:
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        yield from (storage.nbytes() for storage in large if storage.data_ptr() not in known)


def _giving_back_s(size: int) -> float:
    """Return the seconds that it takes to give so many bytes back, once they were written to."""
    import torch

    times = []
    for _ in range(GIVEN_BACK):
        tensor = torch.zeros(size, dtype=torch.uint8).fill_(1)
        begin = time.perf_counter()
        del tensor
        times.append(time.perf_counter() - begin)
    return min(times)


def operator_seconds(
    trial: llmbench.Trial, run: Callable[[int], Any], kind_of: Callable[[Any, Sequence[Any]], str | None]
) -> list[dict[str, tuple[float, int]]]:
    """Return per call of `run` (with its number) the seconds in operators of each kind, and how many there were.

    `kind_of(operator, arguments)` names the kind, None where it is of none.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    sums: dict[str, tuple[float, int]] = {}

    def wait() -> None:
        if trial.device == "cuda":
            torch.cuda.synchronize()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kind = kind_of(func, args)
            if kind is None:
                return func(*args, **(kwargs or {}))
            wait()
            begin = time.perf_counter()
            out = func(*args, **(kwargs or {}))
            wait()
            seconds, count = sums.get(kind, (0.0, 0))
            sums[kind] = seconds + time.perf_counter() - begin, count + 1
            return out

    found = []
    with Watch():
        for i in range(WARMUP + STEPS // 2):
            sums = {}
            run(i)
            found.append(sums)
    return found[WARMUP:]


def operators(trial: llmbench.Trial, batch: Any) -> dict[Any, tuple[int, float]]:
    """Return, per name and first shape of the operators of a step on `batch`, how many there were and their seconds."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found: dict[Any, tuple[int, float]] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            begin = time.perf_counter()
            out = func(*args, **(kwargs or {}))
            took = time.perf_counter() - begin
            first = next((tuple(t.shape) for t in args if isinstance(t, torch.Tensor)), None)
            count, seconds = found.get((str(func), first), (0, 0.0))
            found[str(func), first] = count + 1, seconds + took
            return out

    with Watch():
        trial.step(batch)
    return found


def host_seconds(trial: llmbench.Trial) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds per step on the CPU that are no operators: in the module, between the parts, and asleep.

    The first is what the module's forward pass spends outside of its operators; the second what a step spends outside
    of that pass, of the backward pass, the update, collectives and operators; the third, of the second, `time.sleep`.
    Operators are timed one by one where they leave Python; what looking on takes is taken off, by what it takes for an
    operator that does next to nothing.
    """
    clock = _HostClock()

    def parts(batch: Any, pace: float) -> tuple[float, float, float]:
        with clock.watch():
            clock.clear()
            whole = trial.once(lambda: trial.step(batch))
        inside = max(0.0, clock.forward_s - clock.of("forward"))
        outside = max(0.0, whole - clock.forward_s - clock.others_s - clock.of("step"))
        asleep = {place: min(clock.asleep[place], s) for place, s in (("forward", inside), ("step", outside))}
        # a sleep does not get longer on a slow machine
        inside = (inside - asleep["forward"]) * pace + asleep["forward"]
        return inside, (outside - asleep["step"]) * pace + asleep["step"], asleep["step"]

    with clock.watch():
        clock.calibrate(trial.trains)
    with clock.places(trial):
        parts(trial.pool[0], 1.0)  # warm up
        found = [parts(batch, trial.paced(lambda: 1.0, batch)) for batch in trial.probes()]
    columns = list(zip(*found, strict=True))
    return list(columns[0]), list(columns[1]), list(columns[2])


class _HostClock:
    """Where a step is, and what its operators take."""

    def __init__(self) -> None:
        self.each = 0.0  # seconds of looking on at one operator
        self.on = False
        self.clear()

    def clear(self) -> None:
        self.place = "step"
        self.busy = {"step": 0.0, "forward": 0.0, "other": 0.0}
        self.count = dict.fromkeys(self.busy, 0)
        self.asleep = dict.fromkeys(self.busy, 0.0)
        self.forward_s = self.others_s = 0.0

    def of(self, place: str) -> float:
        """Return the seconds of the operators there, looking on included."""
        return self.busy[place] + self.count[place] * self.each

    def calibrate(self, trains: bool, calls: int = 500) -> None:
        """Find out what looking on takes, and what autograd notes for an operator."""
        import torch

        x = torch.zeros(1, requires_grad=trains)
        begin = time.perf_counter()
        for _ in range(calls):
            torch.neg(x)
        self.each = max(0.0, time.perf_counter() - begin - self.busy["step"]) / calls

    def spent(self, place: str, total: str) -> Callable[[Function], Function]:
        """Return what times a function and says that a step is there meanwhile."""

        def timed(inner: Function) -> Function:
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

        return timed

    def sleeping(self, inner: Function) -> Function:
        """Return `time.sleep`, timed."""

        def call(seconds: float) -> None:
            begin = time.perf_counter()
            inner(seconds)
            self.asleep[self.place] += time.perf_counter() - begin

        return call

    @contextlib.contextmanager
    def places(self, trial: llmbench.Trial) -> Iterator[None]:
        """Note where steps are, whenever somebody watches. Finding the places takes a while: once for many steps."""
        import torch

        others = [(torch.autograd, "backward"), (torch.autograd, "grad")]
        others += [(trial.optimizer, "step")] if trial.optimizer is not None else []
        others += [place for _, places in collectives() for place in places]
        with contextlib.ExitStack() as stack:
            stack.enter_context(replaced([(trial.module, "forward")], self.spent("forward", "forward_s")))
            stack.enter_context(replaced(others, self.spent("other", "others_s")))
            stack.enter_context(replaced([(time, "sleep")], self.sleeping))
            yield

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Time every operator."""
        from torch.utils._python_dispatch import TorchDispatchMode

        clock = self

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                begin = time.perf_counter()
                out = func(*args, **(kwargs or {}))
                clock.busy[clock.place] += time.perf_counter() - begin
                clock.count[clock.place] += 1
                return out

        self.on = True
        try:
            with Watch():
                yield
        finally:
            self.on = False
