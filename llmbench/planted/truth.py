"""The step times of a case with and without its plant, by a plain training loop that knows nothing of causes.

Both run in processes of their own that are alive at the same time and take turns in short bursts, so that a machine
that gets slower for a second does so for both.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from llmbench.planted import cases

if TYPE_CHECKING:
    from llmbench.planted.hosts import Workload

#: Warm-up takes at least so many steps, and so many seconds.
WARM_STEPS = 3
WARM_S = 0.25
BURST_S = 0.03  # length of a burst, about
MIN_STEPS = 2  # of a burst
#: The first steps of a burst are not timed, since caches are cold and loader processes are ahead: at most so many
#: steps, or so many seconds.
SKIP_STEPS = 3
SKIP_S = 0.15
MIN_BURSTS = 5


def take_turns(name: str, seconds: float) -> dict[str, list[float]]:
    """Return `planted_s` and `unplanted_s`: the median seconds per step of bursts that came one after the other.

    Bursts are taken until each side has about `seconds` of them, and `MIN_BURSTS` at least. The calling process is
    forked, so it must not have computed anything yet. Raises RuntimeError where a side fails.
    """
    sides = {planted: _start_side(name, planted) for planted in (True, False)}
    steps_s = {planted: _answer(side) for planted, side in sides.items()}
    times: dict[bool, list[float]] = {True: [], False: []}
    spent = 0.0
    while spent < 2 * seconds or len(times[True]) < MIN_BURSTS:
        begin = time.perf_counter()
        for planted in (True, False) if len(times[True]) % 2 else (False, True):
            sides[planted].send(max(MIN_STEPS, math.ceil(BURST_S / steps_s[planted])))
            times[planted].append(_answer(sides[planted]))
        spent += time.perf_counter() - begin
    return {"planted_s": times[True], "unplanted_s": times[False]}


def _answer(side: Connection) -> float:
    answer = side.recv()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return float(answer)


def _start_side(name: str, planted: bool) -> Connection:
    """Start a side, a process of its own, and return the end of a pipe to it."""
    here, there = Pipe()
    if os.fork():
        there.close()
        return here
    here.close()
    try:
        _side(name, planted, there)
    except EOFError:  # nobody asks any more
        pass
    except BaseException:
        there.send(traceback.format_exc())
    finally:
        os._exit(0)


def _side(name: str, planted: bool, parent: Connection) -> None:
    """Send about how long a step takes; then receive numbers of steps, take them, and send their median time."""
    from llmbench.planted import targets

    case = next(case for case in cases.every() if case.name == name)
    workload = targets.build(case, planted=planted)
    step = workload.step or _ordinary(workload)
    batches = itertools.chain.from_iterable(itertools.repeat(workload.data))

    def time_steps(count: int) -> list[float]:
        times: list[float] = []
        last = time.perf_counter()
        for _ in range(count):
            step(next(batches))
            now = time.perf_counter()
            times.append(now - last)
            last = now
        return times

    begin, warm = time.perf_counter(), time_steps(WARM_STEPS)
    while time.perf_counter() < begin + WARM_S:
        warm = time_steps(WARM_STEPS)
    step_s = statistics.median(warm)
    parent.send(step_s)
    skipped = max(1, min(SKIP_STEPS, int(SKIP_S / step_s)))
    while True:
        count = parent.recv()
        time_steps(skipped)
        parent.send(statistics.median(time_steps(count)))


def _ordinary(workload: Workload) -> Callable[[Any], None]:
    """Return the ordinary step: forward, backward and update."""
    model, optimizer = workload.model, workload.optimizer
    assert optimizer is not None

    def step(batch: Any) -> None:
        out = model(**batch) if isinstance(batch, dict) else model(*batch)
        loss = out["loss"] if isinstance(out, dict) else out[1] if isinstance(out, tuple) else out
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
