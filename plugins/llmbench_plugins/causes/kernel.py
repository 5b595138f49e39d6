"""`kernel`: operators too small or ill-shaped for the hardware. Removed by doing as much with half of the operators.

A batch is split into pieces: the same examples and arithmetic by as many times more operators, on smaller tensors; the
optimizer steps as often as before. What that takes longer is what the operators of the step cost beside their
arithmetic, once per piece more, and taking it off (of halves the share is -1: the cause was doubled) is the headroom.
Smaller tensors may stay in a cache that whole ones leave, which hides some of it, once for any number of pieces: so
there are `PIECES`. But a piece must keep all threads busy, so with several threads there are two. Or two batches are
put together, where that shows more. What pieces spend on reading weights and other large tensors again belongs to
memory: it is left out.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes import communication, host, memory_capacity
from llmbench_plugins.causes._collectives import collectives
from llmbench_plugins.causes._products import PRODUCTS
from llmbench_plugins.causes._streams import LARGE
from llmbench_plugins.causes._swap import Function, replaced
from llmbench_plugins.causes._watch import operator_seconds

CLOSER = 0.5  # of the seconds: a cause that alone gives more is the closer explanation
LEAST_GAIN = 0.05  # of the step
PAIRS, LONG_PAIRS = 3, 2  # a stall in one of three does not make the operators all of the step
PIECES, PIECE_ROWS = 4, 2  # of a batch, and the rows that each has at least
WARM_S, LONG_S = 0.01, 0.06  # shorter steps get a warm-up each; longer ones are split in two, for fewer pairs
BLOCK_S = 0.03  # of ordinary steps in a block
MATERIAL = 1.10


@contextlib.contextmanager
def _every_second(trial: llmbench.Trial, is_first: Callable[[], bool]) -> Iterator[None]:
    """Let the optimizer step, and processes exchange, only where `is_first()` is false."""

    def seldom(inner: Function) -> Function:
        return lambda *args, **kwargs: None if is_first() else inner(*args, **kwargs)

    update = [(trial.optimizer, "step")] if trial.optimizer is not None else []
    with replaced(update, seldom), communication.local(collectives(), is_first):
        yield


@contextlib.contextmanager
def _twice(trial: llmbench.Trial) -> Iterator[None]:
    """Let the optimizer step two times where it steps once."""

    def repeated(inner: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            inner(*args, **kwargs)
            return inner(*args, **kwargs)

        return call

    with replaced([(trial.optimizer, "step")] if trial.optimizer is not None else [], repeated):
        yield


class _Arms:
    """Steps as they are, and the same examples in `pieces` times as many operators, or (1) in half as many.

    `steps` ordinary steps of `plain` are one entry of `other` in the changed arm.
    """

    def __init__(self, trial: llmbench.Trial, pieces: int) -> None:
        self.trial, self.pieces, self.split, self.first = trial, pieces, pieces > 1, False
        self.steps, self.plain = (1 if self.split else 2), list(trial.pool)
        if self.split:
            self.other = [_pieces(trial, batch, pieces) for batch in self.plain]
        else:
            self.other = [[trial.merged([b, self.plain[(i + 1) % len(self.plain)]])] for i, b in enumerate(self.plain)]

    def change(self) -> Any:
        """Return the context of the changed arm."""
        return _every_second(self.trial, lambda: self.first) if self.split else _twice(self.trial)

    def run_plain(self, index: int) -> None:
        """Take the ordinary steps."""
        for k in range(self.steps):
            self.trial.step(self.plain[(index + k) % len(self.plain)])

    def run_other(self, index: int) -> None:
        """Take the same examples in other pieces."""
        pieces = self.other[index % len(self.other)]
        for number, batch in enumerate(pieces):
            self.first = number < len(pieces) - 1
            self.trial.step(batch)

    def pairs(self) -> tuple[list[float], list[float]]:
        """Return the seconds of a few pairs, each per ordinary step, at the pace of the clean pass."""
        plain, other = [], []
        warm = self.trial.step_s < WARM_S  # the first pair is not counted, and warms up where steps are longer
        timed = (lambda call: self.trial.seconds(call, least=1)[0]) if warm else self.trial.once
        for i in range((PAIRS if self.trial.step_s < LONG_S else LONG_PAIRS) + 1):
            plain.append(timed(lambda i=i: self.run_plain(i)))  # type: ignore[misc]
            with self.change():
                other.append(timed(lambda i=i: self.run_other(i)))  # type: ignore[misc]
        paces = [self.trial.pace_s * self.steps / t if self.trial.pace_s else 1.0 for t in plain]
        scaled = [[t * pace / self.steps for t, pace in zip(some, paces, strict=True)] for some in (plain, other)]
        return scaled[0][1:], scaled[1][1:]

    def read_again_s(self) -> float:
        """Return the seconds per step that go into reading again, in more operators, what is as large for fewer rows.

        That is products with weights, less their calls, and operators on large tensors of any other kind.
        """
        runs = [operator_seconds(self.trial, run, _reads) for run in (self.run_plain, self.run_other)]
        total = 0.0
        for kind in ("product", "large"):
            (plain_s, plain), (other_s, other) = (_median([one.get(kind, (0.0, 0)) for one in run]) for run in runs)
            more_s, calls = (other_s - plain_s, other - plain) if self.split else (plain_s - other_s, plain - other)
            total += max(0.0, more_s - calls * _empty_s(self.trial.device))
        return total / self.steps


def _reads(func: Any, args: Sequence[Any]) -> str | None:
    """Return what kind of operator reads as much for fewer rows, as far as that can be told from one call."""
    import torch

    if func.overloadpacket.__name__ in PRODUCTS:
        return "product"
    sizes = (t.numel() * t.element_size() for t in args if isinstance(t, torch.Tensor))
    return "large" if max(sizes, default=0) >= LARGE else None


def _median(found: Sequence[tuple[float, int]]) -> tuple[float, int]:
    return statistics.median(seconds for seconds, _ in found), found[0][1]


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


def _ways(trial: llmbench.Trial) -> list[_Arms]:
    """Return the ways that are open: pieces of batches, and two as one where memory and collectives allow it."""
    if trial.generates:
        raise llmbench.Unisolated("rows of a larger batch end at other lengths")
    if trial.compiled:
        raise llmbench.Unisolated("compiled for other shapes")
    pieces = _piece_count(trial)
    ways = [_Arms(trial, pieces)] if pieces else []
    full = (trial.memory_used or 0.0) >= memory_capacity.FULL
    if len(trial.pool) > 1 and not full and not collectives():
        with contextlib.suppress(llmbench.Unisolated):
            ways.append(_Arms(trial, 1))
    if not ways:
        raise llmbench.Unisolated("batches can be neither split nor put together")
    return ways


def _empty_s(device: str) -> float:
    """Return the seconds of a product that is next to nothing."""
    import time

    import torch

    x = torch.zeros(1, 1, device=device)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(500):
            torch.mm(x, x)
        times.append((time.perf_counter() - begin) / 500)
    return min(times)


def _gain(facts: Mapping[str, Any]) -> float:
    """Return the seconds per step that the operators cost beside their arithmetic, without reading weights."""
    plain, other = facts["plain_s"], facts["other_s"]
    more = statistics.median([abs(o) - abs(p) for p, o in zip(plain, other, strict=True)])
    return max(0.0, more / _times_more(facts["pieces"]) - facts["weights_s"] / abs(_times_more(facts["pieces"])))


def _times_more(pieces: int) -> float:
    """Return how many times more operators that makes: one for halves; two as one is half of them less."""
    return pieces - 1 if pieces > 1 else -0.5


def _tried(trial: llmbench.Trial) -> tuple[_Arms, dict[str, Any]]:
    """Return the way that shows more, and its facts.

    Both show too little where smaller tensors stay in a cache that larger ones leave.
    """
    found = []
    for arms in _ways(trial):
        plain, other = arms.pairs()
        found.append((arms, {"pieces": arms.pieces, "plain_s": plain, "other_s": other, "weights_s": 0.0}))
    best: tuple[_Arms, dict[str, Any]] | None = None
    for arms, facts in sorted(found, key=lambda way: -_gain(way[1])):
        if best is not None and _gain(facts) <= _gain(best[1]):
            break  # what is taken off makes it even less
        if _gain(facts) > LEAST_GAIN * trial.step_s:
            facts["weights_s"] = arms.read_again_s()
        if best is None or _gain(facts) > _gain(best[1]):
            best = arms, facts
    assert best is not None  # there is a way, or _ways had raised
    return best


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the times of a few steps, of the same examples in other pieces, and what of that is reading weights.

    `two_s` and `merged_s` say the same of two batches one by one, and (measured or by proportion) as one.
    """
    arms, facts = _tried(trial)
    trial.scratch["kernel"] = arms, facts
    plain, other = facts["plain_s"], facts["other_s"]
    more = _times_more(arms.pieces)
    merged = [2 * p - (o - p) / more if arms.split else 2 * o for p, o in zip(plain, other, strict=True)]
    return {**facts, "two_s": [2 * p for p in plain], "merged_s": merged}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - t): t, what the operators cost beside their arithmetic, from a few steps in two ways."""
    return llmbench.without(record, [_gain(facts)])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Take the same examples in pieces; leave out what reading the weights again takes."""
    if memory_capacity.larger_x(trial) > MATERIAL:
        raise llmbench.Unisolated("memory is too full for larger batches, which would help: see memory_capacity")
    arms, facts = trial.scratch.get("kernel") or _tried(trial)
    gain = _gain(facts)
    if gain > LEAST_GAIN * trial.step_s and host.saved_s(trial) > CLOSER * gain:
        raise llmbench.Unisolated("most of it is Python between the operators: see the cause host")
    more = _times_more(arms.pieces)
    whole = gain + facts["weights_s"] / abs(more)
    part = max(gain / whole, 1e-3) if whole > 0 else 1.0
    turn = iter(range(10**9))

    def run(which: Callable[[int], None]) -> Callable[[Sequence[Any]], None]:
        def some(batches: Sequence[Any]) -> None:
            for _ in range(max(1, len(batches) // arms.steps)):
                which(next(turn))

        return some

    share = -more / part  # of the cause, how much the changed arm is without; halves have it twice
    steps = arms.steps * max(1, round(BLOCK_S / max(trial.step_s, 1e-6) / arms.steps))
    return llmbench.Intervention(
        arms.change,
        steps=min(steps, 16),
        treated=run(arms.run_other),
        clean=run(arms.run_plain),
        burn=arms.steps,  # tensors of other sizes: the allocator asks for memory anew
        share=share,
        check={"pieces": arms.pieces, "weights_s": facts["weights_s"]},
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
