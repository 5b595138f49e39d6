"""Imported once by the warm fork server: the heavy libraries, and never a tensor operation.

A process forked after one OpenMP region hangs at its first own region, so nothing here may compute.
"""

from __future__ import annotations

import contextlib
import importlib
import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

#: What nearly every cell needs. Scoring libraries are optional: a run that scores nothing works without them.
MODULES = (
    "torch",
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
    "safetensors.torch",
    "tokenizers",
    "transformers",
    "evaluate",
    "datasets",
    "sklearn.metrics",
    "sacrebleu",
    "rouge_score.rouge_scorer",
    "llmbench.worker.main",
)

for _name in MODULES:
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)
