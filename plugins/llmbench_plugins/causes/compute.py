"""`compute`: the arithmetic of matrix products. Removed by half: linear layers on half of the rows, output repeated.

Shapes: `N` rows, `I` inputs, `O` outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import llmbench
from llmbench_plugins.causes._operators import seconds_of
from llmbench_plugins.causes._products import PRODUCTS, products, shapes_of_products

LEAST_ROWS = 64  # half of fewer rows would be another kernel
HALF = (0.35, 0.85)  # half of the rows take about half of the time where arithmetic is the limit


def _big(weight: Any, x: Any) -> bool:
    return x.numel() // weight.shape[1] >= LEAST_ROWS


def _half_rows() -> Any:
    import torch
    from torch.nn import functional

    class HalfRows(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
            x_NI = x.reshape(-1, x.shape[-1])
            half = (len(x_NI) + 1) // 2
            ctx.save_for_backward(x_NI[:half], weight)
            ctx.shape, ctx.biased = x.shape, bias is not None
            y = functional.linear(x_NI[:half], weight, bias)
            return torch.cat([y, y[: len(x_NI) - half]]).view(*x.shape[:-1], len(weight))

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            x_NI, weight = ctx.saved_tensors
            grad_NO = grads[0].reshape(-1, grads[0].shape[-1])
            mine = grad_NO[: len(x_NI)]
            back = torch.ops.aten.mm(mine, weight)  # `@` would be halved again
            grad_x = torch.cat([back, back[: len(grad_NO) - len(x_NI)]]).view(ctx.shape)
            return grad_x, torch.ops.aten.mm(mine.t(), x_NI), grad_NO.sum(0) if ctx.biased else None

    return HalfRows


def _cast(tensors: list[Any], device: str) -> list[Any]:
    """Return the tensors as autocast would have them: a custom function is not seen by it."""
    import torch

    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return [t if t is None else t.to(dtype) for t in tensors]


@contextlib.contextmanager
def _halve_products(device: str) -> Iterator[None]:
    function = _half_rows()

    def product(x: Any, weight: Any, bias: Any, original: Callable[[], Any]) -> Any:
        return function.apply(*_cast([x, weight, bias], device)) if _big(weight, x) else original()

    with products(product):
        yield


def _check(trial: llmbench.Trial) -> list[tuple[int, int, int, Any]]:
    if trial.generates:
        raise llmbench.Unisolated("half of the rows would generate other tokens")
    if trial.compiled:
        raise llmbench.Unisolated("compiled: its products cannot be replaced")
    seen = [s for s in shapes_of_products(trial) if s[0] >= LEAST_ROWS]
    if not seen:
        raise llmbench.DoesNotApply(f"no product with a weight has {LEAST_ROWS} rows or more")
    return seen


def _half_share(trial: llmbench.Trial, shape: tuple[int, int, int, Any]) -> float:
    """Return the time of a product of half of the rows, as the changed arm does it, over that of all rows."""
    import torch
    from torch.nn import functional

    rows, inputs, outputs, parameter = shape
    made = {"device": parameter.device, "dtype": parameter.dtype, "requires_grad": trial.trains}
    x, weight = torch.randn(rows, inputs, **made), torch.randn(outputs, inputs, **made)
    half = _half_rows().apply
    calls = max(1, int(1e8 / (2 * rows * inputs * outputs)))

    def times(product: Callable[..., Any]) -> float:
        def call() -> None:
            with torch.set_grad_enabled(trial.trains):
                for _ in range(calls):
                    out = product(x, weight, None)
                    if trial.trains:
                        torch.autograd.grad(out, [x, weight], out.detach())

        return min(trial.seconds(call, least=15))  # of what is disturbed, only the shape of the work counts

    return times(half) / times(functional.linear)


def _largest(seen: list[tuple[int, int, int, Any]]) -> tuple[int, int, int, Any]:
    """Return the shape on which a step does most arithmetic."""
    work: dict[tuple[int, int, int], float] = {}
    for n, i, o, _ in seen:
        work[n, i, o] = work.get((n, i, o), 0.0) + n * i * o
    return max(seen, key=lambda s: work[s[:3]])


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the seconds per step in products with weights, and the share of it that half of the rows take."""
    seen = _check(trial)
    part_s = seconds_of(trial, lambda name, tensors: name in PRODUCTS)
    half = _half_share(trial, _largest(seen))
    trial.scratch["compute"] = half
    return {"part_s": part_s, "half_share": half, "products": len(seen)}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - t_matmul / 2): products twice as fast."""
    return llmbench.without(record, [t / 2 for t in facts["part_s"]])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Multiply half of the rows; the other half of the output repeats them. Copying that half is taken into account."""
    seen = _check(trial)
    found = trial.scratch.get("compute") or _half_share(trial, _largest(seen))
    if not HALF[0] <= found <= HALF[1]:
        raise llmbench.Unisolated(f"half of the rows take {100 * found:.0f} % of the time: not the same kernel")
    return llmbench.Intervention(lambda: _halve_products(trial.device), share=min(1.0, 2 * (1 - found)))


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="compute",
            axis="why",
            cause_class="hardware",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="the arithmetic of matrix products; the speed-up is that of products twice as fast",
            advice="lower precision (bf16, fp16, fp8), a faster device, fewer or smaller products",
        )
    ]
