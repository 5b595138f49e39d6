"""`checkpointing`: activations computed again in the backward pass. Removed by keeping them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._checkpoints import regions_of
from llmbench_plugins.causes._swap import Function, substitute


@contextlib.contextmanager
def _keep_activations(seen: list[int]) -> Iterator[None]:
    """Run checkpointed functions as if they were not."""
    from torch.utils import checkpoint

    def no_checkpoint(_: Function) -> Function:
        def generator(*args: Any, **kwargs: Any) -> Iterator[None]:
            seen.append(1)
            yield

        return generator

    def no_apply(_: Function) -> Function:
        def apply(run_function: Function, preserve: bool, *args: Any) -> Any:
            seen.append(1)
            return run_function(*args)

        return apply

    with (
        substitute([(checkpoint, "_checkpoint_without_reentrant_generator")], no_checkpoint),
        substitute([(checkpoint.CheckpointFunction, "apply")], no_apply),
    ):
        yield


def _check(trial: llmbench.Trial) -> int:
    if not trial.trains:
        raise llmbench.DoesNotApply("nothing is kept for a backward pass")
    seen: list[int] = []
    with _keep_activations(seen):
        trial.step(trial.pool[0])
    if not seen:
        raise llmbench.DoesNotApply("no torch.utils.checkpoint in a step")
    return len(seen)


def _run(trial: llmbench.Trial, regions: Sequence[Function]) -> None:
    """Run regions forward, then backward."""
    import torch

    made = [[t for t in _tensors(region()) if t.requires_grad] for region in regions]
    parameters = [p for p in trial.module.parameters() if p.requires_grad]
    for outputs in reversed(made):
        if outputs:
            torch.autograd.grad(outputs, parameters, [t.detach() for t in outputs], allow_unused=True)


def _tensors(result: Any) -> list[Any]:
    import torch

    parts = result if isinstance(result, (tuple, list)) else [result]
    return [t for t in parts if isinstance(t, torch.Tensor)]


def _not_reentrant(_: Function) -> Function:
    from torch.utils import checkpoint

    def apply(run: Function, preserve: bool, *args: Any) -> Any:
        return checkpoint.checkpoint(run, *args, use_reentrant=False, preserve_rng_state=preserve)

    return apply


def _again_s(trial: llmbench.Trial, batch: Any) -> float:
    """Return the seconds that the regions of a step on `batch` take longer for being checkpointed."""
    from torch.utils import checkpoint

    regions = regions_of(trial, batch)

    def longer() -> float:
        with substitute([(checkpoint.CheckpointFunction, "apply")], _not_reentrant):  # a nested one; `grad` needs that
            checkpointed = trial.once(lambda: _run(trial, regions))
        with _keep_activations([]):
            return checkpointed - trial.once(lambda: _run(trial, regions))

    return trial.paced(longer, batch)


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return how many regions are checkpointed, and the seconds per step that they take longer by that.

    The regions are run by themselves, forward and backward, checkpointed and not. The difference is the second pass and
    the bookkeeping for it.
    """
    regions = _check(trial)
    _again_s(trial, trial.pool[0])  # warm up
    return {"regions": regions, "part_s": [_again_s(trial, batch) for batch in trial.probes()]}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - t_checkpointed + t_kept), of the regions alone."""
    return llmbench.without(record, facts["part_s"])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Switch it off."""
    _check(trial)
    return llmbench.Intervention(lambda: _keep_activations([]))


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="checkpointing",
            axis="where",
            cause_class="algorithm",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="computing activations twice to save memory",
            advice="checkpoint fewer layers, or none where memory allows",
        )
    ]
