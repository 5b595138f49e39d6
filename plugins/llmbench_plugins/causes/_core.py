"""Attention that is written by hand: its scores, softmax and mixing are found among a module's calls, and replaced.

A chain is a product whose result reaches a softmax over its last dimension through elementwise calls, and from
there, again through elementwise calls, the first operand of a second product. It is replaced by position: the n-th
call of a function by the module.
Shapes: `Q` queries, `K` keys, `D` a head's width.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmbench_plugins.causes._swap import substitute

PRODUCTS = frozenset({"matmul", "__matmul__", "bmm", "baddbmm", "einsum"})
#: A function's name, and the number of its call in a module.
Place = tuple[str, int]

SOFTMAX = frozenset({"softmax", "_softmax"})


@dataclass
class Call:
    """One call of a torch function: its place among the module's calls of it, and the tensors in and out."""

    place: Place
    order: int
    inputs: list[int]
    output: int
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Return the function's name."""
        return self.place[0]

    @property
    def elements(self) -> int:
        """Return the elements of the result."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Chain:
    """Places of the score product, of the calls in between, and of the mixing product, within one call of a module."""

    scores: Place
    between: frozenset[Place]
    mixing: Place
    shape: tuple[int, ...]  # of the scores


@dataclass
class _Places:
    """Counts calls by function, so that calls of other functions in between (by hooks, counters) move no place."""

    counts: Counter[str] = field(default_factory=Counter)

    def of(self, function: Any) -> Place:
        name = getattr(function, "__name__", "")
        self.counts[name] += 1
        return name, self.counts[name]


@dataclass
class _Frame:
    calls: list[Call] = field(default_factory=list)
    places: _Places = field(default_factory=_Places)


def find(module: Any, run: Callable[[], Any]) -> list[tuple[Any, Chain]]:
    """Run a step; return the innermost modules that hold a chain, each with its chain."""
    import torch
    from torch.nn.modules import module as hooks
    from torch.overrides import TorchFunctionMode

    frames: list[tuple[Any, _Frame]] = []
    done: list[tuple[Any, _Frame]] = []
    alive: list[Any] = []  # an id is that of one tensor only while that lives

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            places = [frame.places.of(func) for _, frame in frames]
            out = func(*args, **(kwargs or {}))
            if frames and isinstance(out, torch.Tensor):
                given = [t for t in _flat(args) if isinstance(t, torch.Tensor)]
                alive.extend((*given, out))
                ids = [id(t) for t in given]
                for (_, frame), place in zip(frames, places, strict=True):
                    frame.calls.append(Call(place, len(frame.calls), ids, id(out), tuple(out.shape)))
            return out

    before = hooks.register_module_forward_pre_hook(lambda m, args: frames.append((m, _Frame())))
    after = hooks.register_module_forward_hook(lambda m, args, out: done.append(frames.pop()), always_call=True)
    try:
        with Watch(), composite_calls_open():
            run()
    finally:
        before.remove()
        after.remove()
    by_module: dict[int, tuple[Any, Chain]] = {}
    known: set[int] = set()
    for owner, frame in done:  # inner modules are done before outer ones
        for chain, ids in _chains(frame.calls):
            if not ids & known:
                known |= ids
                by_module.setdefault(id(owner), (owner, chain))
    return list(by_module.values())


def _flat(args: Any) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, list | tuple):
            yield from arg
        else:
            yield arg


@contextlib.contextmanager
def composite_calls_open() -> Iterator[None]:
    """Let a function mode see the calls inside of torch's composite functions instead of those functions."""
    from torch.nn import functional

    names = [n for n in vars(functional) if n.startswith("has_torch_function")]
    before = {n: getattr(functional, n) for n in names}
    try:
        for n in names:
            setattr(functional, n, lambda *args: False)
        yield
    finally:
        for n, function in before.items():
            setattr(functional, n, function)


def _chains(calls: Sequence[Call]) -> Iterator[tuple[Chain, set[int]]]:
    by_output: Mapping[int, Call] = {call.output: call for call in calls}
    for call in calls:
        if call.name not in SOFTMAX or len(call.shape) < 3:
            continue
        between, at = [call], by_output.get(call.inputs[0]) if call.inputs else None
        while at is not None and at.name not in PRODUCTS and at.elements == call.elements and len(between) < 12:
            between.append(at)
            at = by_output.get(at.inputs[0]) if at.inputs else None
        if at is None or at.name not in PRODUCTS:
            continue
        after = {call.output}
        for later in calls:
            if later.order <= call.order or not later.inputs or later.inputs[0] not in after:
                continue
            if later.name in PRODUCTS:
                places = frozenset(c.place for c in between)
                yield Chain(at.place, places, later.place, call.shape), {at.output, later.output}
                break
            if later.elements == call.elements:
                between.append(later)
                after.add(later.output)


def passing() -> Any:
    """Return a function of (output shape, v, *others): v in that shape, with gradients for all that are given."""
    import torch

    class Passing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, shape: Any, v: Any, *others: Any) -> Any:
            ctx.shapes = [t.shape for t in (v, *others)]
            return fit_shape(v, shape)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return (None, *(fit_shape(grads[0], shape) for shape in ctx.shapes))

    return Passing


def fit_shape(tensor: Any, shape: Any) -> Any:
    """Return a tensor of `shape` from the elements of `tensor`: itself, cut or repeated, at most at a copy's cost."""
    if tensor.shape == shape:
        return tensor.view_as(tensor)
    if tensor.dim() == len(shape):
        for d, n in enumerate(shape):
            size = tensor.shape[d]
            if size >= n:
                tensor = tensor.narrow(d, 0, n)
            else:
                times = [-(-n // size) if i == d else 1 for i in range(tensor.dim())]
                tensor = tensor.repeat(times).narrow(d, 0, n)
        return tensor.contiguous() if not tensor.is_contiguous() else tensor
    return tensor.new_zeros(1).expand(shape)


@contextlib.contextmanager
def without_chains(chains: Sequence[tuple[Any, Chain]]) -> Iterator[None]:
    """Leave the chains out: the mixing product returns its second operand, and all before it does nothing."""
    import torch
    from torch.overrides import TorchFunctionMode

    passing_v = passing()

    class Skip(TorchFunctionMode):
        def __init__(self, chain: Chain) -> None:
            super().__init__()
            self.chain, self.places = chain, _Places()
            self.scored: tuple[Any, ...] = ()

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            place = self.places.of(func)
            chain = self.chain
            if place == chain.scores:
                self.scored = tuple(t for t in _flat(args) if isinstance(t, torch.Tensor))[-2:]
                with torch._C.DisableTorchFunction(), torch.no_grad():
                    return _stand_in(self.scored)
            if place in chain.between:
                return next(t for t in _flat(args) if isinstance(t, torch.Tensor))
            if place == chain.mixing:
                given = [t for t in _flat(args) if isinstance(t, torch.Tensor)]
                v, q = given[-1], self.scored[0]
                shape = (*v.shape[:-2], q.shape[-2], v.shape[-1])
                with torch._C.DisableTorchFunction():
                    return passing_v.apply(shape, v.contiguous(), *self.scored)  # as a product's result is
            return func(*args, **(kwargs or {}))

    def skipping(chain: Chain) -> Callable[[Any], Any]:
        def wrap(forward: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                with Skip(chain), composite_calls_open():
                    return forward(*args, **kwargs)

            return call

        return wrap

    with contextlib.ExitStack() as stack:
        for module, chain in chains:
            stack.enter_context(substitute([(module, "forward")], skipping(chain)))
        yield


def _stand_in(scored: Sequence[Any]) -> Any:
    """Return a tensor of the scores' shape that holds one element."""
    q, k = scored
    keys = k.shape[-1] if k.shape[-2] == q.shape[-1] else k.shape[-2]
    return q.new_zeros(1).expand(*q.shape[:-1], keys)
