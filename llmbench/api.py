"""llmbench from a script or a notebook: what the command line does, as functions."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.errors import UserError

if TYPE_CHECKING:
    from llmbench.report.cells import Run

GIVEN = "given objects"


@dataclass(frozen=True)
class Diagnosis:
    """What bounds a step: the verdict, and what it rests on. Printing it shows the tables of `llmbench diagnose`."""

    run: Run

    @cached_property
    def document(self) -> dict[str, Any]:
        """Return what `llmbench diagnose --json` prints: the fields of a cell, `bottlenecks` and `remedies`."""
        from llmbench.report import json

        return json.one(self.run)

    @property
    def verdict(self) -> str:
        """Return the cause that bounds the step, else `balanced`, `undecided` or `unisolated`."""
        return str(self.document["verdict"])

    @property
    def headroom_x(self) -> float | None:
        """Return the step time over the step time without the cause, measured; None where no cause is named."""
        found: float | None = self.document["headroom_measured_x"]
        return found

    def __str__(self) -> str:
        from llmbench.report import terminal
        from llmbench.report.tables import run_tables

        text = io.StringIO()
        terminal.render(run_tables(self.run), text)
        return text.getvalue()

    def __repr__(self) -> str:
        x = self.headroom_x
        return f"Diagnosis({self.verdict}" + (f", {x:.2f}x)" if x is not None else ")")


def diagnose(
    *,
    model: Any,
    data: Iterable[Any],
    optimizer: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    step: Callable[[Any], Any] | None = None,
    device: str | None = None,
    precision: str | None = None,
    budget_s: float = 60.0,
    verify: str = "verdict",
    plugins: Sequence[str | Path] = (),
) -> Diagnosis:
    """Find out what bounds a training step, remove it, and measure again, in this process and about `budget_s` seconds.

    ::

        import llmbench
        found = llmbench.diagnose(model=model, data=loader, optimizer=optimizer)
        print(found)

    `model` is a torch module, `data` batches that can be iterated again and again (dicts of tensors, or tuples),
    `optimizer` defaults to a fused AdamW, `loss(output, batch)` to `output.loss`; `step(batch)` is your own step where
    it is not forward, backward and update. `verify` is "verdict" (the leading suspects) or "all" (every cause). Model
    and optimizer are given back as they were. Raises UserError, in one line, for what cannot be diagnosed.
    """
    from llmbench.executors.child import resolve
    from llmbench.report.cells import Run

    check_budget(budget_s, "budget_s")
    if verify not in ("verdict", "all"):
        raise UserError(f'verify {verify!r}: write "verdict" or "all"')
    given: Mapping[str, Any] = {"model": model, "data": data, "optimizer": optimizer, "loss": loss, "step": step}
    record = resolve("llmbench.worker.diagnose:diagnose_given")(
        {**given, "device": device, "precision": precision},
        name=GIVEN,
        budget_s=budget_s,
        mode=verify,
        plugin_files=[str(Path(file).resolve()) for file in plugins],
    )
    environment = resolve("llmbench.worker.environment:capture")()
    return Diagnosis(Run(GIVEN, [{**record, "environment_id": "here"}], {"here": environment}, {}, {}))


def check_budget(seconds: float, name: str) -> None:
    """Raise UserError for what is no time."""
    if not seconds > 0:
        raise UserError(f"{name} {seconds:g}: give seconds, such as 60")
