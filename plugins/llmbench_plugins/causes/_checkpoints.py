"""The checkpointed regions of a step: parts of the forward pass that the backward pass computes again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import llmbench
from llmbench_plugins.causes._swap import Function, substitute

#: Arguments of torch's checkpoint generator between `preserve_rng_state` and those of the function.
OPTIONS = 4  # context_fn, determinism_check, debug, early_stop


def regions_of(trial: llmbench.Trial, batch: Any) -> list[Function]:
    """Return the outermost checkpointed calls of a step on `batch`; each can be run again by itself."""
    import torch
    from torch.utils import checkpoint

    regions: list[Function] = []
    inside = False

    def add(run: Function, preserve: bool, args: Any, kwargs: Any) -> None:
        given = [t.detach().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t for t in args]
        dtype = torch.get_autocast_dtype(trial.device)
        enabled = torch.is_autocast_enabled(trial.device)

        def call() -> Any:
            with torch.autocast(trial.device, dtype, enabled=enabled):
                return checkpoint.checkpoint(run, *given, use_reentrant=False, preserve_rng_state=preserve, **kwargs)

        regions.append(call)

    @contextlib.contextmanager
    def enter() -> Iterator[bool]:
        """Yield whether this is the outermost one."""
        nonlocal inside
        outermost, inside = not inside, True
        try:
            yield outermost
        finally:
            inside = not outermost

    def generator(inner: Function) -> Function:
        def call(run: Function, preserve: bool, *rest: Any, **kwargs: Any) -> Iterator[None]:
            with enter() as outermost:
                if outermost:
                    add(run, preserve, rest[OPTIONS:], kwargs)
                yield from inner(run, preserve, *rest, **kwargs)

        return call

    def apply(inner: Function) -> Function:
        def call(run: Function, preserve: bool, *args: Any) -> Any:
            with enter() as outermost:
                if outermost:
                    add(run, preserve, args, {})
                return inner(run, preserve, *args)

        return call

    def backward(inner: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            with enter():  # computing a region again calls the regions inside of it
                return inner(*args, **kwargs)

        return call

    with (
        substitute([(checkpoint, "_checkpoint_without_reentrant_generator")], generator),
        substitute([(checkpoint.CheckpointFunction, "apply")], apply),
        substitute([(torch.autograd, "backward"), (torch.autograd, "grad")], backward),
    ):
        trial.step(batch)
    return regions
