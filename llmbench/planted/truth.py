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
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from llmbench.planted import cases

WARM_STEPS, WARM_S = 3, 0.25
BURST_S, FEWEST_STEPS = 0.03, 2  # of a burst: seconds, about, and steps at least
#: At the begin of a burst so many steps are not timed, or seconds: caches are cold, and loader processes are ahead.
SKIPPED, SKIPPED_S = 3, 0.15
FEWEST_BURSTS = 5


def turns(name: str, seconds: float) -> dict[str, list[float]]:
    """Return `planted_s` and `unplanted_s`: seconds per step (median) of bursts that stood next to each other.

    Bursts are taken until each side has about `seconds` of them, and `FEWEST_BURSTS` at least. Must be called in a
    process that has computed nothing yet: it is forked. Raises RuntimeError where a side fails.
    """
    sides = {planted: _started(name, planted) for planted in (True, False)}
    steps_s = {planted: _answer(side) for planted, side in sides.items()}
    times: dict[bool, list[float]] = {True: [], False: []}
    spent = 0.0
    while spent < 2 * seconds or len(times[True]) < FEWEST_BURSTS:
        begin = time.perf_counter()
        for planted in (True, False) if len(times[True]) % 2 else (False, True):
            sides[planted].send(max(FEWEST_STEPS, math.ceil(BURST_S / steps_s[planted])))
            times[planted].append(_answer(sides[planted]))
        spent += time.perf_counter() - begin
    return {"planted_s": times[True], "unplanted_s": times[False]}


def _answer(side: Connection) -> float:
    found = side.recv()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _started(name: str, planted: bool) -> Connection:
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


def _side(name: str, planted: bool, asked: Connection) -> None:
    """Say what a step takes, about; then, whenever a number of steps is asked for, what they took."""
    from llmbench.planted import targets

    case = next(case for case in cases.every() if case.name == name)
    given = targets.build(case, planted=planted).target()
    step = given.get("step") or _ordinary(given)
    batches = itertools.chain.from_iterable(itertools.repeat(given["data"]))

    def timed(count: int) -> list[float]:
        times: list[float] = []
        last = time.perf_counter()
        for _ in range(count):
            step(next(batches))
            now = time.perf_counter()
            times.append(now - last)
            last = now
        return times

    begin, warm = time.perf_counter(), timed(WARM_STEPS)
    while time.perf_counter() < begin + WARM_S:
        warm = timed(WARM_STEPS)
    step_s = statistics.median(warm)
    asked.send(step_s)
    skipped = max(1, min(SKIPPED, int(SKIPPED_S / step_s)))
    while True:
        count = asked.recv()
        timed(skipped)
        asked.send(statistics.median(timed(count)))


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
