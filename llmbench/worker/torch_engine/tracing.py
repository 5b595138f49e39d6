"""The trace pass of the torch engine: what a step does, operator by operator, and where its time goes.

It runs after all timing, in steps of its own: one is counted (exact), a few are profiled
(`llmbench.worker.torch_engine.profiling` says how far their times can be trusted). A compiled module is traced as it
was written (see `as_written`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from llmbench.contract.specs import Batch
from llmbench.worker.measuring.step_kinds import GENERATED
from llmbench.worker.torch_engine import profiling
from llmbench.worker.torch_engine.operator_counter import OperatorCounter, OperatorRow, difference, totals
from llmbench.worker.torch_engine.profiling import Enter

if TYPE_CHECKING:
    from llmbench.contract.record import OperatorCount, OperatorTime, Trace


class Traced(Protocol):
    """What is needed of the torch engine."""

    module: torch.nn.Module
    device: torch.device
    head: str
    compiled: bool

    def copy(self, batch: Batch) -> Any: ...  # noqa: D102
    def forward(self, arrays: Any) -> Any: ...  # noqa: D102
    def backward(self, loss: Any) -> None: ...  # noqa: D102
    def update(self) -> None: ...  # noqa: D102
    def predict(self, arrays: Any, *, max_new_tokens: int) -> list[Any]: ...  # noqa: D102
    def synchronize(self) -> None: ...  # noqa: D102


def trace(engine: Traced, batch: Batch, *, train: bool, max_new_tokens: int) -> Trace:
    """Count one step on `batch` and profile a few: see `Engine.trace`."""
    step = StepOf(engine, batch, train, max_new_tokens)
    with as_written(engine.module):
        rows, shapes = count(step)
    notes = [] if engine.device.type == "cpu" else ["bytes are those of operators, not of memory transactions"]
    times: list[OperatorTime] | None = None
    kernels: float | None = sum(row.calls for row in rows)
    phases: Mapping[str, float] = {}
    if engine.device.type not in ("cpu", "cuda"):
        notes.append(f"times and kernels: null, torch.profiler does not see kernels on {engine.device.type}")
        kernels = None
    elif engine.compiled:
        notes.append("counts are of the module as it was written; times: null, compiled kernels have no operator class")
        kernels = profiling.kernels(step.run, engine) if engine.device.type == "cuda" else None
    else:
        names = {phase: {row.name for row in rows if row.phase == phase} for phase in {row.phase for row in rows}}
        if step.decodes:
            names["generate"] = names.get("prefill", set()) | names.get("decode", set())
        profile = profiling.measure(step.run, engine, names, steps=1 if step.decodes else profiling.STEPS)
        times, phases = with_classes(profile.seconds, rows), profile.phases_s
        kernels = profile.kernels if engine.device.type == "cuda" else kernels
    sums = totals(rows)
    return {
        "rows": [cast("OperatorCount", dataclasses.asdict(row)) for row in rows],
        "times": times,
        "phases_s": dict(phases),
        "totals": {
            "flops": sums["flops"],
            "recomputed_flops": sums["recomputed_flops"],
            "bytes": sums["bytes"],
            "kernels": kernels,
        },
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "notes": notes,
    }


# --- one step, phase by phase ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StepOf:
    """The step to trace."""

    engine: Traced
    batch: Batch
    train: bool
    max_new_tokens: int

    @property
    def decodes(self) -> bool:
        """Whether the step makes tokens one by one."""
        return self.engine.head == "generate" and not self.train

    def run(self, enter: Enter) -> None:
        """Run the step; `enter(phase)` is the context of each phase.

        A generation runs twice, for one new token (`prefill`) and for all (`generate`). What the second does more is
        decoding, whatever the model looks like inside.
        """
        engine = self.engine
        with enter("copy"):
            arrays = engine.copy(self.batch)
        if self.train:
            engine.module.train()
            with enter("forward"):
                loss = engine.forward(arrays)
            with enter("backward"):
                engine.backward(loss)
            with enter("optimizer"):
                engine.update()
        elif not self.decodes:
            with enter("forward"):
                engine.predict(arrays, max_new_tokens=self.max_new_tokens)
        else:
            with enter("prefill"):
                engine.predict(arrays, max_new_tokens=1)
            with enter("generate"):
                engine.predict(arrays, max_new_tokens=self.max_new_tokens)


@contextmanager
def as_written(module: torch.nn.Module) -> Iterator[None]:
    """Run `module` without what `Module.compile` put before it: a compiled region hides its operators."""
    compiled, module._compiled_call_impl = module._compiled_call_impl, None
    try:
        yield
    finally:
        module._compiled_call_impl = compiled


# --- counts ---------------------------------------------------------------------------------------------


def count(step: StepOf) -> tuple[list[OperatorRow], dict[str, tuple[int, ...]]]:
    """Return the operators of one step, and the shapes that it was made for."""
    counter = OperatorCounter()

    @contextmanager
    def enter(phase: str) -> Iterator[None]:
        counter.phase = phase
        yield

    shapes = {name: array.shape for name, array in step.batch.arrays.items()}
    with watch_generated_shapes(step) as generated, counter:
        step.run(enter)
    rows = counter.rows()
    if step.decodes:
        shapes[GENERATED] = generated[-1]
        prefill = [row for row in rows if row.phase == "prefill"]
        decode = difference([row for row in rows if row.phase == "generate"], prefill)
        rows = [row for row in rows if row.phase != "generate"]
        rows += [dataclasses.replace(row, phase="decode") for row in decode]
    return rows, shapes


@contextmanager
def watch_generated_shapes(step: StepOf) -> Iterator[list[tuple[int, ...]]]:
    """Yield a list, to which the shape of each result of the module's `generate` is added."""
    shapes: list[tuple[int, ...]] = []
    if not step.decodes:
        yield shapes
        return
    module: Any = step.engine.module
    inner = module.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        ids = inner(*args, **kwargs)
        shapes.append(tuple(ids.shape))
        return ids

    module.generate = generate  # hides the method of the class
    try:
        yield shapes
    finally:
        del module.generate


def with_classes(seconds: Mapping[tuple[str, str], float], rows: list[OperatorRow]) -> list[OperatorTime]:
    """Return the seconds by phase, class and name; an operator of two classes is split by its work."""
    out: list[OperatorTime] = []
    for (phase, name), value in seconds.items():
        work: dict[str, float] = {}
        for row in rows:
            if (row.phase, row.name) == (phase, name):
                work[row.operator_class] = work.get(row.operator_class, 0.0) + (row.flops or row.bytes or 1)
        whole = sum(work.values())
        shares = {kind: part / whole for kind, part in work.items()} or {profiling.HOST: 1.0}
        out += [
            {"phase": phase, "operator_class": kind, "name": name, "seconds": value * share}
            for kind, share in shares.items()
        ]
    return out
