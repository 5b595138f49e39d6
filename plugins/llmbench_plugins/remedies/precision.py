"""`bf16`: mixed precision, parameters in float32 and layers in bfloat16."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import phase_s


def _change(cell: Any) -> Any:
    if cell.precision not in ("fp32", "tf32"):
        raise llmbench.DoesNotApply(f"it runs in {cell.precision}")
    return dataclasses.replace(cell, precision="bf16")


def _predict(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    """T / (T - t (1 - P / P')): t, the time at the measured matmul ceiling; P and P', that of now and of bfloat16."""
    modes = ceilings.get("precisions", {})
    matmul = ceilings.get("matmul", {})
    now, then = (
        (matmul.get(modes.get(name, name)) or {}).get("value") for name in (record["cell"]["precision"], "bf16")
    )
    flops = (record.get("counts") or {}).get("flops")
    if flops is None or not now or not then:
        return llmbench.Forecast(None, "the ceilings of both precisions, or the FLOPs of the step, are not known")
    spent = phase_s(record, "forward", "backward", "prefill", "decode")
    at_peak_s = min(flops / now, spent or flops / now)
    gain = llmbench.without(record, [at_peak_s], at_peak_s * now / then)
    return llmbench.Forecast(gain, f"matmuls at {then / now:.2f} times the measured peak")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedy."""
    return [
        llmbench.RemedySpec(
            name="bf16",
            answers=("compute", "memory_bandwidth", "memory_capacity"),
            change=_change,
            predict=_predict,
            description="mixed precision in bfloat16",
        )
    ]
