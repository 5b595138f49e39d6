"""Putting back what a diagnosis has changed: weights, optimizer, modes, random states."""

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
    """What is put back: the values of the model, and of each optimizer its state and the parameters that it updates."""

    def __init__(self, engine: UserEngine) -> None:
        self.module = engine.module
        self.training = engine.module.training
        self.values = {name: t.detach().clone() for name, t in engine.module.state_dict().items()}
        self.optimizers: list[tuple[Any, Any]] = []
        self.others: dict[int, tuple[Tensor, Tensor]] = {}  # parameters that are not of the model
        self.own = {id(p) for p in engine.module.parameters()}
        if engine.optimizer is not None:
            self.keep(engine.optimizer)

    def keep(self, optimizer: Any) -> None:
        """Remember how an optimizer is, if it is not known yet."""
        if any(known is optimizer for known, _ in self.optimizers) or not hasattr(optimizer, "state_dict"):
            return
        self.optimizers.append((optimizer, copy.deepcopy(optimizer.state_dict())))
        for group in getattr(optimizer, "param_groups", ()):
            for p in group["params"]:
                if id(p) not in self.own and id(p) not in self.others:
                    self.others[id(p)] = (p, p.detach().clone())

    def put_back(self) -> None:
        """Put all of it back, and clear the gradients."""
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
    """Put back the values of model and optimizers, gradients, and the random states of torch, numpy and Python."""
    torch_state, plain_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    kept = Snapshot(engine)
    try:
        yield kept
    finally:
        kept.put_back()
        torch.set_rng_state(torch_state)
        random.setstate(plain_state)
        np.random.set_state(numpy_state)
