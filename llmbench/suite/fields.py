"""The keys of a suite and the values that each may have."""

from __future__ import annotations

import re
from dataclasses import fields

from llmbench.contract.cell import STAGES, Budget, Cell

STUDIES = ("learning", "scaling")

#: Keys of one value, which a child and `--set` replace.
SCALARS = ("repeats", "verify", "measure")

TOP_KEYS = ("name", "extends", "matrix", "include", "exclude", "defaults", "budget", *SCALARS, *STUDIES)

BUDGET_KEYS = ("steps", *(f.name for f in fields(Budget)))

VERIFY = ("none", "verdict", "all")

SPEED = "speed"  # steps, their phases and the peak of memory: nothing is traced, verified or scored

MEASURE = ("all", SPEED)

LEARNING_KEYS = ("double", "seeds", "follow", "ample")

FOLLOW_FROM = 3  # times as much: more than doubled

DOUBLED = ("data", "steps", "parameters")

AMPLE = ("train_examples", "steps", "size")  # the field of each, in the same order

#: Smallest integer of a field. `seq_len`: a question, a context and their marks; `vocab_size`: 256 bytes and 6 marks.
INTEGERS = {
    **{"batch_size": 1, "seq_len": 8, "target_len": 1, "steps": 0, "seed": 0, "workers": 0, "world_size": 1},
    **{"train_examples": 1, "test_examples": 1, "vocab_size": 262, "repeats": 1, "max_repeats": 2, "seeds": 2},
    **{"threads": 1, "accumulation": 1, "remedy_pairs": 2, "remedy_seeds": 2, "lora": 1},
}

FLOATS = ("learning_rate", "seconds", "ci_pct", "memory_mib", "price_per_hour", "verify_seconds", "remedy_seconds")

BOOLEANS = (
    *("bucketing", "compile", "largest_batch", "labelled_logits", "pretokenized", "pin_memory", "checkpointing"),
    *("kv_cache", "cuda_graphs", "keep_memory"),
)

NULLABLE = frozenset(
    {
        *("target_len", "learning_rate", "train_examples", "test_examples", "pretrain_dataset", "weights"),
        *("memory_mib", "max_repeats", "price_per_hour", "threads", "lora"),
    }
)

CHOICES = {"stage": STAGES, "verify": VERIFY, "measure": MEASURE}

#: Fields that split a cell over processes, with the only value that each may have: a cell is measured in one process,
#: and a record must not say otherwise.
ONE_PROCESS = {"strategy": Cell.strategy, "world_size": Cell.world_size}

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")

VARIABLE = re.compile(r"\$\{(\w+)\}")
