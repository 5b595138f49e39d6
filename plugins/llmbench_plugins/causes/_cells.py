"""Recurrent cells that are called once per time step: all their steps as one call.

The inputs and states of a step's calls are recorded. In the changed arm the first call of a cell computes all of
them in one product; each call then hands out its rows. The last one links all inputs to its output, so that what
made them gets gradients: tensors that the inputs are cut from get them whole, as from one call with all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import llmbench
from llmbench_plugins.causes._pairs import measure_at_pace
from llmbench_plugins.causes._swap import Function, forwards, substitute

LEAST_CALLS = 4


class CellLoops:
    """Cells of one step, called again and again."""

    def __init__(self, cells: list[Any], module: Any) -> None:
        self.cells, self.module = cells, module
        self.calls: dict[tuple[int, tuple[int, ...]], list[tuple[Any, Any]]] = {}

    def record(self, trial: llmbench.Trial) -> None:
        """Take a step on each batch of the pool and keep what each cell was given, per shape of the input."""

        def note(inner: Function) -> Function:
            cell = inner.__self__  # type: ignore[attr-defined]

            def call(x: Any, state: Any = None) -> Any:
                calls.setdefault((id(cell), tuple(x.shape)), []).append((x.detach(), _detach(state)))
                return inner(x, state)

            return call

        for batch in trial.pool:
            calls: dict[Any, list[tuple[Any, Any]]] = {}
            with substitute(forwards(self.cells), note):
                trial.step(batch)
            for key, given in calls.items():
                if len(given) > len(self.calls.get(key, ())):
                    self.calls[key] = given

    def measure_s(self, trial: llmbench.Trial) -> float:
        """Return the seconds per step of the cells alone, all calls at once."""
        import torch

        by_id = {id(cell): cell for cell in self.cells}
        total = 0.0
        for (name, _), known in self.calls.items():
            cell = by_id[name]

            def call(cell: Any = cell, known: Any = known) -> None:
                with torch.set_grad_enabled(trial.trains):
                    outputs = [parts[0] for parts in _all_at_once(cell.forward, known)]
                    if trial.trains:
                        out = torch.stack(outputs)
                        torch.autograd.grad(out, list(cell.parameters()), out.detach())

            call()  # warm up
            total += measure_at_pace(trial, lambda: trial.once(call))
        return total

    @contextlib.contextmanager
    def join_calls(self) -> Iterator[None]:
        """Make all calls of a cell in a step as one."""
        import torch

        class Linked(torch.autograd.Function):
            """Hands an output on, with a gradient (of zeros) for every input of the loop."""

            @staticmethod
            def forward(ctx: Any, output: Any, *inputs: Any) -> Any:
                ctx.shapes = [x.shape for x in inputs]
                return output.view_as(output)

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                zero = grads[0].new_zeros(1)
                return (grads[0], *(zero.expand(shape) for shape in ctx.shapes))

        every: list[list[tuple[Any, ...]]] = []

        def once(inner: Function) -> Function:
            cell = inner.__self__  # type: ignore[attr-defined]
            ready: list[tuple[Any, ...]] = []
            given: dict[int, Any] = {}
            every.append(ready)

            def call(x: Any, state: Any = None) -> Any:
                known = self.calls.get((id(cell), tuple(x.shape)), [])
                if len(known) < LEAST_CALLS:
                    return inner(x, state)
                if not ready:
                    ready.extend(_all_at_once(inner, known))
                    given.clear()
                if x.requires_grad:
                    given.setdefault(id(source := _source(x)), source)
                outputs = ready.pop(0)
                if not ready and given:
                    outputs = (Linked.apply(outputs[0], *given.values()), *outputs[1:])
                return outputs if len(outputs) > 1 else outputs[0]

            return call

        def fresh(*_: Any) -> None:
            for ready in every:
                ready.clear()

        hook = self.module.register_forward_pre_hook(fresh)
        try:
            with substitute(forwards(self.cells), once):
                yield
        finally:
            hook.remove()


def _source(x: Any) -> Any:
    """Return the tensor that `x` is a view of, if gradients go there, else `x`."""
    return x._base if x._is_view() and x._base.requires_grad else x


def _detach(state: Any) -> Any:
    if state is None:
        return None
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


def _all_at_once(inner: Function, known: list[tuple[Any, Any]]) -> list[tuple[Any, ...]]:
    import torch

    grad = torch.is_grad_enabled()
    rows = len(known[0][0])
    x = torch.cat([x for x, _ in known]).requires_grad_(grad)
    states = [s for _, s in known]
    state: Any = None
    if all(s is None for s in states):
        pass
    elif any(isinstance(s, tuple) for s in states):
        some = next(s for s in states if s is not None)
        filled = [s if s is not None else tuple(torch.zeros_like(t) for t in some) for s in states]
        state = tuple(torch.cat(parts).requires_grad_(grad) for parts in zip(*filled, strict=True))
    else:
        some = next(s for s in states if s is not None)
        state = torch.cat([s if s is not None else torch.zeros_like(some) for s in states]).requires_grad_(grad)
    out = inner(x, state)
    parts = [o.split(rows) for o in (out if isinstance(out, tuple) else (out,))]
    return list(zip(*parts, strict=True))
