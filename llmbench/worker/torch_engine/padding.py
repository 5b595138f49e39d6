"""Which tokens of a batch are padding, judged by its tensors and the module, and the same examples without padding.

Shapes: `B` rows, `L` tokens of the longest row, padding included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmbench.contract.errors import Unisolated
from llmbench.worker.torch_engine import tensor_trees as trees

LABEL_IGNORED = -100
MAX_INSIDE = 0.01  # of all places that hold the padding token: as many may stand inside of a text
LEAST_COMMON_END = 0.4  # of the rows end in a token that is taken for padding without another sign


@dataclass(frozen=True)
class Padding:
    """Where padding shows: in the tensor `name` (B, L), by `how`."""

    name: str
    how: str
    token: int | None  # the id that fills rows, None for a mask
    at_start: bool  # of rows, not at their end

    def real(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return (B, L), true where a token is no padding."""
        values = tensors[self.name]
        if self.token is None:
            return values != 0
        other = values != self.token  # the run at the end only: inside a text the token is a token
        if self.at_start:
            return other.cummax(1).values
        return other.flip(1).cummax(1).values.flip(1)

    def lengths(self, tensors: Mapping[str, Tensor]) -> list[int]:
        """Return the real tokens of each row."""
        return self.real(tensors).sum(1).tolist()


def find_padding(module: torch.nn.Module, pool: Sequence[Any]) -> Padding | None:
    """Return where the padding of these batches shows, None where nothing shows it.

    In this order: a tensor called mask that holds zeros and ones; an embedding's `padding_idx` at the end of rows;
    labels that are ignored (-100) there; a last token that most rows share and that stands nowhere else.
    """
    named = [trees.tensors(batch) for batch in pool]
    first = named[0]
    for name in sorted((n for n in first if "mask" in n.lower()), key=len):
        values = [tensors[name] for tensors in named]
        if all(v.dim() == 2 and bool(((v == 0) | (v == 1)).all()) for v in values):
            return Padding(name, "mask", None, bool((torch.cat([v[:, 0].flatten() for v in values]) == 0).any()))
    ids = [n for n, t in first.items() if t.dim() == 2 and not t.is_floating_point() and t.shape[1] > 1]
    marks = {m.padding_idx for m in module.modules() if isinstance(m, torch.nn.Embedding) and m.padding_idx is not None}
    for name in ids:
        for token in (*marks, LABEL_IGNORED):
            for at_start in (False, True):
                if _fills(named, name, token, at_start):
                    return Padding(name, "padding index" if token in marks else "ignored labels", token, at_start)
    for name in ids:
        for at_start in (False, True):
            ends = torch.cat([t[name][:, 0 if at_start else -1] for t in named])
            token = int(ends.mode().values)
            often = float((ends == token).float().mean())
            if often < LEAST_COMMON_END or not _fills(named, name, token, at_start):
                continue
            if _only_at_end(named, name, token, at_start):
                return Padding(name, "repeated last token", token, at_start)
    return None


def _fills(named: Sequence[Mapping[str, Tensor]], name: str, token: int, at_start: bool) -> bool:
    """Return whether some rows end (or begin) in at least two of `token`."""
    ends = (t[name][:, :2] if at_start else t[name][:, -2:] for t in named)
    return any(bool((end == token).all(1).any()) for end in ends)


def _only_at_end(named: Sequence[Mapping[str, Tensor]], name: str, token: int, at_start: bool) -> bool:
    padding = Padding(name, "", token, at_start)
    every = sum(int((t[name] == token).sum()) for t in named)
    inside = sum(int(((t[name] == token) & padding.real(t)).sum()) for t in named)
    return inside <= MAX_INSIDE * every


def regroup(padding: Padding, pool: Sequence[Any]) -> list[Any]:
    """Return the rows of all batches sorted by length, in batches of the same sizes, cut to the longest of each.

    Every dimension after the first that is as long as the mask's rows is cut. Raises Unisolated where a tensor has no
    rows or the padding is not at one end.
    """
    rows: list[tuple[int, dict[str, Tensor]]] = []
    sizes: list[int] = []
    fills: dict[str, float] = {}
    for batch in pool:
        tensors = trees.tensors(batch)
        real = padding.real(tensors)
        count, length = real.shape
        sizes.append(count)
        lengths = real.sum(1).tolist()
        for name, tensor in tensors.items():
            if tensor.dim() == 0 or tensor.shape[0] != count:
                raise Unisolated(f"{name!r} of the batch has no rows, so they cannot be sorted by length")
            if tensor.shape == real.shape and not bool(real.all()):
                fills.setdefault(name, tensor[~real][0].item())
        for i in range(count):
            n = max(1, lengths[i])
            if not bool((real[i, length - n :] if padding.at_start else real[i, :n]).all()):
                raise Unisolated("the padding of a row is not at one end")
            rows.append((n, {name: _crop(tensor[i], length, n, padding.at_start) for name, tensor in tensors.items()}))
    rows.sort(key=lambda row: row[0])
    out, start = [], 0
    for size in sizes:
        chunk = rows[start : start + size]
        start += size
        longest = max(n for n, _ in chunk)
        stacks: dict[str, Tensor] = {}
        for name in chunk[0][1]:
            fill = fills.get(name, 0)
            stacks[name] = torch.stack([_wide(parts[name], n, longest, fill, padding.at_start) for n, parts in chunk])
        out.append(trees.rebuild(pool[0], stacks))
    return out


def _crop(row: Tensor, length: int, n: int, at_start: bool) -> Tensor:
    """Return one row's tensor with every dimension of `length` cut to `n`."""
    for d, size in enumerate(row.shape):
        if size == length:
            row = row.narrow(d, length - n if at_start else 0, n)
    return row


def _wide(row: Tensor, n: int, longest: int, fill: float, at_start: bool) -> Tensor:
    """Return one row's tensor with every dimension of `n` made `longest` by filling the end (or the beginning)."""
    if n == longest or n not in row.shape:
        return row
    shape = [longest if size == n else size for size in row.shape]
    wide = row.new_full(shape, fill)
    wide[tuple(slice(longest - n, None) if at_start and size == n else slice(size) for size in row.shape)] = row
    return wide
