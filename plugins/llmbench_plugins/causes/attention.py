"""`attention`: scores, softmax and mixing. Removed by a core that returns V; the projections and their gradients stay.

Found as torch's fused `scaled_dot_product_attention`, or written by hand (see `_core`).
Shapes: `Q` queries, `K` keys, `D` a head's width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes import _core
from llmbench_plugins.causes._operators import seconds_of
from llmbench_plugins.causes._swap import Function, Place, places_of, substitute


def _places_of_fused() -> list[Place]:
    from torch.nn import functional

    return places_of(functional, "scaled_dot_product_attention")


def _find(trial: llmbench.Trial) -> tuple[int, list[tuple[Any, _core.Chain]]]:
    """Return how many fused cores a step calls, and the chains written by hand."""
    if trial.generates:
        raise llmbench.Unisolated("a core that returns V would generate other tokens")
    if trial.compiled:
        raise llmbench.Unisolated("compiled: its operators cannot be replaced")
    fused = 0

    def count(inner: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal fused
            fused += 1
            return inner(*args, **kwargs)

        return call

    with substitute(_places_of_fused(), count):
        trial.step(trial.pool[0])
    chains = [] if fused else _core.find(trial.module, lambda: trial.step(trial.pool[0]))
    if not fused and not chains:
        raise llmbench.DoesNotApply("a step calls no attention")
    return fused, chains


@contextlib.contextmanager
def _return_v() -> Iterator[None]:
    import torch

    passing = _core.passing()

    def core(_: Function) -> Function:
        def call(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.is_autocast_enabled(query.device.type):
                dtype = torch.get_autocast_dtype(query.device.type)
                query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
            if value.dim() == 4:  # (B, heads, K, D): what the fused core returns has the heads of a token side by side
                value = value.transpose(1, 2).contiguous().transpose(1, 2)
            return passing.apply((*query.shape[:-1], value.shape[-1]), value, query, key)

        return call

    with substitute(_places_of_fused(), core):
        yield


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return how many cores a step has, and the seconds per step in them."""
    fused, chains = _find(trial)
    if fused:
        return {
            "cores": fused,
            "kind": "fused",
            "part_s": trial.timed(lambda timer: substitute(_places_of_fused(), timer)),
        }
    shapes = {chain.shape[-2:] for _, chain in chains}
    shapes |= {shape[::-1] for shape in shapes}

    def belongs(name: str, tensors: Sequence[Any]) -> bool:
        return any(t.dim() > 2 and tuple(t.shape[-2:]) in shapes for t in tensors)

    return {"cores": len(chains), "kind": "written by hand", "part_s": seconds_of(trial, belongs)}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - t_core)."""
    return llmbench.without(record, facts["part_s"])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Return V instead."""
    fused, chains = _find(trial)
    check = {"cores": fused or len(chains)}
    if fused:
        return llmbench.Intervention(_return_v, check=check)
    return llmbench.Intervention(lambda: _core.without_chains(chains), check=check)


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="attention",
            axis="where",
            cause_class="algorithm",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="scores, softmax and mixing of attention",
            advice="fused attention (SDPA, FlashAttention), shorter or windowed sequences, fewer heads of keys",
        )
    ]
