"""`copy`: moving batches to the device. Removed by batches that are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import llmbench


def _check(trial: llmbench.Trial) -> None:
    if trial.device == "cpu":
        raise llmbench.DoesNotApply("on the CPU nothing is copied to a device")


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the bytes of a batch."""
    _check(trial)
    tensors = trial.tensors(trial.pool[0]).values()
    return {"bytes": sum(t.numel() * t.element_size() for t in tensors)}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - exposed copy), from the phase pass."""
    return llmbench.without(record, record["phases"].get("copy_s", ()))


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Take the same batches from the device's memory; moving what is there already does nothing."""
    _check(trial)
    there = {
        id(batch): trial.rebuilt(batch, {name: t.to(trial.device) for name, t in trial.tensors(batch).items()})
        for batch in trial.pool
    }

    def resident(batches: Sequence[Any]) -> None:
        for batch in batches:
            trial.step(there[id(batch)])

    return llmbench.Intervention(treated=resident)


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="copy",
            axis="where",
            cause_class="data",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="moving batches from the host to the device",
            advice="pinned memory and non-blocking copies; send ids, not what can be computed from them",
        )
    ]
