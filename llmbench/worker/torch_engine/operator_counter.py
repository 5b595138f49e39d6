"""Counts the operators of a step as they run: calls, FLOPs and bytes, by phase and operator class.

What counts as a FLOP and as a byte is said in `llmbench.worker.torch_engine.operator_classes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llmbench.worker.torch_engine import operator_classes


class UncountedOperator(RuntimeError):
    """An operator that multiplies matrices ran, and nobody knows its FLOPs: a zero here would be a wrong number."""


@dataclass(frozen=True)
class OperatorRow:
    """Calls of one operator in one phase. The bytes of one call differ by less than a factor of two within a row."""

    phase: str
    operator_class: str
    name: str  # with its namespace, such as "aten::mm"
    dtype: str  # of the operands, where there are FLOPs; else ""
    calls: int
    flops: int
    recomputed_flops: int  # of `flops`: repeats earlier work (scores in fused attention's backward, checkpointing)
    bytes: int

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """Return the key of a row; its last part is the binary order of magnitude of one call's bytes."""
        return (self.phase, self.operator_class, self.name, self.dtype, (self.bytes // self.calls).bit_length())

    def plus(self, other: OperatorRow, sign: int = 1) -> OperatorRow:
        """Return the sum (or with `sign` -1 the difference) of two rows of one key."""
        return dataclasses.replace(
            self,
            calls=self.calls + sign * other.calls,
            flops=self.flops + sign * other.flops,
            recomputed_flops=self.recomputed_flops + sign * other.recomputed_flops,
            bytes=self.bytes + sign * other.bytes,
        )


class OperatorCounter(TorchDispatchMode):
    """A context in which every operator that runs is counted for the phase that `phase` names at that time.

    The mode is carried over to autograd's threads, so that backward operators are seen where `backward` is called
    inside of it. In the phase `backward`, what runs with gradients enabled is a forward that is run again.
    """

    def __init__(self, phase: str = "forward") -> None:
        super().__init__()
        self.phase = phase
        self._formulas = operator_classes.flop_formulas()
        self._rows: dict[Any, OperatorRow] = {}

    def rows(self) -> list[OperatorRow]:
        """Return the operators so far, by phase, class, name and type."""
        return list(self._rows.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, decomposed where it is only a composition of others, and count it."""
        kwargs = kwargs or {}
        namespace, name = func._schema.name.split("::")
        if namespace in ("prim", "profiler"):
            return func(*args, **kwargs)
        with self:  # inference mode does not take compositions apart by itself
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        again = self.phase == "backward" and torch.is_grad_enabled()
        out = func(*args, **kwargs)
        inputs = list(operator_classes.tensors_in([*args, *kwargs.values()]))
        if not operator_classes.does_no_work(func, inputs, list(operator_classes.tensors_in(out))):
            self._count(func, name, args, kwargs, out, inputs, again)
        return out

    def _count(self, func: Any, name: str, args: Any, kwargs: Any, out: Any, inputs: list[Tensor], again: bool) -> None:
        kind = operator_classes.operator_class(name, self.phase)
        if kind == "attention" and _multiplies_a_weight(name, inputs):
            kind = "matmul"
        flops = self._flops(func, name, kind, args, kwargs, out, inputs)
        row = OperatorRow(
            phase=self.phase,
            operator_class=kind,
            name=func._schema.name,
            dtype=str(inputs[0].dtype).removeprefix("torch.") if flops else "",
            calls=1,
            flops=flops,
            recomputed_flops=flops if again else round(flops * operator_classes.repeat_share(name)),
            bytes=operator_classes.count_bytes(func, args, kwargs, out),
        )
        before = self._rows.get(row.key)
        self._rows[row.key] = before.plus(row) if before else row

    def _flops(self, func: Any, name: str, kind: str, args: Any, kwargs: Any, out: Any, inputs: list[Tensor]) -> int:
        formula = self._formulas.get(name) or self._formulas.get(name.removesuffix("_"))
        flops = int(formula(*args, **kwargs, out_val=out)) if formula else 0
        must = kind in operator_classes.COUNTED and not operator_classes.PRODUCT_FREE.search(name)
        if must and flops == 0 and all(t.numel() for t in inputs):
            why = "its formula gives 0" if formula else "there is no formula for it"
            shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
            raise UncountedOperator(
                f"{func} multiplies matrices (class {kind}), but {why}; inputs: {shapes}. "
                "Add one to flop_formulas in llmbench/worker/torch_engine/operator_classes.py"
            )
        return flops


def _multiplies_a_weight(name: str, inputs: list[Tensor]) -> bool:
    """Return whether a batched product is one with a matrix that is the same for the whole batch."""
    return name.startswith("bmm") and any(t.shape[0] > 1 and t.stride(0) == 0 and any(t.stride()) for t in inputs)


def difference(rows: Iterable[OperatorRow], minus: Iterable[OperatorRow]) -> list[OperatorRow]:
    """Return `rows` without the work of `minus`, whatever the phases are called; rows that become empty are left out.

    Raises ValueError when `minus` multiplies matrices that `rows` does not: then it is no beginning of the same work.
    """
    taken = {row.key[1:]: row for row in minus}
    rest = [row.plus(taken.pop(row.key[1:]), -1) if row.key[1:] in taken else row for row in rows]
    strange = [row.name for row in (*taken.values(), *(r for r in rest if r.calls < 0)) if row.flops]
    if strange:
        raise ValueError(f"not a part of the same work: {sorted(strange)}")
    return [row for row in rest if row.calls > 0]


def totals(rows: Iterable[OperatorRow]) -> dict[str, int]:
    """Return sums over `rows`: calls, flops, recomputed_flops, bytes."""
    every = list(rows)
    return {name: sum(getattr(row, name) for row in every) for name in ("calls", "flops", "recomputed_flops", "bytes")}
