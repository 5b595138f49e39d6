"""The user's own model, data and step, as an engine drives them. See `llmbench diagnose` for what a target returns.

Shapes: `B` rows of a batch, `L` tokens of a row.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor

from llmbench.contract.errors import DataError, UserError, did_you_mean
from llmbench.contract.specs import Batch, PrecisionSpec
from llmbench.worker.torch_engine import tensor_trees as trees
from llmbench.worker.torch_engine.engine import TorchEngine
from llmbench.worker.torch_engine.padding import Padding

LEARNING_RATE = 1e-4  # of the optimizer, where the target has none
WRITE = "write package.module:function or FILE.py:function"


class Target(TypedDict, total=False):
    """A model and its data, as a user gives them; see `llmbench diagnose`."""

    model: torch.nn.Module
    data: Iterable[Any]
    optimizer: Any
    loss: Callable[[Any, Any], Tensor] | None
    step: Callable[[Any], Any] | None
    device: str | torch.device | None
    precision: str | None


KEYS = tuple(Target.__annotations__)


def load_target(target: str) -> dict[str, object]:
    """Call the function that `target` names; return its dict. Raises UserError, in one line, where that fails."""
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise UserError(f"target {target!r}: {WRITE}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        if where.endswith(".py"):
            from llmbench.plugins.discovery import load_file

            if not Path(where).is_file():
                raise UserError(f"target {target!r}: no file {where}")
            module: Any = load_file(Path(where).resolve())
        else:
            module = importlib.import_module(where)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"target {target!r}: {error}; {WRITE}, found from the current folder") from None
    except Exception as error:
        raise UserError(f"target {target!r}: importing it failed: {_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(f"target {target!r}: {where} has no function {name!r}{did_you_mean(name, names)}")
    try:
        given = function()
    except Exception as error:
        raise UserError(f"target {target!r}: calling it failed: {_line(error)}") from error
    if not isinstance(given, Mapping):
        raise UserError(f"target {target!r} must return a dict with model and data, not {type(given).__name__}")
    return dict(given)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@dataclass(frozen=True)
class UserBatch(Batch):
    """A user's batch as arrays."""

    original: Any = None  # as the data gave it, for the model


class UserEngine(TorchEngine):
    """Drives the user's module: forward, loss, backward, update, or the user's own step."""

    def __init__(self, given: Mapping[str, object], precision: PrecisionSpec) -> None:
        target = check_target(given)
        module = target["model"]
        super().__init__(device=str(target.get("device") or _device_of(module)), precision=precision)
        self.module = module.to(self.device)
        self.own_step = target.get("step")
        self.loss = target.get("loss")
        self.optimizer: Any = target.get("optimizer")
        if self.own_step is None:
            self.module.train()
            if self.optimizer is None:
                fused = self.device.type in ("cpu", "cuda")
                trained = [p for p in self.module.parameters() if p.requires_grad]
                if not trained:
                    raise UserError("model has no parameter that is trained; give a step for inference")
                self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=fused)
        self.arguments = inspect.signature(self.module.forward).parameters

    def copy(self, batch: Any) -> Any:
        """Move the batch's tensors."""
        original = batch.original if isinstance(batch, UserBatch) else batch
        return trees.map_tensors(original, lambda _, t: t.to(self.device, non_blocking=True))

    def forward(self, arrays: Any) -> Tensor:
        """Return the loss."""
        with self.autocast():
            output = self._call(arrays)
            loss = self.loss(output, arrays) if self.loss else loss_of(output)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise UserError(f"loss must be a tensor with one element, not {type(loss).__name__}; give `loss`")
        return loss

    def _call(self, arrays: Any) -> Any:
        if isinstance(arrays, Mapping):
            if any(p.kind is p.VAR_KEYWORD for p in self.arguments.values()):
                return self.module(**arrays)
            known = {name: value for name, value in arrays.items() if name in self.arguments}
            return self.module(**known) if known else self.module(arrays)
        if isinstance(arrays, list | tuple):
            required = [
                p
                for p in self.arguments.values()
                if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            ]
            taken = max(1, len(required)) if self.loss else len(arrays)
            return self.module(*arrays[:taken])
        return self.module(arrays)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        loss.backward()

    def update(self) -> None:
        """Step and clear."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, batch: Any) -> None:
        """Take one step: the user's own, else forward, backward and update."""
        if self.own_step is not None:
            self.own_step(batch.original if isinstance(batch, UserBatch) else batch)
            return
        loss = self.forward(self.copy(batch))
        self.backward(loss)
        self.update()


def check_target(given: Mapping[str, object]) -> Target:
    """Return `given` if it is a target. Raises UserError, in one line, where it is none."""
    for key in given:
        if key not in KEYS:
            raise UserError(f"unknown key {key!r} of the target{did_you_mean(key, KEYS)}")
    if not isinstance(given.get("model"), torch.nn.Module):
        raise UserError(f"model must be a torch.nn.Module, not {type(given.get('model')).__name__}")
    if not hasattr(given.get("data"), "__iter__"):
        raise UserError(f"data must be an iterable of batches, not {type(given.get('data')).__name__}")
    for key in ("loss", "step"):
        if given.get(key) is not None and not callable(given[key]):
            raise UserError(f"{key} must be a function, not {type(given[key]).__name__}")
    optimizer = given.get("optimizer")
    if optimizer is not None and not (hasattr(optimizer, "step") and hasattr(optimizer, "zero_grad")):
        raise UserError(f"optimizer must have step and zero_grad, as torch's have; {type(optimizer).__name__} has not")
    return cast("Target", given)


def _device_of(module: torch.nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def loss_of(output: Any) -> Any:
    """Return the loss in a model's output: `output.loss`, `output["loss"]`, a scalar of a tuple, or itself."""
    if isinstance(output, Mapping) and "loss" in output:
        return output["loss"]
    if getattr(output, "loss", None) is not None:
        return output.loss
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list):
        scalars = [t for t in output if isinstance(t, Tensor) and t.numel() == 1]
        if scalars:
            return scalars[0]
    raise UserError("the model's output has no loss; give `loss`, a function of output and batch")


def pool_of(data: Any, size: int, *, least: int = 1, seconds: float = math.inf) -> list[Any]:
    """Return the first `size` batches; fewer, but `least`, where making them takes more than `seconds`.

    Where the data has fewer, they are repeated. Raises DataError where it has none.
    """
    pool: list[Any] = []
    begin = time.perf_counter()
    for batch in itertools.islice(iter(data), size):
        pool.append(batch)
        if len(pool) >= least and time.perf_counter() - begin > seconds:
            size = len(pool)
            break
    if not pool:
        raise DataError("data gives no batch")
    if len(pool) < size and iter(data) is iter(data):  # in this order: an iterator may start processes
        raise DataError("data can be iterated only once; give something like a DataLoader or a list")
    if not trees.tensors(pool[0]):
        raise DataError(f"a batch must hold tensors in a dict or a tuple, not {type(pool[0]).__name__}")
    return list(itertools.islice(itertools.cycle(pool), size))


def endless(data: Any) -> Iterator[Any]:
    """Yield the batches of `data`, from its beginning again where it ends."""
    while True:
        yield from data


def wrap_batches(batches: Iterator[Any], padding: Padding | None) -> Iterator[UserBatch]:
    """Yield the batches with their numbers of rows, and of tokens where a tensor of whole numbers (B, L) shows them."""
    for original in batches:
        tensors = trees.tensors(original)
        ids = [t for t in tensors.values() if t.dim() == 2 and not t.is_floating_point()]
        whole = ids[0].numel() if ids else 0
        real = sum(padding.lengths(tensors)) if padding is not None else whole
        yield UserBatch(
            arrays=tensors,
            examples=trees.rows(original),
            tokens=real,
            padding_tokens=max(0, whole - real),
            original=original,
        )
