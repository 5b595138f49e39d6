"""`fused-optimizer`, `foreach-optimizer`: the same AdamW, its parameters updated in one operator or in few."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import less, phase_s

#: AdamW reads parameter, gradient and both moments, and writes all but the gradient: 7 float32 per parameter.
BYTES_PER_PARAMETER = 28
OTHERS = {"adamw": ("adamw-loop", "adamw-foreach"), "adamw-foreach": ("adamw-loop",)}


def _change(cell: Any, to: str) -> Any:
    if cell.stage == "eval":
        raise llmbench.DoesNotApply("nothing is updated")
    if cell.optimizer not in OTHERS[to]:
        raise llmbench.DoesNotApply(f"its optimizer is {cell.optimizer}")
    return dataclasses.replace(cell, optimizer=to)


def _predict(record: Mapping[str, Any], ceilings: Mapping[str, Any], to: str) -> llmbench.Forecast:
    """T / (T - t_opt + bytes / bandwidth): what is left is moving 28 bytes per parameter, at most as slow as memory.

    t_opt is the update's part as the cause `optimizer` found it, else the whole phase, clipping included.
    """
    if to == "adamw-foreach" and record["cell"]["device"] == "cpu":
        return llmbench.Forecast(1.0, "on the CPU torch updates a list of tensors one by one")
    levels = ceilings.get("memory_levels") or []
    speeds = [e["value"] for k, e in (levels[-1].items() if levels else ()) if k.endswith("_per_s") and e]
    parameters = (record.get("counts") or {}).get("parameters")
    if not speeds or parameters is None:
        return llmbench.Forecast(None, "the bandwidth of memory is not known")
    floor_s = BYTES_PER_PARAMETER * parameters / max(speeds)
    known = llmbench.part_of(record, "optimizer")
    part_s = statistics.median(known) if known else phase_s(record, "optimizer")
    return less(record, part_s, min(floor_s, part_s or floor_s), "the update at the bandwidth of memory")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedies."""
    return [
        llmbench.RemedySpec(
            name=name,
            answers=("optimizer", "host", "kernel"),
            change=functools.partial(_change, to=to),
            predict=functools.partial(_predict, to=to),
            description=what,
            general=True,
            same_updates=True,
            family="optimizer",
        )
        for name, to, what in (
            ("fused-optimizer", "adamw", "AdamW in one fused operator"),
            ("foreach-optimizer", "adamw-foreach", "AdamW over lists of tensors"),
        )
    ]
