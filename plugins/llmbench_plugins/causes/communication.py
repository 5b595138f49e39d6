"""`communication`: waiting for and exchanging with other processes. Removed by local buffers of the same shape."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._collectives import LISTS, OUTPUTS, collectives
from llmbench_plugins.causes._swap import Function, Place, replaced

BURN, STEPS = 2, 4  # a partner that waits for us is early for the first steps of a block


class _Done:
    """A finished request."""

    def wait(self, *_: Any) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def get_future(self) -> Any:
        import torch

        future: Any = torch.futures.Future()
        future.set_result([])
        return future


def _places() -> list[tuple[str, list[Place]]]:
    found = collectives()
    if not found:
        raise llmbench.DoesNotApply("one process, no torch.distributed group")
    return found


@contextlib.contextmanager
def _timed(timer: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _, places in _places():
            stack.enter_context(replaced(places, timer))
        yield


@contextlib.contextmanager
def local(places: Sequence[tuple[str, list[Place]]], when: Callable[[], bool] = lambda: True) -> Iterator[None]:
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
                return _Done() if kwargs.get("async_op") or name in ("isend", "irecv") else None

            return call

        return make

    with contextlib.ExitStack() as stack:
        for name, some in places:
            stack.enter_context(replaced(some, without(name)))
        yield


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the seconds per step in collectives that the step calls."""
    _places()
    part_s = trial.timed(_timed)
    if not any(part_s):
        raise llmbench.DoesNotApply("a step calls no collective of torch.distributed")
    return {"part_s": part_s}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - exposed communication)."""
    return llmbench.without(record, facts["part_s"])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Put local copies in the place of collectives.

    Partners wait meanwhile, so each block starts with untimed steps.
    """
    places = _places()
    return llmbench.Intervention(lambda: local(places), steps=STEPS, burn=BURN)


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="communication",
            axis="why",
            cause_class="hardware",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="exchanging with other processes and waiting for them",
            advice="overlap with computation, larger and fewer messages, balance the work between processes",
        )
    ]
