"""Imported once by the warm fork server: the heavy libraries, and never a tensor operation.

A process forked after one OpenMP region hangs at its first own region, so nothing here may compute.

The garbage collector rests from here on: going over a million objects again and again is a seventh of the importing,
and what is imported stays. A forked cell freezes what it inherited and turns the collector on (`child_main`), as the
documentation of `gc.freeze` has it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os

gc.disable()

from llmbench.plugins.discovery import load_own  # noqa: E402

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

#: What every cell needs; what its model and its metrics need is asked of their specs (`preload`).
MODULES = (
    "torch",
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
    "safetensors.torch",
    "tokenizers",
    "torch.utils.flop_counter",  # imports what compiles, too: half a second for each cell that is traced
    "torch._inductor.config",  # torch.profiler asks it when it starts
    "llmbench.worker.job",
    "llmbench.worker.torch_engine.tracing",
)

for _name in MODULES:
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)
load_own()
