"""`vocabulary`: the output projection and the loss over it. Removed by an output head of 256 rows.

Embedding, its gradient and the optimizer stay: the head's parameter keeps a gradient of its whole size.
Shapes: `V` vocabulary, `H` hidden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._operators import seconds_of
from llmbench_plugins.causes._products import parameter_of, products, shapes_of_products, time_products
from llmbench_plugins.causes._swap import Function, Place, substitute

ROWS = 256
LEAST = 512  # a smaller vocabulary costs little more than 256 rows


def _find(trial: llmbench.Trial) -> tuple[int, Any]:
    """Return V and the head's parameter (V, H): the loss's classes, and the product that gives them."""
    import torch

    if not trial.trains:
        raise llmbench.Unisolated("without a loss a head of 256 rows would change what is predicted")
    if trial.compiled:
        raise llmbench.Unisolated("compiled: its operators cannot be replaced")
    classes: list[int] = []
    heads: dict[int, Any] = {}  # what was last multiplied by, before a loss over as many classes
    last: dict[int, Any] = {}

    def note(inner: Function) -> Function:
        def call(
            input: Any,  # noqa: A002
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            classes.append(input.shape[1] if input.dim() > 1 else input.shape[0])
            if classes[-1] in last:
                heads.setdefault(classes[-1], last[classes[-1]])
            return inner(input, *args, **kwargs)

        return call

    def product(x: Any, weight: Any, bias: Any, original: Any) -> Any:
        last[weight.shape[0]] = parameter_of(weight)
        return original()

    with products(product), substitute(_losses(), note):
        trial.step(trial.pool[0])
    known = {m.num_embeddings for m in trial.module.modules() if isinstance(m, torch.nn.Embedding)}
    found = list(heads) if classes else [v for v in known if v in last]
    heads = heads or last
    if not found:
        if not classes:
            raise llmbench.DoesNotApply("no output projection over a vocabulary found")
        raise llmbench.DoesNotApply(f"the loss has {max(classes)} classes and no projection onto them")
    size = max(found)
    if size < LEAST:
        raise llmbench.DoesNotApply(f"the loss has {size} classes")
    if heads[size].shape[0] != size:
        raise llmbench.Unisolated("the output projection is stored the other way round")
    return size, heads[size]


def _part_s(trial: llmbench.Trial, size: int, head: Any) -> list[float]:
    """Return the seconds per step of what is done over the vocabulary.

    Where nothing but the head has V inputs or outputs: of the operators that read or write something of V columns,
    multiply for them, or add the head's gradient to another. Else of the head's product and of the loss, without what
    lies between.
    """
    if all(i != size and (o != size or p is head) for _, i, o, p in shapes_of_products(trial)):
        shape = tuple(head.shape)
        return seconds_of(
            trial, lambda name, tensors: _over(size, name, tensors) or _is_sum_of_gradients(shape, name, tensors)
        )

    @contextlib.contextmanager
    def parts(timer: Function) -> Iterator[None]:
        with time_products(timer, lambda weight: parameter_of(weight) is head), substitute(_losses(), timer):
            yield

    return trial.timed(parts)


def _over(size: int, name: str, tensors: Sequence[Any]) -> bool:
    if "embedding" in name:
        return False
    wide = any(t.dim() > 1 and t.shape[-1] == size for t in tensors)
    return wide or (("mm" in name or "linear" in name) and any(size in t.shape for t in tensors))


def _is_sum_of_gradients(shape: tuple[int, ...], name: str, tensors: Sequence[Any]) -> bool:
    """Return whether the head's gradient is added to another: of an embedding that shares it, or of an earlier pass."""
    return name in ("add", "add_") and all(tuple(t.shape) == shape for t in tensors)


def _losses() -> list[Place]:
    import torch

    return [(torch._C._nn, name) for name in ("cross_entropy_loss", "nll_loss_nd")]


@contextlib.contextmanager
def _small(trial: llmbench.Trial, size: int, head: Any) -> Iterator[None]:
    """Multiply by 256 rows and take targets modulo 256; numbers on modules and configurations that are V follow."""
    import torch

    rows = head.detach()[:ROWS].clone().requires_grad_(head.requires_grad)
    whole = torch.zeros_like(head)

    def product(x: Any, weight: Any, bias: Any, original: Any) -> Any:
        if parameter_of(weight) is not head or weight.shape[0] != size:
            return original()
        from torch.nn import functional

        return functional.linear(x, rows, None if bias is None else bias[:ROWS])

    def loss(inner: Function) -> Function:
        def call(
            input: Any,  # noqa: A002
            target: Any,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            columns = input.shape[1] if input.dim() > 1 else input.shape[0]
            if columns == ROWS and not target.is_floating_point():
                target = torch.where(target < 0, target, target % ROWS)
            return inner(input, target, *args, **kwargs)

        return call

    def with_gradient(inner: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            if head.grad is None:
                head.grad = whole
            rows.grad = None
            return inner(*args, **kwargs)

        return call

    numbers = [
        (owner, name)
        for module in trial.module.modules()
        for owner in (module, getattr(module, "config", None))
        if owner is not None and not isinstance(owner, torch.nn.Embedding) and hasattr(owner, "__dict__")
        for name, value in vars(owner).items()
        if type(value) is int and value == size
    ]
    numbers = list({(id(owner), name): (owner, name) for owner, name in numbers}.values())
    update = [(trial.optimizer, "step")] if trial.optimizer is not None else []
    with contextlib.ExitStack() as stack:
        for change in (products(product), substitute(_losses(), loss), substitute(update, with_gradient)):
            stack.enter_context(change)
        stack.enter_context(substitute(numbers, lambda _: ROWS))  # type: ignore[arg-type, return-value]
        yield


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return V and the seconds per step of what is done over it."""
    size, head = _find(trial)
    return {"vocabulary": size, "part_s": _part_s(trial, size, head)}


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - t_head (1 - 256 / V))."""
    share = 1 - ROWS / facts["vocabulary"]
    return llmbench.without(record, [t * share for t in facts["part_s"]])


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Give the head 256 rows."""
    size, head = _find(trial)
    return llmbench.Intervention(lambda: _small(trial, size, head), check={"vocabulary": size, "rows": ROWS})


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="vocabulary",
            axis="where",
            cause_class="algorithm",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="the output projection and the loss over the vocabulary",
            advice="logits only where there is a label, a fused or chunked loss, a smaller vocabulary",
        )
    ]
