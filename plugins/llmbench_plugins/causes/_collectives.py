"""Where the functions of `torch.distributed` that exchange with other processes are bound."""

from __future__ import annotations

from llmbench_plugins.causes._swap import Place, places_of

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
