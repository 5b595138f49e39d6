"""A bag of embeddings that classifies: the model `bag` of llmbench."""

import llmbench
from llmbench.layouts import Single

LLMBENCH_API = 2
WIDTH = 64


def build(request):
    from torch import nn
    from torch.nn.functional import cross_entropy

    if request.weights:
        raise llmbench.Unsupported("it has no pretrained weights")

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.EmbeddingBag(request.vocab_size, WIDTH, padding_idx=request.special.pad)
            self.head = nn.Linear(WIDTH, request.num_labels)

        def forward(self, input_ids, attention_mask, labels=None):
            logits = self.head(self.embed(input_ids))
            out = {"logits": logits}
            if labels is not None:
                out["loss"] = cross_entropy(logits.float(), labels)
            return out

    return Bag()


def flops(request, shapes):
    return 2 * shapes["input_ids"][0] * WIDTH * request.num_labels


@llmbench.hookimpl
def llmbench_models():
    return [llmbench.ModelSpec("bag", {"tiny": {}}, {"classify": Single()}, build, flops=flops)]
