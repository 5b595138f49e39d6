"""`communication`: waiting for and exchanging with other processes. Removed by local buffers of the same shape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import llmbench
from llmbench_plugins.causes._collectives import collectives, copy_locally
from llmbench_plugins.causes._swap import Place, substitute

STEPS = 4  # of a block
BURN = 2  # a partner that waits for this process is early for the first steps of a block


def _places() -> list[tuple[str, list[Place]]]:
    places = collectives()
    if not places:
        raise llmbench.DoesNotApply("one process, no torch.distributed group")
    return places


@contextlib.contextmanager
def _time(timer: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _, places in _places():
            stack.enter_context(substitute(places, timer))
        yield


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the seconds per step in collectives that the step calls."""
    _places()
    part_s = trial.timed(_time)
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
    return llmbench.Intervention(lambda: copy_locally(places), steps=STEPS, burn=BURN)


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
