"""Timing operators one by one, forward and backward, and sorting them by their arguments.

Watching adds some ten microseconds to each operator, outside of the time that is noted.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._swap import Function, substitute

#: (operator, its arguments, its result) -> the kind that its time is added to, None for none.
KindOf = Callable[[Any, Sequence[Any], Any], Hashable | None]

STEPS = 2  # calls in which operators are timed by their kinds
WARMUP = 1  # calls before them
LARGE_RESULT = 2**20  # bytes: the memory of a result as large goes back to the system when it is freed
FREEING_TRIALS = 2


class OperatorClock:
    """Adds up the seconds of operators, and their number, by kind.

    With `synchronise`, the device is waited for before and after each operator, so that its time is its own. Without,
    only the host's part is timed, which is all of it on the CPU.
    """

    def __init__(self, kind_of: KindOf, *, synchronise: bool = False) -> None:
        self.kind_of, self.synchronise = kind_of, synchronise
        self.clear()

    def clear(self) -> None:
        """Forget all operators so far."""
        self.seconds: defaultdict[Hashable, float] = defaultdict(float)
        self.counts: Counter[Hashable] = Counter()

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Time every operator that is called inside of this context."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        clock = self

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if clock.synchronise:
                    torch.cuda.synchronize()
                begin = time.perf_counter()
                out = func(*args, **(kwargs or {}))
                if clock.synchronise:
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - begin
                kind = clock.kind_of(func, args, out)
                if kind is not None:
                    clock.seconds[kind] += seconds
                    clock.counts[kind] += 1
                return out

        with Watch():
            yield


def seconds_of(trial: llmbench.Trial, belongs: Callable[[str, Sequence[Any]], bool]) -> list[float]:
    """Return the seconds per step of the operators for which `belongs(name, tensors)` is true, without the update.

    `tensors` are an operator's arguments and, where it gives one tensor, its result. On the CPU, the time of freeing
    large results is added: the system takes their memory back after the operator that needs them last.
    """
    import torch

    updating = False
    freed_bytes: list[int] = []  # of the large results

    def kind_of(func: Any, args: Sequence[Any], out: Any) -> str | None:
        tensors = [t for t in (*args, out) if isinstance(t, torch.Tensor)]
        if updating or not belongs(func.overloadpacket.__name__, tensors):
            return None
        if trial.device == "cpu":
            freed_bytes.extend(_large_results(args, out))
        return "part"

    def skip(inner: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal updating
            updating = True
            try:
                return inner(*args, **kwargs)
            finally:
                updating = False

        return call

    clock = OperatorClock(kind_of, synchronise=trial.device == "cuda")
    update = [(trial.optimizer, "step")] if trial.optimizer is not None else []

    def part(batch: Any) -> float:
        clock.clear()
        freed_bytes.clear()
        with substitute(update, skip), clock.watch():
            trial.step(batch)
        return clock.seconds["part"] + sum(count * _freeing_s(size) for size, count in Counter(freed_bytes).items())

    part(trial.pool[0])  # warm up
    return [trial.paced(lambda batch=batch: part(batch), batch) for batch in trial.probes()]  # type: ignore[misc]


def _large_results(args: Sequence[Any], out: Any) -> Iterator[int]:
    """Yield the bytes of the large tensors that an operator returns in memory of their own."""
    import torch

    results = [t for t in (out if isinstance(out, tuple | list) else (out,)) if isinstance(t, torch.Tensor)]
    large = [storage for t in results if (storage := t.untyped_storage()).nbytes() >= LARGE_RESULT]
    if large:
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        yield from (storage.nbytes() for storage in large if storage.data_ptr() not in known)


def _freeing_s(size: int) -> float:
    """Return the seconds that it takes to free `size` bytes that were written to."""
    import torch

    times = []
    for _ in range(FREEING_TRIALS):
        tensor = torch.zeros(size, dtype=torch.uint8).fill_(1)
        begin = time.perf_counter()
        del tensor
        times.append(time.perf_counter() - begin)
    return min(times)


def seconds_by_kind(
    trial: llmbench.Trial, run: Callable[[int], Any], kind_of: Callable[[Any, Sequence[Any]], str | None]
) -> list[dict[str, tuple[float, int]]]:
    """Return, for each of a few calls of `run`, the seconds in operators of each kind and the number of these.

    `run` is given the number of its call. `kind_of(operator, arguments)` names the kind, None for none.
    """
    clock = OperatorClock(lambda func, args, _: kind_of(func, args), synchronise=trial.device == "cuda")
    rows = []
    with clock.watch():
        for i in range(WARMUP + STEPS):
            clock.clear()
            run(i)
            rows.append({str(kind): (clock.seconds[kind], n) for kind, n in clock.counts.items()})
    return rows[WARMUP:]


def operators_of(trial: llmbench.Trial, batch: Any) -> dict[tuple[str, Any], tuple[int, float]]:
    """Return the number and the seconds of a step's operators, by name and shape of the first tensor (or None)."""
    import torch

    def kind_of(func: Any, args: Sequence[Any], _: Any) -> tuple[str, Any]:
        return str(func), next((tuple(t.shape) for t in args if isinstance(t, torch.Tensor)), None)

    clock: Any = OperatorClock(kind_of)
    with clock.watch():
        trial.step(batch)
    return {kind: (count, clock.seconds[kind]) for kind, count in clock.counts.items()}
