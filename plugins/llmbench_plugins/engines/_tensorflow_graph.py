"""Counts a TensorFlow graph: the calls, FLOPs and bytes of its operators, loops taken once per token.

A FLOP is one of a matrix product, 2 per multiply-add. The bytes of a call are those of its inputs and outputs.
TensorFlow optimizes a graph before it runs it (constants are folded, elementwise operators joined), which leaves
products as they are and may save bytes. What nothing depends on is not run, and not counted: Keras makes a recurrent
step next to its loop, to look at the shapes.
"""

from __future__ import annotations

import math
from typing import Any

PRODUCTS = ("MatMul", "BatchMatMulV2", "BatchMatMul", "BatchMatMulV3")
CALLS = ("PartitionedCall", "StatefulPartitionedCall")
LOOPS = ("While", "StatelessWhile")
LOOKUPS = ("GatherV2", "ResourceGather", "UnsortedSegmentSum", "TensorScatterUpdate", "ResourceScatterAdd")
#: These hand tensors on, or only say something about them.
NO_WORK = (
    *(
        "Const",
        "Placeholder",
        "Identity",
        "IdentityN",
        "NoOp",
        "ReadVariableOp",
        "Shape",
        "Reshape",
        "ExpandDims",
        "Squeeze",
    ),
    *("TensorListReserve", "TensorListFromTensor", "TensorListStack", "EmptyTensorList", "TensorListElementShape"),
    *("TensorListPushBack", "TensorListPopBack", "TensorListGetItem", "TensorListSetItem", "TensorListLength"),
    *("StopGradient", "PreventGradient", "BroadcastGradientArgs", "ZerosLike", "Pack", "Range", "VarHandleOp"),
)
#: These take a tensor for its shape alone.
SHAPE_ONLY = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike", "TensorListElementShape")
NOTES = [
    "counted in the graph as it was traced, before TensorFlow optimizes it; loops run once per token",
    "times: null, nothing is attached to TensorFlow's operators",
]


def count_graph(graph: Any, *, tokens: int) -> dict[str, Any]:
    """Return `rows`, `totals` and `notes` (see `llmbench.Engine.trace`) of a graph whose loops run `tokens` times."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    unknown: set[str] = set()
    _walk(graph, graph, "", 1, tokens, rows, unknown)
    flops = sum(row["flops"] for row in rows.values())
    moved = sum(row["bytes"] for row in rows.values())
    notes = list(NOTES)
    if unknown:
        notes.append(f"bytes: null, shapes are not known of {', '.join(sorted(unknown)[:8])}")
    totals = {"flops": flops, "recomputed_flops": 0, "bytes": None if unknown else moved, "kernels": None}
    return {"rows": [] if unknown else list(rows.values()), "totals": totals, "notes": notes}


def _walk(
    outer: Any, graph: Any, phase: str, times: int, tokens: int, rows: dict[Any, dict[str, Any]], unknown: set[str]
) -> None:
    live = _live(graph)
    for op in graph.get_operations():
        if op.name not in live:
            continue
        where = phase or _phase(op.name)
        if op.type in CALLS:
            _walk(outer, _function(outer, graph, op, "f"), where, times, tokens, rows, unknown)
        elif op.type in LOOPS:
            _walk(outer, _function(outer, graph, op, "body"), where, times * tokens, tokens, rows, unknown)
        elif op.type not in NO_WORK:
            _add(op, where, times, rows, unknown)


def _live(graph: Any) -> set[str]:
    """Return the names of the operators that the graph's results and effects need."""
    left = [*(t.op for t in graph.outputs), *getattr(graph, "control_outputs", ())]
    live: set[str] = set()
    while left:
        op = left.pop()
        if op.name not in live:
            live.add(op.name)
            left += op.control_inputs
            left += [] if op.type in SHAPE_ONLY else [t.op for t in op.inputs]
    return live


def _phase(name: str) -> str:
    """Return the phase of an operator of the outermost graph: the scope it was made in; gradients have none."""
    scope = name.partition("/")[0]
    return scope if scope in ("forward", "optimizer") else "backward"


def _function(outer: Any, graph: Any, op: Any, attribute: str) -> Any:
    name = op.get_attr(attribute).name
    for place in (graph, outer):
        found = place._get_function(name) if name in getattr(place, "_functions", {name: None}) else None
        if found is not None:
            return found.graph
    raise LookupError(f"function {name} of {op.name} is not in the graph")


def _add(op: Any, phase: str, times: int, rows: dict[Any, dict[str, Any]], unknown: set[str]) -> None:
    sizes = [_bytes(t) for t in (*op.inputs, *op.outputs)]
    flops = _flops(op) if op.type in PRODUCTS else 0
    if None in sizes or flops is None:
        unknown.add(op.type)
    moved = sum(size or 0 for size in sizes)
    kind = "matmul" if op.type in PRODUCTS else "optimizer" if phase == "optimizer" else "elementwise"
    kind = "embedding" if op.type in LOOKUPS else kind
    dtype = op.outputs[0].dtype.name if flops else ""
    row = rows.setdefault(
        (phase, op.type, dtype, moved.bit_length()),
        {"phase": phase, "operator_class": kind, "name": f"tf::{op.type}", "dtype": dtype, "calls": 0, "flops": 0}
        | {"recomputed_flops": 0, "bytes": 0},
    )
    row["calls"] += times
    row["flops"] += times * (flops or 0)
    row["bytes"] += times * moved


def _bytes(tensor: Any) -> int | None:
    """Return the bytes of a tensor, 0 of a handle, None where its shape is not known."""
    if tensor.dtype.name in ("resource", "variant", "string"):
        return 0
    return None if tensor.shape.num_elements() is None else tensor.shape.num_elements() * tensor.dtype.size


def _flops(op: Any) -> int | None:
    left, right = op.inputs[0].shape, op.outputs[0].shape
    if left.num_elements() is None or right.num_elements() is None:
        return None
    adjoint = op.get_attr("transpose_a") if op.type == "MatMul" else op.get_attr("adj_x")
    return 2 * math.prod(right.as_list()) * left.as_list()[-2 if adjoint else -1]
