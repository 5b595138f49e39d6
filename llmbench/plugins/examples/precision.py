"""Double precision, to compare others with: the precision `fp64` of llmbench."""

import llmbench

LLMBENCH_API = 2


@llmbench.hookimpl
def llmbench_precisions():
    return [llmbench.PrecisionSpec("fp64", parameters="float64", devices=("cpu", "cuda"))]
