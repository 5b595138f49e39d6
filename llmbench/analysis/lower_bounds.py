"""What a cell will ask for before it runs: least seconds per step, time, and memory. Pure.

From the machine's measured ceilings and the formulas of the model's plugin (`flops`, `parameters`), for batches as long
as the cell allows. What has no formula is left out and said to be: the numbers are lower bounds, not guesses. How far
measurements are above them is told in docs/numbers.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmbench.analysis import roofline
from llmbench.contract import ceilings
from llmbench.contract.cell import Budget, Cell
from llmbench.contract.sizes import configuration
from llmbench.contract.specs import (
    BACKWARD_FACTOR,
    BuildRequest,
    CollateContext,
    ModelSpec,
    PrecisionSpec,
    SpecialTokens,
)

if TYPE_CHECKING:
    from llmbench.plugins.registry import Registry
    from llmbench.suite.plan import Plan

MIB = 2**20
#: Elements per parameter that AdamW reads or writes (parameter, gradient and both moments; all but the gradient are
#: written), and clipping (the gradient is read for its norm, read again and written).
UPDATE_ELEMENTS, CLIP_ELEMENTS = 7, 3
STATES = 2  # moments per parameter that AdamW keeps
NO_CEILINGS = "this machine's ceilings were not measured; `llmbench calibrate` does"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Prediction:
    """Lower bounds for one cell; `reasons` says of each that is None why."""

    parameters: int | None = None
    step_s: float | None = None
    seconds: float | None = None  # of all its processes: timing, trials and training; not starting, data and scoring
    memory_mib: float | None = None  # weights, and for training gradients and optimizer; not activations
    reasons: Mapping[str, str] = field(default_factory=dict)


def predict(
    cell: Cell,
    head: str,
    model: ModelSpec,
    precision: PrecisionSpec,
    budget: Budget,
    doc: Mapping[str, Any] | None,
    *,
    verified: bool = False,
    weights: str | None = None,
) -> Prediction:
    """Return what `cell` will take at least. `doc`: the ceilings of its device; `verified`: causes are tried;
    `weights`: the folder of the pretrained model that it begins with.
    """
    request = full_request(cell, head, model, weights)
    shapes = full_shapes(cell, head, model)
    flops = model.flops(request, shapes) if model.flops else None
    parameters = model.parameters(request) if model.parameters else None
    reasons: dict[str, str] = {}
    if parameters is None:
        reasons |= dict.fromkeys(("parameters", "memory_mib"), "the model's plugin has no formula for its parameters")
    if doc is None:
        reasons |= dict.fromkeys(("step_s", "seconds"), NO_CEILINGS)
        step_s = None
    else:
        step_s, why = least_step_s(cell, precision, flops, parameters, doc)
        reasons |= dict.fromkeys(("step_s", "seconds"), why) if why else {}
    trials = budget.verify_seconds if verified else 0.0
    seconds = None if step_s is None else 2 * budget.seconds + trials + cell.steps * step_s
    size = parameter_bytes(precision)
    kept = 1 if cell.stage == "eval" else 2 + STATES
    memory_mib = None if parameters is None else parameters * size * kept / MIB
    return Prediction(parameters, step_s, seconds, memory_mib, reasons)


def predictions(plan: Plan, registry: Registry, docs: Mapping[str, Mapping[str, Any]]) -> dict[str, Prediction]:
    """Return cell id -> what it will take at least. `docs`: device -> its ceilings, where they are known."""
    suite = plan.suite
    found: dict[str, Prediction] = {}
    for planned in plan.cells:
        cell = planned.cell
        model, task = registry.model(cell.model, plan.weights), registry.get("task", cell.task)
        if planned.obstacle or task.head not in model.layouts:
            unknown = dict.fromkeys(("parameters", "step_s", "seconds", "memory_mib"), "the cell cannot run")
            found[cell.cell_id] = Prediction(reasons=unknown)
            continue
        precision, doc = registry.get("precision", cell.precision), docs.get(cell.device)
        verified = suite.verify != "none"
        weights = plan.weights[cell.begins_with] if cell.begins_with else None
        found[cell.cell_id] = predict(
            cell, task.head, model, precision, suite.budget, doc, verified=verified, weights=weights
        )
    return found


def least_step_s(
    cell: Cell, precision: PrecisionSpec, flops: float | None, parameters: int | None, doc: Mapping[str, Any]
) -> tuple[float | None, str | None]:
    """Return the seconds of a step at the ceilings: its matmuls, then (training) the update; else why not."""
    peak = ceilings.matmul_peak(doc, cell.precision)
    if flops is None:
        return None, "the model's plugin has no formula for its FLOPs"
    if peak is None:
        return None, f"the matmul ceiling of {cell.precision} is not known"
    if cell.stage == "eval":
        return flops / peak["value"], None
    if parameters is None:
        return None, "the model's plugin has no formula for its parameters"
    size = parameter_bytes(precision)
    bandwidth = roofline.bandwidth_at(parameters * size * (2 + STATES), doc["memory_levels"])
    if bandwidth is None:
        return None, "the memory bandwidth is not known"
    update_s = parameters * size * (UPDATE_ELEMENTS + CLIP_ELEMENTS) / bandwidth.value
    return BACKWARD_FACTOR * flops / peak["value"] + update_s, None


def parameter_bytes(precision: PrecisionSpec) -> int:
    """Return the bytes of a parameter, its gradient and each of its moments."""
    return math.ceil(int("".join(c for c in precision.parameters if c.isdigit()) or 32) / 8)


def full_request(cell: Cell, head: str, model: ModelSpec, weights: str | None = None) -> BuildRequest:
    """Return what the model is built from; the number of classes is the data's, and taken as none here."""
    return BuildRequest(
        head=head,
        size=cell.size,
        config=configuration(model, cell.size, cell.vocab_size),
        vocab_size=cell.vocab_size,
        special=SpecialTokens(),
        seq_len=cell.seq_len,
        target_len=cell.target_len or cell.seq_len,
        weights=weights,
        attention=cell.attention,
        lora=cell.lora,
    )


def full_shapes(cell: Cell, head: str, model: ModelSpec) -> Shapes:
    """Return the shapes of a batch whose sequences are all as long as the cell allows."""
    target_len, train = cell.target_len or cell.seq_len, cell.stage != "eval"
    ctx = CollateContext(SpecialTokens(), cell.seq_len, target_len, cell.vocab_size, train)
    row = model.layouts[head].collate([longest_feature(head, cell.seq_len, target_len)], ctx)
    shapes: Shapes = {name: (cell.batch_size, *array.shape[1:]) for name, array in row.arrays.items()}
    if head == "generate" and not train:
        shapes["new_ids"] = (cell.batch_size, target_len)
    return shapes


def longest_feature(head: str, seq_len: int, target_len: int) -> dict[str, Any]:
    """Return a feature of `head` (see `llmbench.contract.specs`) that fills its limits."""
    ids = [SpecialTokens().mask + 1] * max(seq_len, 3)
    features: dict[str, dict[str, Any]] = {
        "classify": {"ids": ids, "label": 0},
        "span": {"question": ids, "context": ids, "start": 0, "end": 0},
        "generate": {"source": ids, "target": ids[:1] * target_len},
        "pretrain": {"ids": ids},
    }
    return features[head]


def total_s(predictions: Sequence[Prediction]) -> float | None:
    """Return the seconds of all together; None where one is not known."""
    known = [one.seconds for one in predictions]
    return None if None in known else math.fsum(seconds for seconds in known if seconds is not None)
