"""`kernel`: operators too small or ill-shaped for the hardware. Removed by adding more of them, and subtracting.

A step takes `r + c`: `r` is its arithmetic, and `c` is what its operators cost apart from their arithmetic, such as
being started. `c` cannot be switched off, but it can be multiplied. A batch is split into pieces of fewer rows, and
they go through the step one after the other. `n` pieces are the same examples and the same arithmetic, in `n` times as
many operators: `r + n c`. The optimizer steps as often as before, once after the last piece.

An example with halves. An ordinary step takes 10 ms, and the two halves of its batch take 13 ms:

    r +   c = 10 ms    the unchanged arm: the cost is counted once
    r + 2 c = 13 ms    the changed arm: the cost is counted twice

So `c` is 3 ms, and the headroom is 10 / (10 - 3) = 1.43. The changed arm is not without the cause: it has it once more
than the unchanged one. Therefore its `share` (`Intervention.share`, the part of the cause that the changed arm is
without) is -1. With `n` pieces it is `1 - n`. Two batches put together are half as many operators per example,
`r + c / 2`: the share is 1/2.

Weights, and other tensors that are as large for fewer rows, are read again for every piece. That belongs to memory, not
to operators, so its time (`weights_s`) is measured and left out. If 1 of the 3 ms is reading again, `c` is 2 ms. Of
what the changed arm takes longer only 2/3 is the cause, and the share is -1 / (2/3) = -1.5: the 3 ms over 1.5 are 2 ms.

Which way is taken:

- Smaller tensors may stay in a cache that whole ones leave. That makes the arithmetic faster and hides a part of `c`,
  once for any number of pieces. Therefore a batch is split into `PIECES`, so that `c` is added several times.
- But a piece must be large enough to keep all threads busy. With several threads there are two pieces.
- Where two batches put together show more, that is taken instead.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._collectives import collectives, copy_locally
from llmbench_plugins.causes._full_memory import FULL, larger_x
from llmbench_plugins.causes._operators import seconds_by_kind
from llmbench_plugins.causes._products import PRODUCTS
from llmbench_plugins.causes._replay import saving_s
from llmbench_plugins.causes._streams import LARGE
from llmbench_plugins.causes._swap import Function, substitute

CLOSER = 0.5  # of the seconds: another cause that alone gives more is the closer explanation
LEAST_GAIN = 0.05  # of the step: less is not worth a closer look
MATERIAL = 1.10  # headroom of a larger batch from which on memory is the closer explanation
PAIRS = 3  # a stall in one of three does not make the operators all of the step
LONG_PAIRS = 2  # of steps longer than LONG_S
PIECES = 4  # of a batch
PIECE_ROWS = 2  # that each piece has at least
WARM_S = 0.01  # shorter steps get a warm-up each
LONG_S = 0.06  # longer steps are split in two, for fewer pairs
BLOCK_S = 0.03  # of ordinary steps in a block
MAX_BLOCK_STEPS = 16
EMPTY_CALLS = 500  # of a product that is next to nothing, in each of a few samples


class Regrouped:
    """The examples of the pool in other batches: in `pieces` each, or (1) two batches as one.

    `groups[i]` are the batches that stand for `steps` ordinary steps, those from batch `i` of the pool on.
    """

    def __init__(self, trial: llmbench.Trial, pieces: int) -> None:
        self.trial, self.pieces = trial, pieces
        self.split = pieces > 1
        self.steps = 1 if self.split else 2
        self.last = True  # whether the batch of a group that is taken now is the last one
        pool = trial.pool
        if self.split:
            self.groups = [_pieces(trial, batch, pieces) for batch in pool]
        else:
            self.groups = [[trial.merged([batch, pool[(i + 1) % len(pool)]])] for i, batch in enumerate(pool)]

    @property
    def times_more(self) -> float:
        """Return how many times more operators there are: 1 for halves; two batches as one are half of them less."""
        return self.pieces - 1 if self.split else -0.5

    def change(self) -> Any:
        """Return the context in which a group updates as often as the steps that it stands for."""
        return _update_after_the_last(self) if self.split else _update_twice(self.trial)

    def run_plain(self, index: int) -> None:
        """Take the ordinary steps."""
        pool = self.trial.pool
        for k in range(self.steps):
            self.trial.step(pool[(index + k) % len(pool)])

    def run_regrouped(self, index: int) -> None:
        """Take the same examples in other batches."""
        group = self.groups[index % len(self.groups)]
        for number, batch in enumerate(group):
            self.last = number == len(group) - 1
            self.trial.step(batch)


@contextlib.contextmanager
def _update_after_the_last(regrouped: Regrouped) -> Iterator[None]:
    """Let the optimizer step, and processes exchange, only in the last piece of a batch."""

    def seldom(inner: Function) -> Function:
        return lambda *args, **kwargs: inner(*args, **kwargs) if regrouped.last else None

    optimizer = regrouped.trial.optimizer
    update = [(optimizer, "step")] if optimizer is not None else []
    with substitute(update, seldom), copy_locally(collectives(), lambda: not regrouped.last):
        yield


@contextlib.contextmanager
def _update_twice(trial: llmbench.Trial) -> Iterator[None]:
    """Let the optimizer step two times where it steps once."""

    def twice(inner: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            inner(*args, **kwargs)
            return inner(*args, **kwargs)

        return call

    with substitute([(trial.optimizer, "step")] if trial.optimizer is not None else [], twice):
        yield


def _rows(trial: llmbench.Trial, batch: Any) -> int:
    sizes = [t.shape[0] for t in trial.tensors(batch).values() if t.dim()]
    return max(set(sizes), key=sizes.count) if sizes else 0


def _pieces(trial: llmbench.Trial, batch: Any, count: int) -> list[Any]:
    tensors, rows = trial.tensors(batch), _rows(trial, batch)

    def part(some: slice) -> Any:
        return trial.rebuilt(batch, {k: t[some] if t.dim() and len(t) == rows else t for k, t in tensors.items()})

    ends = [round(i * rows / count) for i in range(count + 1)]
    return [part(slice(begin, end)) for begin, end in itertools.pairwise(ends)]


def _piece_count(trial: llmbench.Trial) -> int:
    """Return in how many pieces the batches can be taken, 0 for not at all."""
    import torch

    fewest = min(_rows(trial, batch) for batch in trial.pool)
    one_thread = trial.device == "cpu" and torch.get_num_threads() == 1
    if one_thread and fewest >= PIECES * PIECE_ROWS and trial.step_s < LONG_S:
        return PIECES
    return 2 if fewest >= 2 else 0


def _ways(trial: llmbench.Trial) -> list[Regrouped]:
    """Return the ways that are open: pieces of batches, and two as one where memory and collectives allow it."""
    if trial.generates:
        raise llmbench.Unisolated("rows of a larger batch end at other lengths")
    if trial.compiled:
        raise llmbench.Unisolated("compiled for other shapes")
    pieces = _piece_count(trial)
    ways = [Regrouped(trial, pieces)] if pieces else []
    full = (trial.memory_used or 0.0) >= FULL
    if len(trial.pool) > 1 and not full and not collectives():
        with contextlib.suppress(llmbench.Unisolated):
            ways.append(Regrouped(trial, 1))
    if not ways:
        raise llmbench.Unisolated("batches can be neither split nor put together")
    return ways


# --- times ----------------------------------------------------------------------------------------------


def _time_pairs(way: Regrouped) -> tuple[list[float], list[float]]:
    """Return the seconds per ordinary step of a few pairs, plain and regrouped, at the pace of the clean pass."""
    trial = way.trial
    plain, other = [], []
    warm = trial.step_s < WARM_S  # the first pair is not counted, and warms up where steps are longer
    timed = (lambda call: trial.seconds(call, least=1)[0]) if warm else trial.once
    for i in range((PAIRS if trial.step_s < LONG_S else LONG_PAIRS) + 1):
        plain.append(timed(lambda i=i: way.run_plain(i)))  # type: ignore[misc]
        with way.change():
            other.append(timed(lambda i=i: way.run_regrouped(i)))  # type: ignore[misc]
    paces = [trial.pace_s * way.steps / t if trial.pace_s else 1.0 for t in plain]
    scaled = [[t * pace / way.steps for t, pace in zip(times, paces, strict=True)] for times in (plain, other)]
    return scaled[0][1:], scaled[1][1:]


def _reading_again_s(way: Regrouped) -> float:
    """Return the seconds per step of reading again, in more operators, what is as large for fewer rows.

    These are products with weights, without the cost of calling them, and operators of other kinds on large tensors.
    """
    runs = [seconds_by_kind(way.trial, run, _reading_kind) for run in (way.run_plain, way.run_regrouped)]
    total = 0.0
    for kind in ("product", "large"):
        (plain_s, plain), (other_s, other) = (_median([row.get(kind, (0.0, 0)) for row in run]) for run in runs)
        more_s, calls = (other_s - plain_s, other - plain) if way.split else (plain_s - other_s, plain - other)
        total += max(0.0, more_s - calls * _empty_s(way.trial.device))
    return total / way.steps


def _reading_kind(func: Any, args: Sequence[Any]) -> str | None:
    """Return the kind of an operator that reads as much for fewer rows, as far as one call shows it, else None."""
    import torch

    if func.overloadpacket.__name__ in PRODUCTS:
        return "product"
    sizes = (t.numel() * t.element_size() for t in args if isinstance(t, torch.Tensor))
    return "large" if max(sizes, default=0) >= LARGE else None


def _median(calls: Sequence[tuple[float, int]]) -> tuple[float, int]:
    return statistics.median(seconds for seconds, _ in calls), calls[0][1]


def _empty_s(device: str) -> float:
    """Return the seconds of a product that is next to nothing."""
    import torch

    x = torch.zeros(1, 1, device=device)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(EMPTY_CALLS):
            torch.mm(x, x)
        times.append((time.perf_counter() - begin) / EMPTY_CALLS)
    return min(times)


def _gain(facts: Mapping[str, Any]) -> float:
    """Return the seconds per step that the operators cost apart from their arithmetic, without reading weights."""
    plain, other = facts["plain_s"], facts["other_s"]
    times_more = facts["pieces"] - 1 if facts["pieces"] > 1 else -0.5  # as `Regrouped.times_more`, of a record
    more = statistics.median([abs(o) - abs(p) for p, o in zip(plain, other, strict=True)])
    return max(0.0, more / times_more - facts["weights_s"] / abs(times_more))


def _best_way(trial: llmbench.Trial) -> tuple[Regrouped, dict[str, Any]]:
    """Return the way that shows more, and its facts.

    Either may show too little, where smaller tensors stay in a cache that larger ones leave.
    """
    ways = []
    for way in _ways(trial):
        plain, other = _time_pairs(way)
        ways.append((way, {"pieces": way.pieces, "plain_s": plain, "other_s": other, "weights_s": 0.0}))
    best: tuple[Regrouped, dict[str, Any]] | None = None
    for way, facts in sorted(ways, key=lambda pair: -_gain(pair[1])):
        if best is not None and _gain(facts) <= _gain(best[1]):
            break  # leaving out what is read again makes it even less
        if _gain(facts) > LEAST_GAIN * trial.step_s:
            facts["weights_s"] = _reading_again_s(way)
        if best is None or _gain(facts) > _gain(best[1]):
            best = way, facts
    assert best is not None  # there is a way, or _ways had raised
    return best


# --- the cause ------------------------------------------------------------------------------------------


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the times of a few steps and of the same examples regrouped, and the part of it that is reading weights.

    `two_s` and `merged_s` are the times of two batches one by one and, measured or by proportion, as one.
    """
    way, facts = _best_way(trial)
    trial.scratch["kernel"] = way, facts
    plain, other = facts["plain_s"], facts["other_s"]
    more = way.times_more
    merged = [2 * p - (o - p) / more if way.split else 2 * o for p, o in zip(plain, other, strict=True)]
    return {**facts, "two_s": [2 * p for p in plain], "merged_s": merged}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - c): c, the cost of the operators apart from their arithmetic, from a few steps in two ways."""
    return llmbench.without(record, [_gain(facts)])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Take the same examples in other batches; leave out the time of reading the weights again."""
    if larger_x(trial) > MATERIAL:
        raise llmbench.Unisolated("memory is too full for larger batches, which would help: see memory_capacity")
    way, facts = trial.scratch.get("kernel") or _best_way(trial)
    gain = _gain(facts)
    if gain > LEAST_GAIN * trial.step_s and saving_s(trial) > CLOSER * gain:
        raise llmbench.Unisolated("most of it is Python between the operators: see the cause host")
    more = way.times_more
    whole = gain + facts["weights_s"] / abs(more)
    part = max(gain / whole, 1e-3) if whole > 0 else 1.0  # of the difference between the arms: that is the cause
    turn = itertools.count()

    def run(take: Callable[[int], None]) -> Callable[[Sequence[Any]], None]:
        def block(batches: Sequence[Any]) -> None:
            for _ in range(max(1, len(batches) // way.steps)):
                take(next(turn))

        return block

    steps = way.steps * max(1, round(BLOCK_S / max(trial.step_s, 1e-6) / way.steps))
    return llmbench.Intervention(
        way.change,
        steps=min(steps, MAX_BLOCK_STEPS),
        treated=run(way.run_regrouped),
        clean=run(way.run_plain),
        burn=way.steps,  # tensors of other sizes: the allocator asks for memory anew
        share=-more / part,
        check={"pieces": way.pieces, "weights_s": facts["weights_s"]},
    )


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="kernel",
            axis="why",
            cause_class="hardware",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="operators too small or ill-shaped for the hardware",
            advice="torch.compile, fused operators, larger batches, CUDA graphs",
        )
    ]
