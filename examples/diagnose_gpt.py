"""A plain training script in the manner of nanoGPT, on characters. What bounds it?

llmbench diagnose examples/diagnose_gpt.py:target
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROWS, LENGTH, WIDTH, HEADS, LAYERS = 16, 128, 128, 4, 4
LEARNING_RATE, STEPS = 3e-4, 200


class Block(nn.Module):
    """Causal self-attention and two linear layers, each after a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, WIDTH) from (B, L, WIDTH)."""
        rows, length, width = x.shape
        q, k, v = (t.view(rows, length, HEADS, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(width, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """A decoder; `model(ids, targets)` returns logits and loss."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(characters, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters, bias=False)

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, L, characters) and the mean loss."""
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        logits = self.head(self.norm(self.blocks(x)))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Windows:
    """Random windows of a text, batch by batch; as many as fit into the text once."""

    def __init__(self, text: str) -> None:
        self.characters = sorted(set(text))
        number = {c: i for i, c in enumerate(self.characters)}
        self.ids = torch.tensor([number[c] for c in text])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(len(self.ids) // (ROWS * LENGTH)):
            starts = torch.randint(len(self.ids) - LENGTH - 1, (ROWS,)).tolist()
            rows = torch.stack([self.ids[s : s + LENGTH + 1] for s in starts])
            yield rows[:, :-1], rows[:, 1:]


def parts() -> tuple[GPT, Windows, torch.optim.AdamW]:
    """Return model, data and optimizer."""
    torch.manual_seed(0)
    data = Windows(Path(random.__file__).read_text(encoding="utf-8"))  # any text will do: a module's source
    model = GPT(len(data.characters))
    return model, data, torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)


def target() -> dict[str, object]:
    """Return model, data and optimizer by the names that `llmbench diagnose` expects."""
    model, data, optimizer = parts()
    return {"model": model, "data": data, "optimizer": optimizer}


def train() -> None:
    """Train as any script does."""
    model, data, optimizer = parts()
    step = 0
    while step < STEPS:
        for ids, targets in data:
            _, loss = model(ids, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
    print(f"loss {loss.item():.3f} after {step} steps")


if __name__ == "__main__":
    train()
