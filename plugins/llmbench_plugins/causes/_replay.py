"""A replay of a step: the same operators without Python between them, as far as a trace of the forward pass gives that.

`host` is removed by it, and `kernel` asks how much of its headroom a replay gives already.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import llmbench
from llmbench_plugins.causes import _operators
from llmbench_plugins.causes._checkpoints import regions_of
from llmbench_plugins.causes._pairs import measure_saving
from llmbench_plugins.causes._swap import Function, substitute

MAX_LOST = 0.02  # of a step: operators that a trace may leave out


def check_replayable(trial: llmbench.Trial) -> None:
    """Raise Unisolated or DoesNotApply for steps of a kind that has no replay."""
    if trial.generates:
        raise llmbench.Unisolated("a generation decides on the host when it ends")
    if trial.compiled:
        raise llmbench.DoesNotApply("compiled")


class Traces:
    """The module's forward pass as a trace, per shape of its arguments."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.known: dict[Any, Callable[..., Any]] = {}

    def key(self, args: Any, kwargs: Any) -> Any:
        import torch
        from torch.utils import _pytree as pytree

        leaves, spec = pytree.tree_flatten((args, kwargs))
        shapes = tuple((tuple(x.shape), x.dtype) if isinstance(x, torch.Tensor) else x for x in leaves)
        return shapes, str(spec), torch.is_grad_enabled(), self.module.training

    def trace(self, forward: Function, args: Any, kwargs: Any) -> Callable[..., Any]:
        """Return the traced pass as a function of the same arguments."""
        import torch
        from torch.utils import _pytree as pytree

        leaves, spec = pytree.tree_flatten((args, kwargs))
        places = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
        shape_of_output: list[Any] = []
        module = self.module

        class Flat(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = module

            def forward(self, *tensors: Any) -> Any:
                filled = list(leaves)
                for place, tensor in zip(places, tensors, strict=True):
                    filled[place] = tensor
                args, kwargs = pytree.tree_unflatten(filled, spec)
                flat, out_spec = pytree.tree_flatten(forward(*args, **kwargs))
                wanted = [x for x in flat if isinstance(x, torch.Tensor)]
                hidden = [type(x).__name__ for x in flat if _holds_tensors(x)]
                if hidden or not wanted:
                    raise TypeError(f"its output {hidden[0] if hidden else 'holds no tensor'} cannot be taken apart")
                shape_of_output[:] = [(flat, out_spec)]
                return tuple(wanted)

        given = tuple(leaves[i] for i in places)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(Flat(), given, check_trace=False, strict=False)

        def plain(*tensors: Any) -> Any:
            with torch.jit.optimized_execution(False):  # the same operators one by one: nothing is fused
                return traced(*tensors)

        flat, out_spec = shape_of_output[0]
        kinds = [isinstance(x, torch.Tensor) for x in flat]
        rest = [None if is_tensor else x for x, is_tensor in zip(flat, kinds, strict=True)]

        def call(*args: Any, **kwargs: Any) -> Any:
            now, _ = pytree.tree_flatten((args, kwargs))
            outputs = iter(plain(*(now[i] for i in places)))
            filled = [next(outputs) if is_tensor else x for x, is_tensor in zip(rest, kinds, strict=True)]
            return pytree.tree_unflatten(filled, out_spec)

        return call

    @contextlib.contextmanager
    def replay(self, *, learn: bool = False) -> Iterator[None]:
        """Run traces in the place of the forward pass; with `learn`, make those that are missing."""

        def run_trace(forward: Function) -> Function:
            def call(*args: Any, **kwargs: Any) -> Any:
                key = self.key(args, kwargs)
                if key not in self.known and learn:
                    self.known[key] = self.trace(forward, args, kwargs)
                return self.known.get(key, forward)(*args, **kwargs)

            return call

        with substitute([(self.module, "forward")], run_trace):
            yield


def _same_shapes(trial: llmbench.Trial) -> list[Any]:
    """Return the batches of the pool that have its most frequent shapes: a trace is of one shape."""
    keys = [str([(n, tuple(t.shape)) for n, t in trial.tensors(batch).items()]) for batch in trial.pool]
    often = max(set(keys), key=keys.count)
    return [batch for batch, key in zip(trial.pool, keys, strict=True) if key == often]


def make_traces(trial: llmbench.Trial) -> tuple[Traces, list[Any]]:
    """Return traces of the forward pass, and the batches of the pool that have their shapes.

    They are run a few times, since the first runs of a trace optimize it. Raises Unisolated where there is no trace, or
    where it leaves out operators that take time.
    """
    check_replayable(trial)
    if trial.device != "cpu":
        raise llmbench.Unisolated("CUDA graph replay of a user's step is not written yet")
    if regions_of(trial, trial.pool[0]):
        raise llmbench.Unisolated("a trace would leave out what checkpointing computes again")
    traces, batches = Traces(trial.module), _same_shapes(trial)
    try:
        with traces.replay(learn=True):
            for _ in range(3):
                trial.step(batches[0])
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise llmbench.Unisolated(f"the forward pass cannot be traced: {type(error).__name__}: {reason}") from None
    if not traces.known:
        raise llmbench.Unisolated("a step does not call the module")
    _check_complete(trial, traces, batches[0])
    return traces, batches


def _check_complete(trial: llmbench.Trial, traces: Traces, batch: Any) -> None:
    """Raise Unisolated where the trace leaves out operators that take time.

    A trace leaves out operators on which no output depends, such as writing to a buffer. That is work, and no Python.
    An operator that only the trace has, on tensors of the same shape, counts as the same one under another name
    (`_convolution`).
    """
    ordinary = _operators.operators_of(trial, batch)
    with traces.replay():
        replayed = _operators.operators_of(trial, batch)
    instead: Counter[Any] = Counter()
    for (name, shape), (count, _) in replayed.items():
        instead[shape] += max(0, count - ordinary.get((name, shape), (0, 0.0))[0])
    lost_s: dict[str, float] = {}
    for (name, shape), (count, seconds) in ordinary.items():
        missing = count - replayed.get((name, shape), (0, 0.0))[0]
        known = min(max(0, missing), instead[shape])
        instead[shape] -= known
        missing -= known
        if missing > 0:
            lost_s[name] = lost_s.get(name, 0.0) + seconds * missing / count
    if sum(lost_s.values()) > MAX_LOST * trial.step_s:
        name = max(lost_s, key=lambda name: lost_s[name])
        raise llmbench.Unisolated(f"a trace would leave out operators that a step runs, such as {name}")


def _holds_tensors(value: Any) -> bool:
    import torch

    inside = vars(value).values() if hasattr(value, "__dict__") and not isinstance(value, torch.Tensor) else ()
    return any(isinstance(x, torch.Tensor) for x in inside)


@contextlib.contextmanager
def replay(traces: Traces) -> Iterator[None]:
    """Take steps by their traces, and do not sleep."""
    with traces.replay(), substitute([(time, "sleep")], lambda _: lambda seconds: None):
        yield


def saving_s(trial: llmbench.Trial) -> float:
    """Return the seconds per step that a replay saves; 0 where there is none."""
    try:
        traces, batches = make_traces(trial)
    except (llmbench.Unisolated, llmbench.DoesNotApply):
        return 0.0
    return measure_saving(trial, lambda: replay(traces), batches)
