"""word2vec (Mikolov et al. 2013): skip-gram with negative sampling, and a linear classifier on averaged vectors.

Every token predicts those around it. The products of all tokens of a row are made at once, and its negatives are shared
by all its tokens, so that the work is matrix products (Ji et al. 2016, arXiv 1604.04661); the loss is that of
`negatives` draws per pair all the same. Negatives are drawn from the batch, in proportion to count^0.75. Frequent words
are not left out (the paper's subsampling).

Shapes: `B` batch, `L` tokens, `N` negatives, `H` hidden, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

import llmbench
from llmbench.layouts import Single, content_rng, mask_of, pad_rows
from llmbench_plugins.models._cells import refuse_weights
from llmbench_plugins.models.heads import class_output, linear_flops, linear_parameters, wider

SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"tiny": {"hidden": 64}, "small": {"hidden": 256}, "base": {"hidden": 300}}
)
NEGATIVES = 5  # per pair: Mikolov et al. 2013 (arXiv 1310.4546), section 2.2, 5 to 20 for small corpora
SHARED = 32  # negatives of a row, among which those of its pairs are
POWER = 0.75  # of the counts, section 2.2


@dataclass(frozen=True)
class SkipGram:
    """`pretrain` on pairs of near tokens: `input_ids`, `reach` (B, L), and in training `negative_ids` (B, N).

    A token predicts those at most `reach` places away, a number from 1 to `window` drawn for each, so that near ones
    count more (arXiv 1301.3781, section 3.2). Special tokens and padding have a reach of 0, and are not predicted.
    """

    window: int = 5

    def length(self, feature: Mapping[str, Any]) -> int:
        """Tokens of the window."""
        return len(feature["ids"])

    def collate(self, features: Sequence[Any], ctx: llmbench.CollateContext) -> llmbench.Batch:
        """Draw reaches and negatives from the seed and the content of the batch, and pad on the right."""
        rows = [list(f["ids"][: ctx.seq_len]) for f in features]
        rng = content_rng(ctx, rows)
        ids, mask = pad_rows(rows, ctx.special.pad), mask_of(rows)
        marks = [ctx.special.pad, ctx.special.bos, ctx.special.eos, ctx.special.sep]
        words = ~np.isin(ids, marks)
        arrays = {"input_ids": ids, "reach": np.where(words, rng.integers(1, self.window + 1, ids.shape), 0)}
        if ctx.train:
            found, counts = np.unique(ids[words] if words.any() else ids, return_counts=True)
            chances = counts**POWER / (counts**POWER).sum()
            arrays["negative_ids"] = rng.choice(found, (len(rows), SHARED), p=chances)
        tokens = int(mask.sum())
        return llmbench.Batch(arrays, len(rows), tokens, mask.size - tokens)


def _language_model(request: llmbench.BuildRequest) -> Any:
    """Return the module for `pretrain`: a vector of each token as it predicts, and one as it is predicted."""
    import torch
    from torch import nn
    from torch.nn.functional import logsigmoid

    hidden, vocab_size = request.config["hidden"], request.vocab_size

    class SkipGramModel(nn.Module):
        noise: Any

        def __init__(self) -> None:
            super().__init__()
            self.embedding = _embedding(request)
            self.outputs = nn.Embedding(vocab_size, hidden)
            nn.init.zeros_(self.outputs.weight)  # as word2vec.c
            self.register_buffer("noise", torch.ones(vocab_size, dtype=torch.long))  # how often each was a negative

        def forward(self, input_ids: Any, reach: Any, negative_ids: Any = None) -> dict[str, Any]:
            vectors_BLH = self.embedding(input_ids)
            places_L = torch.arange(input_ids.shape[1], device=input_ids.device)
            apart_LL = (places_L[:, None] - places_L).abs()
            pairs_BLL = (apart_LL <= reach[:, :, None]) & (apart_LL > 0) & (reach[:, None] > 0)
            if negative_ids is None:
                return self.score(vectors_BLH, input_ids, pairs_BLL)
            near_BLL = (vectors_BLH @ self.outputs(input_ids).transpose(1, 2)).float()
            far_BLN = (vectors_BLH @ self.outputs(negative_ids).transpose(1, 2)).float()
            each_BL = pairs_BLL.sum(2)
            far = (logsigmoid(-far_BLN).mean(2) * each_BL).sum() * NEGATIVES
            loss = -((logsigmoid(near_BLL) * pairs_BLL).sum() + far) / each_BL.sum().clamp(min=1)
            if self.training:
                with torch.no_grad():
                    drawn = negative_ids.flatten()
                    self.noise.index_add_(0, drawn, torch.ones_like(drawn))
            return {"loss": loss}

        def score(self, vectors_BLH: Any, ids_BL: Any, pairs_BLL: Any) -> dict[str, Any]:
            """Return nats of each row's pairs, by what the scores are once trained: log p(near | token) - log p(noise).

            See Levy and Goldberg 2014 (Neural Word Embedding as Implicit Matrix Factorization); a constant falls out.
            """
            logits_BLV = (vectors_BLH @ self.outputs.weight.T).float() + self.noise.float().log()
            chances_BLL = logits_BLV.log_softmax(-1).gather(2, ids_BL[:, None].expand_as(pairs_BLL))
            return {"nll": -(chances_BLL * pairs_BLL).sum((1, 2)), "tokens": pairs_BLL.sum((1, 2))}

    return SkipGramModel()


def _embedding(request: llmbench.BuildRequest) -> Any:
    """Return the vectors, drawn small as in word2vec.c: between -1/2H and 1/2H."""
    from torch import nn

    hidden = request.config["hidden"]
    embedding = nn.Embedding(request.vocab_size, hidden)
    nn.init.uniform_(embedding.weight, -0.5 / hidden, 0.5 / hidden)
    return embedding


def _classifier(request: llmbench.BuildRequest) -> Any:
    """Return the module for `classify`: a linear layer on the mean of the vectors, all of it trained."""
    from torch import nn

    class AveragedVectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = _embedding(request)
            self.classifier = nn.Linear(request.config["hidden"], request.num_labels)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
            mask_BL1 = attention_mask[:, :, None]
            mean_BH = (self.embedding(input_ids) * mask_BL1).sum(1) / mask_BL1.sum(1)
            return class_output(self.classifier(mean_BH), labels)

    return AveragedVectors()


def build(request: llmbench.BuildRequest) -> Any:
    """Return the torch module for `request.head`. Raises UserError when `weights` are asked for: none are known."""
    refuse_weights("word2vec", request)
    return _language_model(request) if request.head == "pretrain" else _classifier(request)


def flops(request: llmbench.BuildRequest, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the matmul FLOPs of a forward pass: tokens by tokens and negatives, or by the vocabulary where scored."""
    hidden = request.config["hidden"]
    rows, length = shapes["input_ids"]
    if request.head == "classify":
        return rows * linear_flops(1, hidden, request.num_labels)
    met = length + shapes["negative_ids"][1] if "negative_ids" in shapes else request.vocab_size
    return rows * linear_flops(length, hidden, met)


def parameters(request: llmbench.BuildRequest) -> int:
    """Return the number of parameters: two vectors of each token, or one and the classifier."""
    hidden = request.config["hidden"]
    vectors = request.vocab_size * hidden
    return 2 * vectors if request.head == "pretrain" else vectors + linear_parameters(hidden, request.num_labels)


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return word2vec."""
    return [
        llmbench.ModelSpec(
            name="word2vec",
            sizes=SIZES,
            layouts=MappingProxyType({"pretrain": SkipGram(), "classify": Single()}),
            build=build,
            description="skip-gram with negative sampling; averaged vectors with a linear classifier",
            reference="Mikolov et al. 2013 (arXiv 1301.3781, 1310.4546); `base`: 300 dimensions, as their vectors",
            learning_rate={"pretrain": 1e-2, "finetune": 1e-2},
            masked=True,
            flops=flops,
            parameters=parameters,
            wider=wider,
        )
    ]
