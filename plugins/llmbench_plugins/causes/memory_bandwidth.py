"""`memory_bandwidth`: reading from main memory. Removed by reading from the caches.

Weights: one layer's for all layers of a shape, with the same kernels and FLOPs; gradients go to each weight as before.
Elementwise operators on tensors that no cache holds: as much of them on a piece that stays there (on the CPU).
Shapes: `N` rows, `I` inputs, `O` outputs.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._pairs import measure_at_pace
from llmbench_plugins.causes._products import parameter_of, products, shapes_of_products, time_products
from llmbench_plugins.causes._streams import cache_savings_s, in_the_cache


def _groups(trial: llmbench.Trial) -> dict[tuple[int, ...], list[Any]]:
    """Return the parameters of equal shape, at least two, that a step multiplies by."""
    if trial.generates:
        raise llmbench.Unisolated("shared weights would generate other tokens")
    if trial.compiled:
        raise llmbench.Unisolated("compiled: its products cannot be replaced")
    found: dict[tuple[int, ...], dict[int, Any]] = {}
    for *_, parameter in shapes_of_products(trial):
        found.setdefault(tuple(parameter.shape), {})[id(parameter)] = parameter
    return {shape: list(by_id.values()) for shape, by_id in found.items() if len(by_id) > 1}


NOTHING = "no two weights of one shape, of which one could stand for both, and no large elementwise operator"


def _streams(trial: llmbench.Trial) -> list[float]:
    """Return the seconds per step that large elementwise operators spend on memory; none on a device."""
    return cache_savings_s(trial) if trial.device == "cpu" else [0.0]


def _stand_ins(trial: llmbench.Trial) -> dict[int, Any]:
    return {id(p): same[0] for same in _groups(trial).values() for p in same}


def _with_weight_of_another() -> Any:
    import torch
    from torch.nn import functional

    class Other(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, own: Any, other: Any, bias: Any) -> Any:
            ctx.save_for_backward(x, other)
            ctx.biased = bias is not None
            return functional.linear(x, other, bias)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            x, other = ctx.saved_tensors
            grad_NO = grads[0].reshape(-1, grads[0].shape[-1])
            own = grad_NO.t() @ x.reshape(-1, x.shape[-1])
            return grads[0] @ other, own, None, grad_NO.sum(0) if ctx.biased else None

    return Other


@contextlib.contextmanager
def substitute_parameters(module: Any, instead: Mapping[int, Any]) -> Iterator[None]:
    """Let modules hold other parameters."""
    found = [
        (m._parameters, name, p)
        for m in module.modules()
        for name, p in m._parameters.items()
        if p is not None and id(p) in instead
    ]
    try:
        for held, name, p in found:
            held[name] = instead[id(p)]
        yield
    finally:
        for held, name, p in found:
            held[name] = p


@contextlib.contextmanager
def _share_weights(trial: llmbench.Trial) -> Iterator[None]:
    import torch
    from torch.nn import functional

    instead, function = _stand_ins(trial), _with_weight_of_another()
    if not trial.trains:  # no gradient needs a weight of its own
        with substitute_parameters(trial.module, instead):
            yield
        return

    def product(x: Any, weight: Any, bias: Any, original: Callable[[], Any]) -> Any:
        own = parameter_of(weight)
        other = instead.get(id(own))
        if other is None or other is own:
            return original()
        stand_in = other if weight is own else other.t()
        if not torch.is_grad_enabled():
            return functional.linear(x, stand_in, bias)
        given = [x, weight, stand_in, bias]
        if torch.is_autocast_enabled(trial.device):
            given = [t if t is None else t.to(torch.get_autocast_dtype(trial.device)) for t in given]
        return function.apply(*given)

    with products(product):
        yield


def _hot_call(trial: llmbench.Trial, rows: int, inputs: int, outputs: int, like: Any) -> tuple[Callable[[], None], int]:
    """Return a function that makes a product again and again on one weight, and how often it does.

    Where the step trains, both gradients are made, too.
    """
    import torch
    from torch.nn import functional

    x = torch.randn(rows, inputs, device=like.device, dtype=like.dtype, requires_grad=trial.trains)
    weight = torch.randn(outputs, inputs, device=like.device, dtype=like.dtype, requires_grad=trial.trains)
    times = max(1, min(200, int(2e8 / (2 * rows * inputs * outputs))))

    def call() -> None:
        with torch.set_grad_enabled(trial.trains):
            for _ in range(times):
                out = functional.linear(x, weight)
                if trial.trains:
                    x.grad = weight.grad = None
                    out.backward(out.detach())

    call()  # warm up
    return call, times


def _hot_s(trial: llmbench.Trial, calls: Mapping[tuple[int, int, int], tuple[int, Any]]) -> float:
    """Return the seconds per step of all products `(rows, inputs, outputs)`, each as often as it says, in the cache."""
    made = [(count, *_hot_call(trial, *shape, like)) for shape, (count, like) in calls.items()]

    def once() -> float:
        return sum(count * trial.once(call) / times for count, call, times in made)

    return measure_at_pace(trial, once) if made else 0.0


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the seconds per step in products whose weights have a twin, and of the same products in the cache."""
    known = {id(p) for same in _groups(trial).values() for p in same}
    calls: dict[tuple[int, int, int], tuple[int, Any]] = {}
    for rows, inputs, outputs, parameter in shapes_of_products(trial):
        if id(parameter) in known:
            key = (rows, inputs, outputs)
            calls[key] = (calls.get(key, (0, None))[0] + 1, parameter)
    streams_s = _streams(trial)
    trial.scratch["memory_bandwidth"] = streams_s
    if not known and not any(streams_s):
        raise llmbench.Unisolated(NOTHING)
    hot_s = _hot_s(trial, calls)
    wanted = lambda weight: id(parameter_of(weight)) in known  # noqa: E731
    part_s = trial.timed(lambda timer: time_products(timer, wanted)) if known else [0.0]
    return {"part_s": part_s, "hot_s": hot_s, "weights": len(known), "streams_s": streams_s}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - t + t of the same with all that is read in the cache), never below 1."""
    more = max(0.0, statistics.median(facts["part_s"]) - facts["hot_s"]) + statistics.median(facts["streams_s"])
    return llmbench.without(record, [more])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Share weights, and do large elementwise operators on pieces."""
    groups = _groups(trial)
    streams = any(trial.scratch.get("memory_bandwidth") or _streams(trial))
    if not groups and not streams:
        raise llmbench.Unisolated(NOTHING)

    @contextlib.contextmanager
    def change() -> Iterator[None]:
        with _share_weights(trial), in_the_cache() if streams else contextlib.nullcontext():
            yield

    def step_watched(batches: Sequence[Any]) -> None:
        with in_the_cache(pieces=False):  # watching takes time: in both arms, or it would hide the saving
            for batch in batches:
                trial.step(batch)

    shared = {str(k): len(v) for k, v in groups.items()}
    check = {"shared": shared, "streams": streams}
    return llmbench.Intervention(change, clean=step_watched if streams else None, check=check)


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="memory_bandwidth",
            axis="why",
            cause_class="hardware",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="weights streamed from main memory",
            advice="more rows per read of the weights (larger batch), smaller types (bf16, int8), fewer weights",
        )
    ]
