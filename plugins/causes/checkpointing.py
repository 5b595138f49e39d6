"""`checkpointing`: activations computed again in the backward pass. Removed by keeping them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import llmbench
from llmbench_plugins.causes._swap import Function, replaced


@contextlib.contextmanager
def _recomputation(timer: Any) -> Iterator[None]:
    """Time what is run a second time: the recompute functions; of the reentrant kind the equal first pass."""
    from torch.utils import checkpoint

    def frame(init: Function) -> Function:
        def wrapped(self: Any, recompute_fn: Function, *args: Any, **kwargs: Any) -> None:
            init(self, timer(recompute_fn), *args, **kwargs)

        return wrapped

    def forward(inner: Function) -> Any:
        return staticmethod(timer(inner))

    with (
        replaced([(checkpoint._CheckpointFrame, "__init__")], frame),
        replaced([(checkpoint.CheckpointFunction, "forward")], forward),
    ):
        yield


@contextlib.contextmanager
def _kept(seen: list[int]) -> Iterator[None]:
    """Run checkpointed functions as if they were not."""
    from torch.utils import checkpoint

    def no_checkpoint(_: Function) -> Function:
        def generator(*args: Any, **kwargs: Any) -> Iterator[None]:
            seen.append(1)
            yield

        return generator

    def called(_: Function) -> Function:
        def apply(run_function: Function, preserve: bool, *args: Any) -> Any:
            seen.append(1)
            return run_function(*args)

        return apply

    with (
        replaced([(checkpoint, "_checkpoint_without_reentrant_generator")], no_checkpoint),
        replaced([(checkpoint.CheckpointFunction, "apply")], called),
    ):
        yield


def _check(trial: llmbench.Trial) -> int:
    if not trial.trains:
        raise llmbench.DoesNotApply("nothing is kept for a backward pass")
    seen: list[int] = []
    with _kept(seen):
        trial.step(trial.pool[0])
    if not seen:
        raise llmbench.DoesNotApply("no torch.utils.checkpoint in a step")
    return len(seen)


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return how many regions are checkpointed and the seconds of running them again."""
    return {"regions": _check(trial), "part_s": trial.timed(_recomputation)}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - t_recompute)."""
    return llmbench.without(record, facts["part_s"])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Switch it off."""
    _check(trial)
    return llmbench.Intervention(lambda: _kept([]))


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
