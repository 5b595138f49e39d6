"""`optimizer`: updating the parameters. Removed by leaving `step` out; gradients are cleared as before."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.causes._collectives import collectives
from llmbench_plugins.causes._swap import Function, substitute

STEPS = 4  # that are timed
WARMUP = 1  # steps before them


def _check(trial: llmbench.Trial) -> None:
    if not trial.trains:
        raise llmbench.DoesNotApply("nothing is updated")


def _after_backward_s(trial: llmbench.Trial) -> list[float]:
    """Return the seconds of a step after its last backward pass, collectives left out."""
    import torch

    ends: list[float] = []
    exchanged = 0.0

    def note_end(inner: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal exchanged
            out = inner(*args, **kwargs)
            ends[:] = [time.perf_counter()]
            exchanged = 0.0
            return out

        return call

    def leave_out(inner: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal exchanged
            begin = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                exchanged += time.perf_counter() - begin

        return call

    found = []
    others = [place for _, places in collectives() for place in places]
    with substitute([(torch.autograd, "backward")], note_end), substitute(others, leave_out):
        for i in range(WARMUP + STEPS):
            ends.clear()
            trial.step(trial.pool[i % len(trial.pool)])
            if trial.device == "cuda":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - ends[0] - exchanged if ends else 0.0)
    return found[WARMUP:]


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the seconds per step in `optimizer.step`; without an optimizer, those after the backward pass.

    For another engine than torch, the phases of the record have it.
    """
    _check(trial)
    if trial.engine != "torch":
        return {"kind": "an optimizer"}
    if trial.optimizer is None:
        return {"part_s": _after_backward_s(trial), "kind": "the step's own"}
    return {"part_s": trial.timed(lambda timer: substitute([(trial.optimizer, "step")], timer)), "kind": "an optimizer"}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - t_opt)."""
    return llmbench.without(record, facts.get("part_s") or record["phases"].get("optimizer_s", ()))


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Leave `step` out."""
    _check(trial)
    if trial.engine != "torch":
        return llmbench.Intervention(trial.without_update)
    if trial.optimizer is None:
        raise llmbench.Unisolated("the step updates by itself, without a torch.optim.Optimizer that could be left out")

    def nothing(_: Function) -> Function:
        return lambda closure=None: None if closure is None else closure()

    return llmbench.Intervention(lambda: substitute([(trial.optimizer, "step")], nothing))


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="optimizer",
            axis="where",
            cause_class="algorithm",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="updating the parameters",
            advice="a fused optimizer, fewer updates (larger batch, gradient accumulation), less state",
            engines=None,
        )
    ]
