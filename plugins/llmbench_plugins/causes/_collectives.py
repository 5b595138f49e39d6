"""The functions of `torch.distributed` that exchange with other processes: where they are bound, and without effect."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmbench_plugins.causes._swap import Function, Place, places_of, substitute

IN_PLACE = ("all_reduce", "broadcast", "reduce", "barrier", "monitored_barrier", "send", "recv", "isend", "irecv")
LISTS = ("all_gather", "gather")  # (list of outputs, input)
OUTPUTS = ("all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all_single")  # (output, input)


def collectives() -> list[tuple[str, list[Place]]]:
    """Return names and places; none where this process belongs to no group."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        return []
    from torch.distributed import distributed_c10d

    names = [n for n in (*IN_PLACE, *LISTS, *OUTPUTS) if hasattr(dist, n)]
    return [(n, [*places_of(dist, n), (distributed_c10d, n)]) for n in names]


class _FinishedRequest:
    """The request of an exchange that has ended."""

    def wait(self, *_: Any) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def get_future(self) -> Any:
        import torch

        future: Any = torch.futures.Future()
        future.set_result([])
        return future


@contextlib.contextmanager
def copy_locally(places: Sequence[tuple[str, list[Place]]], when: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Put local copies in the place of collectives, whenever `when()` is true."""

    def without(name: str) -> Any:
        def make(inner: Function) -> Function:
            def call(*args: Any, **kwargs: Any) -> Any:
                if not when():
                    return inner(*args, **kwargs)
                if name in LISTS and args[0]:
                    for out in args[0]:
                        out.copy_(args[1])
                elif name in OUTPUTS:
                    out, given = args[0].flatten(), args[1].flatten()
                    n = min(len(out), len(given))
                    out[:n].copy_(given[:n])
                return _FinishedRequest() if kwargs.get("async_op") or name in ("isend", "irecv") else None

            return call

        return make

    with contextlib.ExitStack() as stack:
        for name, of_name in places:
            stack.enter_context(substitute(of_name, without(name)))
        yield
