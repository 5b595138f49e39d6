"""`llmbench.diagnose`: the verified bottleneck of objects of one's own."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmbench.contract.errors import UserError

if TYPE_CHECKING:
    from llmbench.contract.record import Record
    from llmbench.records.read import Run
from llmbench.api.options import check_budget

GIVEN = "given objects"


@dataclass(frozen=True)
class Diagnosis:
    """What bounds a step: the verdict, and what it rests on. Printing it shows the tables of `llmbench diagnose`."""

    run: Run
    causes: Mapping[str, str] = field(default_factory=dict)  # what each is

    @cached_property
    def document(self) -> dict[str, Any]:
        """Return what `llmbench diagnose --json` prints: the fields of a cell, `bottlenecks` and `remedies`."""
        from llmbench.report.formats import json

        return json.single_cell(self.run)

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
        from llmbench.report.formats import terminal
        from llmbench.report.tables import diagnosis

        text = io.StringIO()
        terminal.render(diagnosis.tables(self.run), text)
        return "\n".join(diagnosis.lines(self.run, self.causes)) + "\n\n" + text.getvalue()

    def _repr_html_(self) -> str:
        from html import escape

        from llmbench.report.formats.notebook import tables_html
        from llmbench.report.tables import diagnosis

        said = "".join(f"<p>{escape(line)}</p>" for line in diagnosis.lines(self.run, self.causes))
        return said + tables_html(diagnosis.tables(self.run))

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
    """Find out what bounds a training step, remove it, and measure again, in this process and `budget_s` seconds.

    ::

        import llmbench
        found = llmbench.diagnose(model=model, data=loader, optimizer=optimizer)
        print(found)

    `model` is a torch module, `data` batches that can be iterated again and again (dicts of tensors, or tuples),
    `optimizer` defaults to a fused AdamW, `loss(output, batch)` to `output.loss`; `step(batch)` is your own step where
    it is not forward, backward and update. `verify` is "verdict" (the leading suspects) or "all" (every cause). Model
    and optimizer are given back as they were. Raises UserError, in one line, for what cannot be diagnosed.
    """
    begun_s = time.perf_counter()
    from llmbench.execution import worker_calls
    from llmbench.execution.child import resolve
    from llmbench.records.read import Run

    check_budget(budget_s, "budget_s")
    if verify not in ("verdict", "all"):
        raise UserError(f'verify {verify!r}: write "verdict" or "all"')
    given: Mapping[str, Any] = {"model": model, "data": data, "optimizer": optimizer, "loss": loss, "step": step}
    registry = resolve(worker_calls.FIND_PLUGINS)([str(Path(file).resolve()) for file in plugins])
    environment = resolve(worker_calls.CAPTURE_ENVIRONMENT)()
    allowance = resolve(worker_calls.TIME_BUDGET)(budget_s, begun_s)
    allowance.spent_s["start_s"] = time.perf_counter() - begun_s
    record = resolve(worker_calls.DIAGNOSE_GIVEN)(
        {**given, "device": device, "precision": precision},
        name=GIVEN,
        mode=verify,
        allowance=allowance,
        registry=registry,
    )
    run = Run(GIVEN, [cast("Record", {**record, "environment_id": "here"})], {"here": environment}, {}, {})
    return Diagnosis(run, resolve(worker_calls.DESCRIBE_CAUSES)(registry))
