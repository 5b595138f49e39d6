"""Sentence vectors learned by contrast: Quick-Thoughts (Logeswaran and Lee 2018, arXiv 1803.02893).

Which of the batch's passages comes next? Two encoders, one for what is read and one for what follows, and the scores
are their vectors' products; a sentence's vector is both side by side. A packed block is cut in the middle, so a pair is
two passages of half a block. Nothing predicts a token, so pretraining has no perplexity.

Shapes: `B` batch, `L` tokens, `H` hidden, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench.layouts import Single, mask_of, pad_rows
from llmbench_plugins.models._cells import refuse_weights, stack, stack_flops, stack_parameters
from llmbench_plugins.models.heads import class_output, linear_flops, linear_parameters, wider

#: `base`: 1200 units, 620-dimensional embeddings (the uni-skip of Kiros et al. 2015, arXiv 1506.06726, whose encoder
#: Quick-Thoughts keeps).
SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"cell": "gru", "embedded": 64, "hidden": 64, "dropout": 0.0},
        "small": {"cell": "gru", "embedded": 256, "hidden": 256, "dropout": 0.0},
        "base": {"cell": "gru", "embedded": 620, "hidden": 1200, "dropout": 0.0},
    }
)


@dataclass(frozen=True)
class Halves:
    """`pretrain` on passages that follow each other: the halves of a window.

    `input_ids`, `attention_mask` and `next_ids`, `next_mask` (B, L).
    """

    def length(self, feature: Mapping[str, Any]) -> int:
        """Tokens of the window."""
        return len(feature["ids"])

    def collate(self, features: Sequence[Any], ctx: llmbench.CollateContext) -> llmbench.Batch:
        """Cut each window in the middle and pad on the right; one token alone is followed by `eos`."""
        rows = [list(f["ids"][: ctx.seq_len]) for f in features]
        first = [row[: (len(row) + 1) // 2] for row in rows]
        second = [row[(len(row) + 1) // 2 :] or [ctx.special.eos] for row in rows]
        mask, next_mask = mask_of(first), mask_of(second)
        arrays = {
            "input_ids": pad_rows(first, ctx.special.pad),
            "attention_mask": mask,
            "next_ids": pad_rows(second, ctx.special.pad),
            "next_mask": next_mask,
        }
        tokens = int(mask.sum() + next_mask.sum())
        return llmbench.Batch(arrays, len(rows), tokens, mask.size + next_mask.size - tokens)


def _encoder(request: llmbench.BuildRequest) -> Any:
    """Return an embedding and a GRU whose state after the last token is the vector (B, H)."""
    import torch
    from torch import nn

    embedded = request.config["embedded"]

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(request.vocab_size, embedded)
            nn.init.normal_(self.embedding.weight, std=embedded**-0.5)
            self.gru = stack(embedded, request, 1)

        def forward(self, ids_BL: Any, mask_BL: Any) -> Any:
            states_BLH, _ = self.gru(self.embedding(ids_BL))
            return states_BLH[torch.arange(len(ids_BL), device=ids_BL.device), mask_BL.sum(1) - 1]

    return Encoder()


def _contrast(request: llmbench.BuildRequest) -> Any:
    """Return the module for `pretrain`: a softmax over the batch's passages."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    class QuickThoughts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reads, self.follows = _encoder(request), _encoder(request)

        def forward(self, input_ids: Any, attention_mask: Any, next_ids: Any, next_mask: Any) -> dict[str, Any]:
            read_BH, next_BH = self.reads(input_ids, attention_mask), self.follows(next_ids, next_mask)
            scores_BB = (read_BH @ next_BH.T).float()
            loss = cross_entropy(scores_BB, torch.arange(len(scores_BB), device=scores_BB.device))
            none_B = scores_BB.new_zeros(len(scores_BB))
            return {"loss": loss, "scores": scores_BB, "nll": none_B, "tokens": none_B.long()}

    return QuickThoughts()


def _classifier(request: llmbench.BuildRequest) -> Any:
    """Return the module for `classify`: a linear layer on the sentence's vector (2H), all of it trained."""
    import torch
    from torch import nn

    class VectorClassifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reads, self.follows = _encoder(request), _encoder(request)
            self.classifier = nn.Linear(2 * request.config["hidden"], request.num_labels)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            both = [encoder(input_ids, attention_mask) for encoder in (self.reads, self.follows)]
            return class_output(self.classifier(torch.cat(both, -1)), labels)

    return VectorClassifier()


def build(request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `request.head`. Raises UserError when `weights` are asked for: none are known."""
    refuse_weights("sentence2vec", request)
    return _contrast(request) if request.head == "pretrain" else _classifier(request)


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the matmul FLOPs of a forward pass: both encoders, and the products of all pairs or the classifier."""
    config, hidden = request.config, request.config["hidden"]
    rows, length = shapes["input_ids"]
    if request.head == "classify":
        both = 2 * stack_flops(length, config["embedded"], config, 1)
        return rows * (both + linear_flops(1, 2 * hidden, request.num_labels))
    both = stack_flops(length + shapes["next_ids"][1], config["embedded"], config, 1)
    return rows * (both + linear_flops(1, hidden, rows))


def parameters(request: llmbench.BuildRequest) -> int:
    """Return the number of parameters: two encoders with an embedding each, and the classifier."""
    config = request.config
    both = 2 * (request.vocab_size * config["embedded"] + stack_parameters(config["embedded"], config, 1))
    return both + linear_parameters(2 * config["hidden"], request.num_labels) if request.head == "classify" else both


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return sentence2vec."""
    return [
        llmbench.ModelSpec(
            name="sentence2vec",
            sizes=SIZES,
            layouts=MappingProxyType({"pretrain": Halves(), "classify": Single()}),
            build=build,
            description="sentence vectors learned by telling which passage comes next; a linear classifier on them",
            reference="Quick-Thoughts: Logeswaran and Lee 2018 (arXiv 1803.02893)",
            learning_rate={"pretrain": 3e-3, "finetune": 3e-3},
            masked=True,
            flops=flops,
            parameters=parameters,
            wider=wider,
        )
    ]
