"""The largest batch that fits, by trying: real steps on the longest sequences that a cell allows, at the very end.

Running out of memory is an answer here, not a failure. It may leave a mess, and it may end the process, so the record
is handed over before each try.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llmbench.contract.engines import Engine
from llmbench.contract.errors import is_out_of_memory
from llmbench.contract.job import KEEP
from llmbench.contract.specs import BuildRequest, CollateContext, Feature, Layout
from llmbench.worker.measuring.loops import Step

if TYPE_CHECKING:
    from llmbench.contract.record import Emit, Memory, Record

TOLERANCE = 0.05  # of the batch: the largest is known when the next larger one that was tried is so close
MOST_TRIES = 30
LIMIT_S = 120.0  # of all tries
TRAIN_STEPS = 2  # of a try: the first makes the optimizer's state, the second has activations in addition
PREDICT_STEPS = 1
#: How oneDNN says that it lacks memory, and also that a kernel does not exist; it does where a smaller batch ran.
NO_PRIMITIVE = re.compile(r"could not (create|execute|initialize|construct) an? (primitive|memory)")
NO_LIMIT = "on the CPU the search needs a limit, else the machine would swap; set memory_mib in the budget"

Tries = list[tuple[int, bool]]


@dataclass(frozen=True)
class Rehearsal:
    """Steps on batches of any size, all of whose rows are the longest one; `prepare` is called before each try."""

    engine: Engine
    feature: Feature
    layout: Layout
    ctx: CollateContext
    step: Step
    steps: int
    prepare: Callable[[], None]
    successes: list[int] = field(default_factory=list)  # batch sizes that fitted

    def fits(self, batch_size: int) -> bool:
        """Take steps on a batch; return whether the memory was enough. Anything else that goes wrong is raised."""
        try:
            self.prepare()
            batch = self.layout.collate([self.feature] * batch_size, self.ctx)
            for _ in range(self.steps):
                self.step(self.engine, batch)
            self.engine.synchronize()
            self.successes.append(batch_size)
            return True
        except Exception as error:
            if not is_out_of_memory(error) and not (self.successes and NO_PRIMITIVE.search(str(error))):
                raise
            return False
        finally:
            self.engine.free_memory()


def longest(features: Sequence[Feature], layout: Layout, ctx: CollateContext) -> Feature:
    """Return the longest feature, its tokens repeated up to the cell's limits: the worst case of a batch."""
    feature = max(features, key=layout.length)
    limits = {"target": ctx.target_len}
    return {
        name: list(itertools.islice(itertools.cycle(value), max(len(value), limits.get(name, ctx.seq_len))))
        if isinstance(value, list | tuple)
        else value
        for name, value in feature.items()
    }


def unending(request: BuildRequest) -> BuildRequest:
    """Return a request for a model that never ends what it generates, so that it fills its cache."""
    return replace(request, special=replace(request.special, eos=-1))


def next_batch(first: int, tries: Tries) -> int | None:
    """Return the batch to try next, None when the largest is known within TOLERANCE: doubling, then bisection."""
    fitting, failing = bracket(tries)
    if failing is None:
        return 2 * fitting if fitting else first
    if failing - fitting <= max(1, TOLERANCE * fitting):
        return None
    return (fitting + failing) // 2


def bracket(tries: Tries) -> tuple[int, int | None]:
    """Return the largest batch that fitted (0: none did) and the smallest that did not (None: all did)."""
    fitting = max((batch for batch, ok in tries if ok), default=0)
    return fitting, min((batch for batch, ok in tries if not ok), default=None)


def search(
    fits: Callable[[int], bool],
    first: int,
    tries: Tries,
    *,
    before: Callable[[int], None] = lambda batch: None,
    clock: Callable[[], float] = time.monotonic,
) -> str | None:
    """Try batches from `first` on and add them to `tries`; return None, or the reason why the largest is not known.

    A try is not begun where it would end beyond LIMIT_S, judged by the last one.
    """
    begin, last_s, last = clock(), 0.0, first
    while (batch := next_batch(first, tries)) is not None:
        started = clock()
        spent_s = started - begin
        if len(tries) >= MOST_TRIES or spent_s + last_s * batch / last > LIMIT_S:
            fitting, failing = bracket(tries)
            known = f"{fitting} fits, " + ("nothing beyond was tried" if failing is None else f"{failing} does not")
            return f"stopped after {len(tries)} tries and {spent_s:.0f} s (limit {LIMIT_S:g} s): {known}"
        before(batch)
        tries.append((batch, fits(batch)))
        if tries[-1][1]:
            last_s, last = clock() - started, batch
    return None if bracket(tries)[0] else "not even one row of the longest sequences fits"


def add_largest_batch(
    record: Record, open_rehearsal: Callable[[], Rehearsal], first: int, emit: Emit, *, limited: bool
) -> None:
    """Search the largest batch; note it in `record["memory"]` with the tries, or the reason why it is not known.

    `limited`: whether the memory has an end that a process meets before the machine does.
    """
    memory, batch = record["memory"], first
    tries: Tries = []
    memory |= {"largest_batch": None, "largest_batch_tried": None, "largest_batch_reason": NO_LIMIT}
    if not limited:
        return

    def before(size: int) -> None:
        nonlocal batch
        batch = size
        reason = f"the process did not survive a batch of {size}"
        known: Memory = {"largest_batch_tried": [list(pair) for pair in tries], "largest_batch_reason": reason}
        warnings = [*record["warnings"], f"searching the largest batch, {reason}"]
        emit({"event": KEEP, "record": {**record, "memory": memory | known, "warnings": warnings}})
        emit({"event": f"try a batch of {size}"})

    begin = time.perf_counter()
    try:
        reason = search(open_rehearsal().fits, first, tries, before=before)
    except Exception as error:
        what = " ".join(str(error).split())[:300]
        reason = f"a batch of {batch} failed: {type(error).__name__}: {what}"
    memory["largest_batch"] = bracket(tries)[0] if reason is None else None
    memory |= {"largest_batch_tried": [list(pair) for pair in tries], "largest_batch_reason": reason}
    record["spent"]["largest_batch_s"] = time.perf_counter() - begin
