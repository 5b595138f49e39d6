"""The numeric settings of the field: full, mixed and pure half precision."""

from __future__ import annotations

import llmbench

PRECISIONS = (
    llmbench.PrecisionSpec(name="fp32", description="float32 throughout"),
    llmbench.PrecisionSpec(
        name="tf32", matmul="tf32", devices=("cuda",), description="float32, matmuls on TF32 tensor cores"
    ),
    llmbench.PrecisionSpec(
        name="bf16", autocast="bfloat16", description="mixed: float32 parameters, bfloat16 autocast"
    ),
    llmbench.PrecisionSpec(
        name="bf16-pure", parameters="bfloat16", description="bfloat16 parameters, gradients and optimizer state"
    ),
    llmbench.PrecisionSpec(
        name="fp16",
        autocast="float16",
        grad_scaling=True,
        description="mixed: float32 parameters, float16 autocast, scaled loss",
    ),
    llmbench.PrecisionSpec(
        name="fp16-pure",
        parameters="float16",
        description="float16 parameters without loss scaling, which needs float32 gradients; Adam's epsilon is 1e-4, "
        "since 1e-8 is 0 in float16; for speed and inference, training may overflow",
    ),
)


@llmbench.hookimpl
def llmbench_precisions() -> list[llmbench.PrecisionSpec]:
    """Return the built-in precisions."""
    return list(PRECISIONS)
