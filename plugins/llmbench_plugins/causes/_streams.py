"""Elementwise operators on tensors far larger than the caches: finding them, and doing them on a piece in a cache."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import llmbench

LARGE = 32 * 2**20  # bytes of a tensor that no cache holds
PIECE = 2**18  # bytes of a piece that stays in a cache
OTHERS = frozenset({"copy_", "fill_", "zero_", "clone", "sum", "mean"})
STEPS = 4  # that are timed
WARMUP = 1  # steps before them


def _take_piece(func: Any, args: Sequence[Any], kwargs: Any) -> tuple[list[Any], int] | None:
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
    with_pieces = [t.view(-1)[:piece].clone() if isinstance(t, torch.Tensor) and t.numel() > 1 else t for t in args]
    return with_pieces, -(-count // piece)


def _in_pieces(func: Any, args: Sequence[Any], cut: tuple[list[Any], int]) -> Any:
    """Do as much work on a piece that stays in the cache; return a result of the right shape, with any values."""
    import torch

    with_pieces, times = cut
    out = None
    for _ in range(times):
        out = func(*with_pieces)
    if func.overloadpacket.__name__.endswith("_"):
        return args[0]
    if isinstance(out, torch.Tensor) and out.numel() > 1:
        like = next(t for t in args if isinstance(t, torch.Tensor) and t.numel() > 1)
        return torch.empty(like.shape, dtype=out.dtype, device=out.device)
    return out


def cache_savings_s(trial: llmbench.Trial) -> list[float]:
    """Return the seconds per step that large elementwise operators take longer than pieces in the cache would.

    Where the first step has none, no further step is taken.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    seconds, seen = 0.0, False

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal seconds, seen
            cut = _take_piece(func, args, kwargs)
            begin = time.perf_counter()
            out = func(*args, **(kwargs or {}))
            middle = time.perf_counter()
            if cut is not None:
                seen = True
                _in_pieces(func, args, cut)
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
    """Do large elementwise operators on pieces. Without `pieces`, only search for them, which takes the same time."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Pieces(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            cut = _take_piece(func, args, kwargs)
            if cut is None or not pieces:
                return func(*args, **(kwargs or {}))
            return _in_pieces(func, args, cut)

    with Pieces():
        yield
