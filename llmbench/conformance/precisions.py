"""The contract of a numeric setting: it is applied, a model trains with it, and other devices refuse it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from llmbench.conformance import models
from llmbench.conformance.subject import Failed, NotHere, Subject, check
from llmbench.contract.errors import Unsupported

DEVICES = ("cpu", "cuda", "mps")
HEAD = "classify"
STEPS = 20


def hosts(subject: Subject) -> Iterator[tuple[Subject, Any]]:
    """Yield built-in models with an engine that has this precision, on the CPU. Raises NotHere where none can run."""
    if "cpu" not in subject.spec.devices:
        raise NotHere(f"it is for {', '.join(subject.spec.devices)}, and this is a CPU")
    reasons = []
    for name in subject.registry.names("model"):
        provided = subject.registry.by_kind["model"][name]
        if HEAD not in provided.spec.layouts or provided.spec.engine != "torch":
            continue
        host = Subject("model", name, provided.spec, provided.owner, subject.registry, subject.files, subject.folder)
        try:
            engine = models.engine_of(host, HEAD, precision=subject.spec)
            engine.loss_value(engine.forward(engine.copy(models.batch_of(host.spec, HEAD, models.features_of(HEAD)))))
        except Unsupported as reason:
            reasons.append(f"{name}: {reason}")
            continue
        except RuntimeError as error:
            reasons.append(f"{name}: {str(error).splitlines()[0]}")
            continue
        yield host, engine
        return
    raise NotHere(f"no model can run with it here: {reasons[0] if reasons else 'there is none that classifies'}")


@check("precision", says="its dtypes and devices are torch's")
def spec(subject: Subject) -> None:
    """Look the names up."""
    import torch

    one, require = subject.spec, subject.require
    for field in ("parameters", "autocast"):
        name = getattr(one, field)
        good = name is None or isinstance(getattr(torch, name, None), torch.dtype)
        require(good, f"{field} {name!r} is no dtype of torch; write float32, bfloat16, float16 ...")
        require(name is None or getattr(torch, name).is_floating_point, f"{field} {name!r} is no floating-point dtype")
    require(one.matmul in ("ieee", "tf32"), f"matmul {one.matmul!r}: write ieee or tf32")
    strange = [device for device in one.devices if device not in DEVICES]
    require(bool(one.devices) and not strange, f"devices {one.devices}: write some of {', '.join(DEVICES)}")
    needless = one.grad_scaling and "float16" not in (one.parameters, one.autocast)
    require(not needless, "grad_scaling is for float16: other dtypes have the exponents of float32")


@check("precision", says="parameters and operators have the dtypes that it names")
def applied(subject: Subject) -> None:
    """Build a model with it and look at its parameters and at what its layers compute."""
    import torch

    for host, engine in hosts(subject):
        wanted = getattr(torch, subject.spec.parameters)
        dtypes = {p.dtype for p in engine.module.parameters()}
        subject.require(dtypes == {wanted}, f"parameters of {host.name} are {dtypes}, and it says {wanted}")
        layer_dtypes = _layer_dtypes(host, engine)
        wanted = getattr(torch, subject.spec.autocast or subject.spec.parameters)
        subject.require(
            layer_dtypes <= {wanted}, f"linear layers of {host.name} compute in {layer_dtypes}, and it says {wanted}"
        )
        subject.require(
            subject.spec.element_bytes == wanted.itemsize, f"element_bytes says {subject.spec.element_bytes}"
        )


def _layer_dtypes(host: Subject, engine: Any) -> set[Any]:
    """Return the dtypes that linear layers compute in one forward pass."""
    import torch

    dtypes: set[Any] = set()
    for layer in engine.module.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda _module, _given, out: dtypes.add(out.dtype))
    engine.forward(engine.copy(models.batch_of(host.spec, HEAD, models.features_of(HEAD))))
    return dtypes


@check("precision", says="a model learns with it")
def learns(subject: Subject) -> None:
    """Train a built-in model on one batch."""
    for host, _ in hosts(subject):
        engine = models.engine_of(host, HEAD, precision=subject.spec)
        rate = host.spec.learning_rate.get("finetune", 1e-3)
        engine.prepare_training(learning_rate=rate, steps=2 * STEPS, optimizer="adamw")
        losses = models.train_steps(engine, models.batch_of(host.spec, HEAD, models.features_of(HEAD)), STEPS)
        falls = all(map(math.isfinite, losses)) and losses[-1] < losses[0]
        subject.require(falls, f"{host.name}: the loss goes from {losses[0]:.4g} to {losses[-1]:.4g} in {STEPS} steps")


@check("precision", says="it is refused on devices that it does not name")
def unsupported(subject: Subject) -> None:
    """Ask for it where it is not for."""
    if "cpu" in subject.spec.devices:
        raise NotHere("it names the CPU, and there is no other device to refuse")
    try:
        models.open_engine(subject, "torch", subject.spec)
    except Unsupported:
        return
    raise Failed("an engine takes it on the CPU, which it does not name")
