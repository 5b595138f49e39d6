"""The tensors of batches of any make: a tensor, a `Batch`, mappings and sequences of them, one inside of the other.

Shapes: `B` rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llmbench.contract.errors import Unisolated
from llmbench.contract.specs import Batch


def tensors(value: Any) -> dict[str, Tensor]:
    """Return the tensors of a batch by name: keys and places, joined by dots."""
    return dict(_walk(value, ""))


def _walk(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path or "0", value
        return
    for name, item in _items(value):
        yield from _walk(item, f"{path}.{name}" if path else str(name))


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Batch):
        return list(value.arrays.items())
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return []


def map_tensors(value: Any, change: Callable[[str, Tensor], Any], path: str = "") -> Any:
    """Return `value` with every tensor replaced by `change(name, tensor)`."""
    if isinstance(value, Tensor):
        return change(path or "0", value)
    items = {name: map_tensors(item, change, f"{path}.{name}" if path else str(name)) for name, item in _items(value)}
    if not items:
        return value
    if isinstance(value, Batch):
        return dataclasses.replace(value, arrays=items)
    if isinstance(value, Mapping):
        return _mapping(value, items)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*items.values())
    return type(value)(items.values())


def _mapping(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """Return a mapping of the type of `value` that holds `items`: a dict, or an output of transformers, say."""
    if type(value) is dict:
        return items
    try:
        return type(value)(items)  # type: ignore[call-arg]
    except TypeError:
        return type(value)(**items)


def rebuild(value: Any, by_name: Mapping[str, Tensor]) -> Any:
    """Return the batch with other tensors under the same names."""
    return map_tensors(value, by_name.get)


def replace_tensors(value: Any, by_id: Mapping[int, Tensor]) -> Any:
    """Return `value` with the tensors of these ids replaced."""
    return map_tensors(value, lambda _, tensor: by_id.get(id(tensor), tensor))


def rows(value: Any) -> int:
    """Return B, the first dimension that most tensors have. Raises Unisolated without any."""
    sizes = [t.shape[0] for t in tensors(value).values() if t.dim()]
    if not sizes:
        raise Unisolated("the batch holds no tensor with rows")
    return max(set(sizes), key=sizes.count)


def merge(batches: Sequence[Any]) -> Any:
    """Return one batch with the rows of all, shorter ones padded with zeros (labels: with -100) at the end.

    Raises Unisolated where they hold different tensors, or one that has no rows.
    """
    parts = [tensors(batch) for batch in batches]
    counts = [rows(batch) for batch in batches]
    if any(part.keys() != parts[0].keys() for part in parts):
        raise Unisolated("batches hold different tensors, so they cannot be put together")
    out: dict[str, Tensor] = {}
    for name, first in parts[0].items():
        same_name = [part[name] for part in parts]
        if all(t.dim() and t.shape[0] == n for t, n in zip(same_name, counts, strict=True)):
            out[name] = _join(same_name, -100 if "label" in name else 0)
        elif all(t.shape == first.shape and torch.equal(t, first) for t in same_name):
            out[name] = first
        else:
            raise Unisolated(f"{name!r} of the batch has no rows to put together")
    whole = rebuild(batches[0], out)
    if isinstance(whole, Batch):
        sums = {key: sum(getattr(b, key) for b in batches) for key in ("examples", "tokens", "padding_tokens")}
        return dataclasses.replace(whole, **sums)
    return whole


def _join(parts: Sequence[Tensor], fill: int) -> Tensor:
    """Return the rows of all parts, each padded to the longest in every further dimension."""
    shape = [max(t.shape[d] for t in parts) for d in range(1, parts[0].dim())]
    padded = []
    for part in parts:
        if list(part.shape[1:]) != shape:
            wide = part.new_full((part.shape[0], *shape), fill)
            wide[tuple(slice(n) for n in part.shape)] = part
            part = wide  # noqa: PLW2901
        padded.append(part)
    return torch.cat(padded)
