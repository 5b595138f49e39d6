"""What tests of models read: features of each head, of random ids, and the arrays made of them."""

from __future__ import annotations

import numpy as np
import torch

import llmbench

V, SEQ, TARGET = 60, 20, 8
SPECIAL = llmbench.SpecialTokens()
HEADS = ("classify", "span", "generate", "pretrain")


def features_of(head, lengths=(9, 5, 12, 7), seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for i, n in enumerate(lengths):
        ids = rng.integers(6, V, n).tolist()
        rows.append(
            {
                "classify": {"ids": ids, "label": i % 3},
                "span": {"question": [ids[2], ids[3]], "context": ids, "start": 3, "end": 4},
                "generate": {"source": ids, "target": ids[:3]},
                "pretrain": {"ids": [SPECIAL.bos, *ids]},
            }[head]
        )
    return rows


def arrays_of(spec, head, features, train=True):
    ctx = llmbench.CollateContext(SPECIAL, SEQ, TARGET, V, train)
    return {k: torch.from_numpy(v) for k, v in spec.layouts[head].collate(features, ctx).arrays.items()}
