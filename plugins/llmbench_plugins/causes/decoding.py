"""`decoding`: tokens made one after the other. Removed by one pass over the tokens that were made.

Shapes: `B` rows, `P` tokens of the prompt, `N` new tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._swap import Function, forwards, substitute

LEAST_PASSES = 4


def _passes(trial: llmbench.Trial, batch: Any) -> tuple[int, Callable[[], Any]]:
    """Return how many passes a step makes over growing tokens, and one pass over all of them.

    A trial of a built-in cell says so itself (`one_pass`). Elsewhere the calls of modules show it, outer
    modules first: their first argument of whole numbers (B, n) grows from call to call, or holds the next tokens only.
    """
    import torch

    if trial.one_pass is not None:
        return trial.one_pass(batch)
    calls: dict[int, list[tuple[tuple[Any, ...], dict[str, Any], Any]]] = {}

    def ids_of(args: Any, kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        found = [t for t in given if isinstance(t, torch.Tensor) and t.dim() == 2 and not t.is_floating_point()]
        return found[0] if found else None

    def note(inner: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            ids = ids_of(args, kwargs)
            if ids is not None:
                calls.setdefault(id(inner.__self__), []).append((args, kwargs, ids))  # type: ignore[attr-defined]
            return inner(*args, **kwargs)

        return call

    modules = [m for m in trial.module.modules() if not isinstance(m, torch.nn.Embedding)]
    with substitute(forwards(modules), note):
        trial.step(batch)
    for module in modules:
        made = [ids for *_, ids in calls.get(id(module), [])]
        lengths = [ids.shape[1] for ids in made]
        if len(made) < LEAST_PASSES:
            continue
        if all(n == 1 for n in lengths[1:]):
            whole = torch.cat(made, 1)
        elif all(b == a + 1 for a, b in zip(lengths, lengths[1:], strict=False)):
            whole = made[-1]
        else:
            continue

        def read_all(module: Any = module, whole: Any = whole) -> Any:
            with torch.no_grad():
                return module(whole)

        return len(made), read_all
    raise llmbench.DoesNotApply("a step makes no tokens one by one")


def _check(trial: llmbench.Trial) -> None:
    if trial.trains and not trial.generates:
        raise llmbench.DoesNotApply("in training all tokens are known")


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the passes of a step, its seconds and those of one pass over all tokens, for a few batches."""
    _check(trial)
    passes, whole, once = [], [], []
    for batch in trial.pool[:3]:
        count, forced = _passes(trial, batch)
        passes.append(count)
        once += trial.seconds(forced, least=2)
        whole += trial.seconds(lambda b=batch: trial.step(b), least=1)  # type: ignore[misc]
    return {"passes": passes, "whole_s": whole, "once_s": once}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """t_generate / t_forward(P + N)."""
    return statistics.median(facts["whole_s"]) / statistics.median(facts["once_s"])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Read the tokens that the step made, all at once."""
    _check(trial)
    forced = {id(batch): _passes(trial, batch)[1] for batch in trial.pool}

    def at_once(batches: Sequence[Any]) -> None:
        for batch in batches:
            forced[id(batch)]()

    return llmbench.Intervention(treated=at_once)


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="decoding",
            axis="where",
            cause_class="algorithm",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="making tokens one after the other",
            advice="keep keys and values, larger batches, speculative decoding, a smaller model, CUDA graphs",
        )
    ]
