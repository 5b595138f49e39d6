"""Elementwise operators on tensors far larger than the caches: found, timed, and done on a piece that stays in them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import llmbench

LARGE, PIECE = 32 * 2**20, 2**18  # bytes: of a tensor that no cache holds, and of what stays in one
OTHERS = frozenset({"copy_", "fill_", "zero_", "clone", "sum", "mean"})
STEPS, WARMUP = 4, 1


def _pieces(func: Any, args: Sequence[Any], kwargs: Any) -> tuple[list[Any], int] | None:
    """Return the arguments with large tensors cut to pieces, and how many pieces they have; None for other calls."""
    import torch

    large = [t for t in args if isinstance(t, torch.Tensor) and t.numel() * t.element_size() >= LARGE]
    if not large or kwargs:
        return None
    name = func.overloadpacket.__name__
    if torch.Tag.pointwise not in func.tags and name not in OTHERS:
        return None
    count = large[0].numel()
    tensors = [t for t in args if isinstance(t, torch.Tensor) and t.numel() > 1]
    if name in ("sum", "mean") and len(args) > 1:
        return None
    if any(t.numel() != count or not t.is_contiguous() for t in tensors):
        return None
    piece = PIECE // large[0].element_size()
    cut = [t.view(-1)[:piece].clone() if isinstance(t, torch.Tensor) and t.numel() > 1 else t for t in args]
    return cut, -(-count // piece)


def _in_pieces(func: Any, args: Sequence[Any], found: tuple[list[Any], int]) -> Any:
    """Do as much work on a piece that stays in the cache; what comes back has the right shape and any values."""
    import torch

    cut, times = found
    out = None
    for _ in range(times):
        out = func(*cut)
    if func.overloadpacket.__name__.endswith("_"):
        return args[0]
    if isinstance(out, torch.Tensor) and out.numel() > 1:
        like = next(t for t in args if isinstance(t, torch.Tensor) and t.numel() > 1)
        return torch.empty(like.shape, dtype=out.dtype, device=out.device)
    return out


def cache_savings_s(trial: llmbench.Trial) -> list[float]:
    """Return the seconds per step that large elementwise operators take longer than pieces in the cache would.

    Where the first step has none, no other is looked at.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    seconds, seen = 0.0, False

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal seconds, seen
            found = _pieces(func, args, kwargs)
            begin = time.perf_counter()
            out = func(*args, **(kwargs or {}))
            middle = time.perf_counter()
            if found is not None:
                seen = True
                _in_pieces(func, args, found)
                seconds += (middle - begin) - (time.perf_counter() - middle)
            return out

    out = []
    with Watch():
        for i in range(WARMUP + STEPS):
            seconds = 0.0
            trial.step(trial.pool[i % len(trial.pool)])
            out.append(max(0.0, seconds))
            if not seen:
                return [0.0]
    return out[WARMUP:]


@contextlib.contextmanager
def in_the_cache(*, pieces: bool = True) -> Iterator[None]:
    """Do large elementwise operators on pieces; or only look for them, which takes as long as that does."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Pieces(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = _pieces(func, args, kwargs)
            if found is None or not pieces:
                return func(*args, **(kwargs or {}))
            return _in_pieces(func, args, found)

    with Pieces():
        yield
