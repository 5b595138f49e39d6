"""A user's own step, whole and in its parts, as it is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from llmbench.contract.engines import Engine
from llmbench.contract.errors import UserError
from llmbench.contract.specs import Batch
from llmbench.worker.diagnosis.restore import Snapshot
from llmbench.worker.diagnosis.time_budget import BoundedTrial
from llmbench.worker.diagnosis.user_engine import UserEngine, endless
from llmbench.worker.measuring.step_kinds import MarkedStep, phases_of_parts

if TYPE_CHECKING:
    from llmbench.contract.record import Counts, Memory, Series, Shapes, Trace


class UserStep:
    """A user's step, whole and in its parts."""

    trains = True
    generates = False
    max_new_tokens = 0

    def step(self, engine: Engine, batch: Batch) -> None:
        """Take a step."""
        engine.step(batch)  # type: ignore[attr-defined]

    def take_marked(self, engine: Engine, batches: Iterator[Batch]) -> MarkedStep:
        """Take a step with marks. A step of the user's own shows one phase only: the wait for its batch."""
        user: UserEngine = engine  # type: ignore[assignment]
        marks = [user.mark()]
        batch = next(batches)
        marks.append(user.mark())
        if user.own_step is not None:
            user.step(batch)
            return MarkedStep([*marks, user.mark()], phases_of_own_step)
        arrays = user.copy(batch)
        marks.append(user.mark())
        loss = user.forward(arrays)
        marks.append(user.mark())
        user.backward(loss)
        marks.append(user.mark())
        user.update()
        return MarkedStep([*marks, user.mark()], phases_of_parts)

    def note(self, shapes: Shapes, result: Any) -> None:
        """Remember nothing."""

    def samples(self) -> Series:
        """Return no further samples."""
        return {}

    def cache_memory(self) -> Memory:
        """Return no size: the step generates nothing."""
        return {}

    def counts(self, trace: Trace) -> Counts:
        """Return no counts: the step is not traced."""
        return {}


def phases_of_own_step(seconds: Sequence[float]) -> dict[str, float]:
    """Return the seconds of the wait for the batch."""
    return {"input_s": seconds[0]}


def user_trial(engine: UserEngine, kind: UserStep, pool: list[Any], data: Any) -> BoundedTrial:
    """Return the trial of the user's step."""
    compiled = getattr(engine.module, "_compiled_call_impl", None) is not None or hasattr(engine.module, "_orig_mod")
    return BoundedTrial(
        module=engine.module,
        optimizer=engine.optimizer,
        device=engine.device.type,
        trains=kind.trains,
        generates=False,
        pool=pool,
        take_step=engine.step,
        make_fresh=lambda: endless(data),
        mark=engine.mark,
        between=engine.seconds_between,
        compiled=compiled,
        workers=int(getattr(data, "num_workers", 0) or 0),
    )


def watch_step(engine: UserEngine, batch: Any, snapshot: Snapshot) -> tuple[bool, Any]:
    """Take a step; return whether it has a backward pass, and the first torch optimizer that it steps, if any.

    The state of an optimizer that nobody named is added to `snapshot` before its first step.
    """
    optimizers: list[Any] = []
    backward: list[bool] = []
    before = torch.autograd.backward

    def on_optimizer_step(optimizer: Any, *_: Any) -> None:
        optimizers.append(optimizer)
        snapshot.add(optimizer)

    hook = register_optimizer_step_pre_hook(on_optimizer_step)

    def note_backward(*args: Any, **kwargs: Any) -> None:
        backward.append(True)
        before(*args, **kwargs)

    torch.autograd.backward = note_backward
    try:
        engine.step(batch)
    except UserError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise UserError(f"the first step failed: {type(error).__name__}: {line}") from error
    finally:
        torch.autograd.backward = before
        hook.remove()
    return bool(backward or optimizers), optimizers[0] if optimizers else None


def batch_tensors(batch: Any) -> list[torch.Tensor]:
    """Return the tensors of a batch that have rows."""
    from llmbench.worker.torch_engine.tensor_trees import tensors

    return [t for t in tensors(batch).values() if t.dim()]
