"""`host`: Python between the operators. Removed by a replay of the same operators: a trace, or a CUDA graph.

On the CPU the forward pass is replaced by its trace, which runs the same operators without Python; the backward pass
has none. On CUDA the whole step is captured and replayed.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes import checkpointing
from llmbench_plugins.causes._pairs import saved
from llmbench_plugins.causes._swap import Function, replaced

MOST_OUTSIDE, MOST_OUTSIDE_S = 0.05, 5e-4  # of a step, and seconds: so much Python outside of the module may stay
MOST_LOST = 0.02  # of a step: operators that a trace may leave out


def _check(trial: llmbench.Trial) -> None:
    if trial.generates:
        raise llmbench.Unisolated("a generation decides on the host when it ends")
    if trial.compiled:
        raise llmbench.DoesNotApply("compiled")


class _Traces:
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
            with torch.jit.optimized_execution(
                False
            ):  # the same operators one by one, not what a compiler makes of them
                return traced(*tensors)

        flat, out_spec = shape_of_output[0]
        kinds = [isinstance(x, torch.Tensor) for x in flat]
        rest = [None if is_tensor else x for x, is_tensor in zip(flat, kinds, strict=True)]

        def call(*args: Any, **kwargs: Any) -> Any:
            now, _ = pytree.tree_flatten((args, kwargs))
            made = iter(plain(*(now[i] for i in places)))
            filled = [next(made) if is_tensor else x for x, is_tensor in zip(rest, kinds, strict=True)]
            return pytree.tree_unflatten(filled, out_spec)

        return call

    @contextlib.contextmanager
    def replay(self, *, learn: bool = False) -> Iterator[None]:
        """Run traces; with `learn`, make those that are missing."""

        def traced(forward: Function) -> Function:
            def call(*args: Any, **kwargs: Any) -> Any:
                key = self.key(args, kwargs)
                if key not in self.known and learn:
                    self.known[key] = self.trace(forward, args, kwargs)
                return self.known.get(key, forward)(*args, **kwargs)

            return call

        with replaced([(self.module, "forward")], traced):
            yield


def _same_shapes(trial: llmbench.Trial) -> list[Any]:
    """Return the batches of the pool that have its most frequent shapes: a trace is of one shape."""
    keys = [str([(n, tuple(t.shape)) for n, t in trial.tensors(batch).items()]) for batch in trial.pool]
    often = max(set(keys), key=keys.count)
    return [batch for batch, key in zip(trial.pool, keys, strict=True) if key == often]


def _traces(trial: llmbench.Trial) -> tuple[_Traces, list[Any]]:
    """Return traces of the step's shapes; they are run a few times, since the first runs of a trace optimize it."""
    _check(trial)
    if trial.device != "cpu":
        raise llmbench.Unisolated("CUDA graph replay of a user's step is not written yet")
    if checkpointing.regions_of(trial, trial.pool[0]):
        raise llmbench.Unisolated("a trace would leave out what checkpointing computes again")
    traces, batches = _Traces(trial.module), _same_shapes(trial)
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


def _check_complete(trial: llmbench.Trial, traces: _Traces, batch: Any) -> None:
    """Raise Unisolated where the trace leaves out operators that take time.

    A trace drops what its outputs do not depend on, such as writing to a buffer: that is work, and no Python. What it
    has instead on tensors of the same shape is the same operator under another name (`_convolution`).
    """
    from llmbench_plugins.causes._watch import operators

    ordinary = operators(trial, batch)
    with traces.replay():
        replayed = operators(trial, batch)
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
    if sum(lost_s.values()) > MOST_LOST * trial.step_s:
        name = max(lost_s, key=lambda name: lost_s[name])
        raise llmbench.Unisolated(f"a trace would leave out operators that a step runs, such as {name}")


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the seconds of the host in a step: in the forward pass less its operators, and between the step's parts.

    `outside_s` is what a step of the user's own spends neither in the module, nor backward, nor updating, nor in
    collectives, nor in operators; `asleep_s` is what of all this is `time.sleep`.
    """
    _check(trial)
    if trial.device != "cpu":
        return {}
    from llmbench_plugins.causes._watch import host_seconds

    inside, outside, asleep = host_seconds(trial)
    facts = {"part_s": inside, "outside_s": outside, "asleep_s": asleep}
    trial.scratch["host"] = facts
    return facts


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / device-busy time; on the CPU T / (T - t), t the Python of the forward pass and between the step's parts."""
    if "part_s" in facts:
        both = [a + b for a, b in zip(facts["part_s"], facts["outside_s"], strict=True)]
        return llmbench.without(record, both)
    return llmbench.without(record, record["phases"].get("idle_s", ()))


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Replay the operators without Python, and do not sleep."""
    facts = trial.scratch.get("host") or probe(trial)
    stays = statistics.median(facts["outside_s"]) - statistics.median(facts["asleep_s"]) if facts else 0.0
    if stays > max(MOST_OUTSIDE_S, MOST_OUTSIDE * trial.step_s):
        raise llmbench.Unisolated("Python of the step outside of the module cannot be replayed")
    traces, batches = _traces(trial)

    def same(given: Sequence[Any]) -> None:
        for i in range(len(given)):
            trial.step(batches[i % len(batches)])

    return llmbench.Intervention(lambda: _replay(traces), treated=same, clean=same)


@contextlib.contextmanager
def _replay(traces: _Traces) -> Iterator[None]:
    with traces.replay(), replaced([(time, "sleep")], lambda _: lambda seconds: None):
        yield


def _holds_tensors(value: Any) -> bool:
    import torch

    inside = vars(value).values() if hasattr(value, "__dict__") and not isinstance(value, torch.Tensor) else ()
    return any(isinstance(x, torch.Tensor) for x in inside)


def saved_s(trial: llmbench.Trial) -> float:
    """Return the seconds per step that a replay saves; 0 where there is none."""
    try:
        traces, batches = _traces(trial)
    except (llmbench.Unisolated, llmbench.DoesNotApply):
        return 0.0
    return saved(trial, lambda: _replay(traces), batches)


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="host",
            axis="why",
            cause_class="hardware",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="Python and launching between the operators",
            advice="torch.compile, CUDA graphs, less Python in the forward pass",
        )
    ]
