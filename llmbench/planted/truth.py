"""The step time of a case in a process of its own, by a plain training loop that knows nothing of causes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

from llmbench.planted import cases

WARM_STEPS, WARM_S = 3, 0.25


def step_times(name: str, planted: bool, seconds: float) -> list[float]:
    """Return the seconds of each step, wait for the batch included, for about `seconds` behind the first ones."""
    from llmbench.planted import targets

    case = next(case for case in cases.every() if case.name == name)
    given = targets.build(case, planted=planted).target()
    step = given.get("step") or _ordinary(given)
    batches = itertools.chain.from_iterable(itertools.repeat(given["data"]))
    begin = time.perf_counter()
    while time.perf_counter() < begin + WARM_S:
        for _ in range(WARM_STEPS):
            step(next(batches))
    times: list[float] = []
    begin = last = time.perf_counter()
    while last < begin + seconds or len(times) < 5:
        step(next(batches))
        now = time.perf_counter()
        times.append(now - last)
        last = now
    return times


def _ordinary(given: Mapping[str, Any]) -> Callable[[Any], None]:
    """Return forward, backward and update."""
    model, optimizer = given["model"], given["optimizer"]

    def step(batch: Any) -> None:
        out = model(**batch) if isinstance(batch, dict) else model(*batch)
        loss = out["loss"] if isinstance(out, dict) else out[1] if isinstance(out, tuple) else out
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
