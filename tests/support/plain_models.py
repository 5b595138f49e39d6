"""Small plain torch modules, as users write them, for the trials of causes."""

from __future__ import annotations

import math
import time

import torch
from torch import nn
from torch.nn import functional as F

VOCAB = 64


class Block(nn.Module):
    """A transformer block; `style` is how its attention is written."""

    def __init__(self, width, heads, style):
        super().__init__()
        self.heads, self.style = heads, style
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.mha = nn.MultiheadAttention(width, heads, batch_first=True) if style == "module" else None

    def attend(self, q, k, v):
        length, scale = q.shape[-2], 1 / math.sqrt(q.shape[-1])
        if self.style == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if self.style == "einsum":
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * scale
        elif self.style == "bmm":
            flat = [t.flatten(0, 1) for t in (q, k, v)]
            weights = torch.softmax(torch.bmm(flat[0], flat[1].transpose(1, 2)) * scale, -1)
            return torch.bmm(F.dropout(weights, 0.1), flat[2]).view_as(q)
        else:
            scores = (q @ k.transpose(-2, -1)) * scale
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        weights = F.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)
        if self.style == "einsum":
            return torch.einsum("bhqk,bhkd->bhqd", weights, v)
        return F.dropout(weights, 0.1) @ v

    def forward(self, x):
        rows, length, width = x.shape
        given = self.norm1(x)
        if self.mha is not None:
            x = x + self.mha(given, given, given)[0]
        else:
            q, k, v = self.qkv(given).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            x = x + self.out(self.attend(q, k, v).transpose(1, 2).reshape(rows, length, width))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """A decoder in the manner of nanoGPT: `model(ids, targets)` returns logits and loss."""

    def __init__(self, vocab=VOCAB, width=32, layers=2, heads=4, style="sdpa", tied=False, checkpoint=False, sleep=0.0):
        super().__init__()
        self.vocab, self.checkpoint, self.sleep = vocab, checkpoint, sleep
        self.embed, self.place = nn.Embedding(vocab, width), nn.Embedding(128, width)
        self.blocks = nn.ModuleList(Block(width, heads, style) for _ in range(layers))
        self.head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids, targets=None):
        from torch.utils.checkpoint import checkpoint

        if self.sleep:
            time.sleep(self.sleep)
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpoint else block(x)
        logits = self.head(x)
        if targets is None:
            return logits
        return logits, F.cross_entropy(logits.view(-1, self.vocab), targets.reshape(-1))


class Recurrent(nn.Module):
    """A classifier over the states of a recurrent layer, or of a cell that is called in a loop."""

    def __init__(self, kind="LSTM", width=24, **options):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.cell = getattr(nn, kind)(width, width) if kind.endswith("Cell") else None
        self.layer = None if self.cell else getattr(nn, kind)(width, width, **{"batch_first": True, **options})
        self.classify = nn.Linear(width * (2 if options.get("bidirectional") else 1), 3)

    def states(self, ids):
        x = self.embed(ids)
        if self.cell is None:
            if not self.layer.batch_first:
                return self.layer(x.transpose(0, 1))[0].transpose(0, 1)
            return self.layer(x)[0]
        state, made = None, []
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
            made.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(made, 1)

    def forward(self, ids, labels):
        return F.cross_entropy(self.classify(self.states(ids).mean(1)), labels)


class Deep(nn.Module):
    """Linear layers of one shape."""

    def __init__(self, layers=4, width=64):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Loader:
    """Batches that can be iterated again and again; each takes `sleep` seconds to make."""

    def __init__(self, batches, sleep=0.0):
        self.batches, self.sleep = batches, sleep

    def __iter__(self):
        for batch in self.batches:
            if self.sleep:
                time.sleep(self.sleep)
            yield batch


def texts(rows=4, length=24, vocab=VOCAB, count=8):
    made = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, vocab, (rows, length + 1), generator=made) for _ in range(count)]
    return [(x[:, :-1].contiguous(), x[:, 1:].contiguous()) for x in ids]


def labelled(rows=4, length=24, count=8):
    made = torch.Generator().manual_seed(0)
    return [
        (torch.randint(0, VOCAB, (rows, length), generator=made), torch.randint(0, 3, (rows,), generator=made))
        for _ in range(count)
    ]


class Masked(nn.Module):
    """A classifier of masked texts: `model(input_ids=, attention_mask=, labels=)` returns a dict with the loss."""

    def __init__(self):
        super().__init__()
        self.inner = GPT()
        self.classify = nn.Linear(32, 3)

    def forward(self, input_ids, attention_mask, labels):
        x = self.inner.embed(input_ids)
        for block in self.inner.blocks:
            x = block(x)
        return {"loss": F.cross_entropy(self.classify((x * attention_mask[..., None]).mean(1)), labels)}


def padded(rows=4, length=40, longest=16, count=8, seed=0):
    made = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        lengths = torch.randint(3, longest, (rows,), generator=made)
        mask = (torch.arange(length)[None] < lengths[:, None]).long()
        ids = torch.randint(1, VOCAB, (rows, length), generator=made) * mask
        labels = torch.randint(0, 3, (rows,), generator=made)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return batches


# --- targets of `llmbench diagnose` ---------------------------------------------------------------------


def slow_loader():
    return {"model": GPT(), "data": Loader(texts(), sleep=0.02)}


class Rows(torch.utils.data.Dataset):
    """A data set that only this file knows, as one has it in a script."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        row = torch.randint(0, VOCAB, (25,), generator=torch.Generator().manual_seed(index))
        return row[:-1], row[1:]


def with_workers():
    return {"model": GPT(), "data": torch.utils.data.DataLoader(Rows(), batch_size=4, num_workers=2)}


def no_model():
    return {"data": texts()}


def wrong_key():
    return {"model": GPT(), "data": texts(), "optimiser": None}


def no_loss():
    return {"model": Deep(), "data": [(torch.randn(4, 64), torch.randn(4))], "loss": lambda output, batch: "low"}


def raises():
    raise RuntimeError("no data here")


def empty():
    return {"model": GPT(), "data": []}


def once():
    return {"model": GPT(), "data": iter(texts())}
