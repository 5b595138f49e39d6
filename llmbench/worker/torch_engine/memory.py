"""What the memory of a training step is for. A storage counts once, however many tensors share it."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

MIB = 2**20


class Trained(Protocol):
    """What is needed of the torch engine."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def forward(self, arrays: Any) -> Tensor: ...  # noqa: D102
    def backward(self, loss: Tensor) -> None: ...  # noqa: D102
    def update(self) -> None: ...  # noqa: D102


def parts(engine: Trained, arrays: Any) -> dict[str, float]:
    """Take one training step and return MiB of `weights` (buffers included), `gradients`, `optimizer`, `activations`.

    Activations are what the forward pass keeps for the backward pass, beyond the weights and the batch itself.
    """
    module = engine.module
    weights = storages([*module.parameters(), *module.buffers()])
    for_backward: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        for_backward.update(storages([tensor]))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = engine.forward(arrays)
    known = weights.keys() | storages(arrays.values()).keys()
    activations = sum(size for key, size in for_backward.items() if key not in known)
    engine.backward(loss)
    gradients = storages(p.grad for p in module.parameters() if p.grad is not None)
    engine.update()
    states = storages(v for s in engine.optimizer.state.values() for v in s.values() if isinstance(v, Tensor))
    sizes = {"weights": sum(weights.values()), "gradients": sum(gradients.values())}
    sizes |= {"optimizer": sum(states.values()), "activations": activations}
    return {f"{name}_mib": size / MIB for name, size in sizes.items()}


def weights_mib(module: torch.nn.Module) -> float:
    """Return the MiB of parameters and buffers."""
    return sum(storages([*module.parameters(), *module.buffers()]).values()) / MIB


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Return address -> bytes of the storages that `tensors` lie in."""
    every = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in every if storage.nbytes()}


def limit_used() -> float | None:
    """Return the share of its limit of private memory (`ulimit -d`) that this process uses, None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status")
    if limit == resource.RLIM_INFINITY or not status.exists():
        return None
    match = re.search(r"^VmData:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    return None if match is None else int(match.group(1)) * 1024 / limit
