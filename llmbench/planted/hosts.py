"""The workloads that causes are planted in: small plain torch modules and loops, as users write them.

Without a plant none of them has a material component: little attention, few words, no padding, one fused SGD step.
Shapes: `B` rows, `L` tokens, `H` hidden, `V` words, `D` a head's width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

WORDS = 256
CLASSES = 4
BATCHES = 16
IGNORED = -100  # a label that has no loss, as in torch
Core = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Workload:
    """The parts of a target; a plant changes one of them."""

    model: nn.Module
    data: Iterable[Any]
    optimizer: torch.optim.Optimizer | None = None
    step: Callable[[Any], Any] | None = None

    def target(self) -> dict[str, object]:
        """Return the dict that `llmbench diagnose` takes."""
        parts = {"model": self.model, "data": self.data, "optimizer": self.optimizer, "step": self.step}
        return {key: part for key, part in parts.items() if part is not None}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return the cheapest optimizer there is."""
    return torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)


# --- data -----------------------------------------------------------------------------------------------


def generator() -> torch.Generator:
    """Return the generator of all data: the same in every process."""
    return torch.Generator().manual_seed(0)


def ids_and_classes(rows: int, length: int, *, count: int = BATCHES, words: int = WORDS) -> list[tuple[Tensor, Tensor]]:
    """Return batches of ids (B, L) and classes (B,)."""
    rng = generator()
    return [
        (torch.randint(1, words, (rows, length), generator=rng), torch.randint(0, CLASSES, (rows,), generator=rng))
        for _ in range(count)
    ]


def next_words(rows: int, length: int, *, words: int = WORDS) -> list[tuple[Tensor, Tensor]]:
    """Return batches of ids and of the ids that follow, both (B, L)."""
    texts = [ids for ids, _ in ids_and_classes(rows, length + 1, words=words)]
    return [(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()) for ids in texts]


def texts_with_masks(rows: int, length: int) -> list[dict[str, Tensor]]:
    """Return batches as tokenizers give them: `input_ids`, `attention_mask` (B, L) and `labels` (B,)."""
    return [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": classes}
        for ids, classes in ids_and_classes(rows, length)
    ]


# --- models ---------------------------------------------------------------------------------------------


def torch_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return torch's own causal attention."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return causal attention as tutorials write it."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).tril()
    return F.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1) @ v


def values_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the values: attention without its core. Queries and keys keep their gradients."""
    return v + 0.0 * (q + k)


class Block(nn.Module):
    """A transformer block around a core of attention."""

    def __init__(self, width: int, heads: int, core: Core) -> None:
        super().__init__()
        self.heads, self.core = heads, core
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, H)."""
        rows, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(self.core(q, k, v).transpose(1, 2).reshape(rows, length, width))
        return x + self.mlp(self.norm2(x))


class ModuleBlock(nn.Module):
    """A transformer block around torch's own attention module, or without it."""

    def __init__(self, width: int, heads: int, *, attends: bool) -> None:
        super().__init__()
        self.attends = attends
        self.mha = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, H)."""
        normal = self.norm1(x)
        if self.attends:
            mixed = self.mha(normal, normal, normal, need_weights=False)[0]
        else:
            q, k, v = F.linear(normal, self.mha.in_proj_weight, self.mha.in_proj_bias).chunk(3, -1)
            mixed = self.mha.out_proj(values_only(q, k, v))
        return x + self.mlp(self.norm2(x + mixed))


class Nano(nn.Module):
    """A decoder in the manner of nanoGPT: `model(ids, targets)` returns logits and loss."""

    def __init__(self, blocks: list[nn.Module], width: int = 128, words: int = WORDS, longest: int = 1024) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(words, width), nn.Embedding(longest, width)
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.checkpointed = 0
        self.nested = False

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Any:
        """Return logits, and the loss where targets are given."""
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1], device=ids.device))
        for number, block in enumerate(self.blocks):
            x = run_block(block, x, checkpointed=number < self.checkpointed, nested=self.nested)
        logits = self.head(self.norm(x))
        if targets is None:
            return logits
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=IGNORED)


def run_block(block: nn.Module, x: Tensor, *, checkpointed: bool, nested: bool) -> Tensor:
    """Run a block: with its activations kept, computed again, or computed again twice."""
    if not checkpointed:
        return block(x)
    if nested:
        return checkpoint(lambda y: checkpoint(block, y, use_reentrant=False), x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False)


class Encoder(nn.Module):
    """A classifier of masked texts, or a filler of gaps: takes and returns dicts with the names that tokenizers use."""

    def __init__(self, width: int = 128, layers: int = 4, outputs: int = CLASSES, *, per_token: bool = False) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(WORDS, width), nn.Embedding(512, width)
        self.blocks = nn.ModuleList(Block(width, 4, values_only) for _ in range(layers))
        self.head, self.per_token = nn.Linear(width, outputs), per_token
        self.checkpointed = 0
        self.nested = False

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return `loss` and `logits`."""
        mask_B1L1 = attention_mask[:, None, :, None].to(torch.float32)

        def core(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            """Mix tokens by what is cheap and linear in their number: the mean of the real ones."""
            mean = (v * mask_B1L1).sum(2, keepdim=True) / mask_B1L1.sum(2, keepdim=True)
            return v + mean + 0.0 * (q + k)

        x = self.embed(input_ids) + self.place(torch.arange(input_ids.shape[1], device=input_ids.device))
        for number, block in enumerate(self.blocks):
            block.core = core  # type: ignore[assignment]
            x = run_block(block, x, checkpointed=number < self.checkpointed, nested=self.nested)
        if not self.per_token:
            mask_BL1 = attention_mask[..., None]
            x = (x * mask_BL1).sum(1) / mask_BL1.sum(1)
        logits = self.head(x)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED)
        return {"loss": loss, "logits": logits}


class Bag(nn.Module):
    """A classifier of bags of words: the mean of embeddings through a few wide layers."""

    def __init__(self, width: int = 384, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        parts: list[nn.Module] = []
        for _ in range(layers):
            parts += [nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)]
        self.layers = nn.Sequential(*parts, nn.Linear(width, CLASSES))

    def forward(self, ids: Tensor, classes: Tensor) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self.layers(self.embed(ids).mean(1)), classes)


class Conv(nn.Module):
    """A classifier by convolutions over the tokens."""

    def __init__(self, width: int = 96, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(layers))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor, classes: Tensor) -> Tensor:
        """Return the loss."""
        x = self.embed(ids).transpose(1, 2)
        for layer in self.layers:
            x = x + F.gelu(layer(x))
        return F.cross_entropy(self.head(x.amax(2)), classes)


class Mixer(nn.Module):
    """Long elementwise chains on tensors that fit the cache, and `products` of one weight per layer, averaged."""

    def __init__(self, width: int = 256, layers: int = 2, products: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head, self.products = nn.Linear(width, CLASSES), products

    def forward(self, ids: Tensor, classes: Tensor) -> Tensor:
        """Return the loss."""
        x_NH = self.embed(ids).flatten(0, 1)
        for layer in self.layers:
            if self.products:
                x_NH = x_NH + sum(layer(x_NH) for _ in range(self.products)) / self.products
            for _ in range(3):
                x_NH = torch.tanh(x_NH) + torch.sin(x_NH)
        return F.cross_entropy(self.head(x_NH.view(*ids.shape, -1).mean(1)), classes)


class Tagger(nn.Module):
    """A recurrent classifier. Without recurrence each step's previous state is the input before it."""

    def __init__(self, kind: str, width: int = 128, *, recurrent: bool) -> None:
        super().__init__()
        self.embed, self.recurrent, self.width = nn.Embedding(WORDS, width), recurrent, width
        self.rnn = getattr(nn, kind)(width, width, **({} if kind.endswith("Cell") else {"batch_first": True}))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor, classes: Tensor) -> Tensor:
        """Return the loss."""
        x_BLH = self.embed(ids)
        states = self.states(x_BLH) if self.recurrent else self.at_once(x_BLH)
        return F.cross_entropy(self.head(states.mean(1)), classes)

    def states(self, x_BLH: Tensor) -> Tensor:
        """Return the states (B, L, H), one after the other."""
        if isinstance(self.rnn, nn.RNNBase):
            return self.rnn(x_BLH)[0]
        state, outputs = None, []
        for step in range(x_BLH.shape[1]):
            state = self.rnn(x_BLH[:, step], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)

    def at_once(self, x_BLH: Tensor) -> Tensor:
        """Return (B, L, H): the same gates of the same inputs, with the inputs before as states."""
        before = F.pad(x_BLH, (0, 0, 1, -1)).flatten(0, 1)
        x_NH = x_BLH.flatten(0, 1)
        if isinstance(self.rnn, nn.RNNBase):
            lstm = isinstance(self.rnn, nn.LSTM)
            states = self.rnn(x_NH[:, None], (before[None], before[None]) if lstm else before[None])[0][:, 0]
        elif isinstance(self.rnn, nn.LSTMCell):
            states = self.rnn(x_NH, (before, before))[0]
        else:
            states = self.rnn(x_NH, before)
        return states.view_as(x_BLH)


class Deep(nn.Module):
    """Many layers on few rows; `shared` ones have one weight."""

    def __init__(self, layers: int, width: int = 1024, *, shared: bool) -> None:
        super().__init__()
        one = nn.Linear(width, width)
        self.layers = nn.ModuleList(one if shared else nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, H)."""
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


# --- hosts ----------------------------------------------------------------------------------------------


def train(model: nn.Module, data: Iterable[Any]) -> Workload:
    """Return a workload of ordinary training."""
    return Workload(model, data, sgd(model))


def bag(rows: int = 256) -> Workload:
    """Bags of words."""
    return train(Bag(), ids_and_classes(rows, 16))


def nano(length: int = 64, rows: int = 4, layers: int = 4, core: Core = values_only, words: int = WORDS) -> Workload:
    """A small decoder; as a host its core of attention hands on the values."""
    blocks: list[nn.Module] = [Block(128, 4, core) for _ in range(layers)]
    return train(Nano(blocks, words=words), next_words(rows, length, words=words))


def encoder() -> Workload:
    """A classifier of texts in dicts."""
    return train(Encoder(), texts_with_masks(8, 32))


def filler(words: int = WORDS) -> Workload:
    """A filler of gaps: every seventh token has a label, of `words`."""
    data = texts_with_masks(8, 32)
    for batch in data:
        ids = batch["input_ids"]
        gaps = torch.arange(ids.numel()).view_as(ids) % 7 == 0
        labels = torch.randint(0, words, ids.shape, generator=generator())
        batch["labels"] = torch.where(gaps, labels, IGNORED)
    return train(Encoder(outputs=words, per_token=True), data)


def conv() -> Workload:
    """Convolutions."""
    return train(Conv(), ids_and_classes(16, 64))


def mixer(products: int = 0) -> Workload:
    """Elementwise chains."""
    return train(Mixer(products=products), ids_and_classes(32, 32))


def gates() -> Workload:
    """The gates of an LSTM without its recurrence."""
    return train(Tagger("LSTM", recurrent=False), ids_and_classes(16, 32))


def deep(layers: int = 24, *, shared: bool = True, rows: int = 4) -> Workload:
    """Layers on few rows, forward only."""
    model = Deep(layers, shared=shared).eval()
    rng = generator()
    data = [(torch.randn(rows, 1024, generator=rng),) for _ in range(BATCHES)]

    def step(batch: tuple[Tensor]) -> Tensor:
        with torch.no_grad():
            return model(*batch)

    return Workload(model, data, step=step)


HOSTS: dict[str, Callable[[], Workload]] = {
    "bag": bag,
    "nano": nano,
    "encoder": encoder,
    "filler": filler,
    "conv": conv,
    "mixer": mixer,
    "gated": gates,
    "deep": deep,
}
