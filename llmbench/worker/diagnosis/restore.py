"""Restore everything that a diagnosis changes: weights, optimizers, modes, random states."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbench.worker.diagnosis.user_engine import UserEngine


class Snapshot:
    """The values of a model, and of each optimizer its state and the parameters that it updates."""

    def __init__(self, engine: UserEngine) -> None:
        self.module = engine.module
        self.training = engine.module.training
        self.values = {name: t.detach().clone() for name, t in engine.module.state_dict().items()}
        self.optimizers: list[tuple[Any, Any]] = []
        self.others: dict[int, tuple[Tensor, Tensor]] = {}  # parameters that are not of the model
        self.own = {id(p) for p in engine.module.parameters()}
        if engine.optimizer is not None:
            self.add(engine.optimizer)

    def add(self, optimizer: Any) -> None:
        """Add the state of an optimizer that is not in the snapshot yet."""
        if any(known is optimizer for known, _ in self.optimizers) or not hasattr(optimizer, "state_dict"):
            return
        self.optimizers.append((optimizer, copy.deepcopy(optimizer.state_dict())))
        for group in getattr(optimizer, "param_groups", ()):
            for p in group["params"]:
                if id(p) not in self.own and id(p) not in self.others:
                    self.others[id(p)] = (p, p.detach().clone())

    def restore(self) -> None:
        """Give everything its value back, and clear the gradients."""
        self.module.load_state_dict(self.values)
        self.module.train(self.training)
        self.module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, value in self.others.values():
                parameter.copy_(value)
                parameter.grad = None
        for optimizer, state in self.optimizers:
            optimizer.load_state_dict(state)


@contextlib.contextmanager
def restore_after(engine: UserEngine) -> Iterator[Snapshot]:
    """Restore model and optimizers at the end, clear gradients, and restore random states of torch, numpy, Python."""
    torch_state, plain_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    snapshot = Snapshot(engine)
    try:
        yield snapshot
    finally:
        snapshot.restore()
        torch.set_rng_state(torch_state)
        random.setstate(plain_state)
        np.random.set_state(numpy_state)
