"""`llmbench.diagnose`: the verified bottleneck of objects of one's own."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmbench.api.options import check_budget
from llmbench.contract.errors import UserError

if TYPE_CHECKING:
    from llmbench.contract.record import JsonObject, Record
    from llmbench.records.read import Run

GIVEN = "given objects"


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on what bounds a step, and its evidence. Printing it shows the tables of `llmbench diagnose`."""

    run: Run
    causes: Mapping[str, str] = field(default_factory=dict)  # cause -> its description

    @cached_property
    def document(self) -> JsonObject:
        """The document of `llmbench diagnose --json`: the fields of a cell, `bottlenecks` and `remedies`."""
        from llmbench.report.formats import json

        return json.single_cell(self.run)

    @property
    def verdict(self) -> str:
        """The cause that bounds the step, else `balanced`, `undecided` or `unisolated`."""
        return str(self.document["verdict"])

    @property
    def headroom_x(self) -> float | None:
        """The measured step time over that without the largest measured cause; None where no cause was measured."""
        headroom: float | None = self.document["headroom_measured_x"]
        return headroom

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

        paragraphs = "".join(f"<p>{escape(line)}</p>" for line in diagnosis.lines(self.run, self.causes))
        return paragraphs + tables_html(diagnosis.tables(self.run))

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
    """Find what bounds a training step, remove it, and measure again, in this process, in about `budget_s` seconds.

    ::

        import llmbench
        diagnosis = llmbench.diagnose(model=model, data=loader, optimizer=optimizer)
        print(diagnosis)

    - `model`: a torch module.
    - `data`: batches (dicts of tensors, or tuples) that can be iterated again and again.
    - `optimizer`: default: a fused AdamW.
    - `loss`: a function of output and batch; default: `output.loss`.
    - `step`: your own step, a function of a batch, where it is not forward, backward and update.
    - `verify`: "verdict" removes and measures the leading suspects, "all" every cause.

    The model and the optimizer are left as they were. Raises UserError, one line, for objects that cannot be diagnosed.
    """
    begun_s = time.perf_counter()
    from llmbench.execution import worker_calls
    from llmbench.execution.child import resolve

    check_budget(budget_s, "budget_s")
    if verify not in ("verdict", "all"):
        raise UserError(f'verify {verify!r}: write "verdict" or "all"')
    objects: Mapping[str, object] = {"model": model, "data": data, "optimizer": optimizer, "loss": loss, "step": step}
    registry = resolve(worker_calls.FIND_PLUGINS)([str(Path(file).resolve()) for file in plugins])
    environment = resolve(worker_calls.CAPTURE_ENVIRONMENT)()
    time_budget = resolve(worker_calls.TIME_BUDGET)(budget_s, begun_s)
    time_budget.spent_s["start_s"] = time.perf_counter() - begun_s
    record = resolve(worker_calls.DIAGNOSE_GIVEN)(
        {**objects, "device": device, "precision": precision},
        name=GIVEN,
        mode=verify,
        time_budget=time_budget,
        registry=registry,
    )
    run = run_of(GIVEN, record, environment)
    return Diagnosis(run, resolve(worker_calls.DESCRIBE_CAUSES)(registry))


def run_of(name: str, record: Record, environment: JsonObject) -> Run:
    """Return a diagnosis as a run of one record, so that it can be reported."""
    from llmbench.records.read import Run

    return Run(name, [cast("Record", {**record, "environment_id": "here"})], {"here": environment})
