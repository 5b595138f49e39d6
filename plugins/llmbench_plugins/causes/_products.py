"""All the ways in which torch code multiplies by a weight, with one callback for all.

Shapes: `N` rows, `I` inputs, `O` outputs; a weight is (O, I).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from llmbench_plugins.causes._swap import Function, places_of, substitute

#: Operators that multiply by a weight, forward and backward; products of two activations are `bmm`.
PRODUCTS = frozenset({"mm", "addmm", "linear", "mkldnn_linear", "_addmm_activation"})
#: (x, weight (O, I), bias or None, what does it as it is) -> x times weight, bias added.
Product = Callable[[Any, Any, Any, Callable[[], Any]], Any]


def parameter_of(tensor: Any) -> Any | None:
    """Return the parameter that a matrix is, or is a view (a transpose, say) of."""
    import torch

    base = tensor if isinstance(tensor, torch.nn.Parameter) else getattr(tensor, "_base", None)
    return base if isinstance(base, torch.nn.Parameter) and tensor.dim() == 2 else None


@contextlib.contextmanager
def products(product: Product) -> Iterator[None]:
    """Call `product` for every product with a parameter matrix; what it returns is the product."""
    import torch
    from torch.nn import functional

    inside = False

    def guard(x: Any, weight: Any, bias: Any, original: Callable[[], Any]) -> Any:
        nonlocal inside
        if inside:
            return original()
        inside = True
        try:
            return product(x, weight, bias, original)
        finally:
            inside = False

    def linear(inner: Function) -> Function:
        def call(input: Any, weight: Any, bias: Any = None) -> Any:  # noqa: A002
            if parameter_of(weight) is None:
                return inner(input, weight, bias)
            return guard(input, weight, bias, lambda: inner(input, weight, bias))

        return call

    def matmul(inner: Function) -> Function:
        def call(x: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
            fits = isinstance(other, torch.Tensor) and isinstance(x, torch.Tensor) and not args and not kwargs
            if not fits or x.dim() < 2 or parameter_of(other) is None:
                return inner(x, other, *args, **kwargs)
            return guard(x, other.t(), None, lambda: inner(x, other))

        return call

    def addmm(inner: Function) -> Function:
        def call(bias: Any, x: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
            if args or kwargs or bias.dim() != 1 or parameter_of(other) is None:
                return inner(bias, x, other, *args, **kwargs)
            return guard(x, other.t(), bias, lambda: inner(bias, x, other))

        return call

    with contextlib.ExitStack() as stack:
        stack.enter_context(substitute(places_of(functional, "linear"), linear))
        for owner, name in ((torch, "matmul"), (torch, "mm")):
            stack.enter_context(substitute(places_of(owner, name), matmul))
        for name in ("matmul", "mm", "__matmul__"):
            stack.enter_context(substitute([(torch.Tensor, name)], matmul))
        stack.enter_context(substitute(places_of(torch, "addmm"), addmm))
        yield


@contextlib.contextmanager
def time_products(timer: Callable[[Function], Function], wanted: Callable[[Any], bool]) -> Iterator[None]:
    """Time the products with weights that are wanted, backward included."""

    def product(x: Any, weight: Any, bias: Any, original: Callable[[], Any]) -> Any:
        if not wanted(weight):
            return original()
        from torch.nn import functional

        return timer(lambda given: functional.linear(given, weight, bias))(x)

    with products(product):
        yield


def shapes_of_products(trial: Any) -> list[tuple[int, int, int, Any]]:
    """Return (N, I, O, parameter) of every product of a step on the pool's first batch."""
    seen: list[tuple[int, int, int, Any]] = []

    def note(x: Any, weight: Any, bias: Any, original: Callable[[], Any]) -> Any:
        outputs, inputs = weight.shape
        seen.append((x.numel() // inputs, inputs, outputs, parameter_of(weight)))
        return original()

    with products(note):
        trial.step(trial.pool[0])
    return seen
