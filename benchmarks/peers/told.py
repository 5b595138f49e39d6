"""A plugin: the built-in models under the names `told-lstm`, `told-bert`, `told-gpt`, which tell a pipe of each step.

At the start of each forward pass in training the module writes the number of its tokens (without padding) as a line to
the named pipe in the variable `TOLD_PIPE`. It says nothing of time: the reader has a clock of its own. The same module
runs in every tool, so what it costs (some microseconds) is the same in all of them.

Where `TOLD_GATE` names a pipe too, the module waits there for leave: eight digits, the number of steps that it may take
(`turns.py`); beside that pipe it writes its process id to `TOLD_GATE.pid`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llmbench
from llmbench_plugins.models import bert, gpt, recurrent

PREFIX = "told-"
PIPE, GATE = "TOLD_PIPE", "TOLD_GATE"
DIGITS = 8


def tell_steps(module: Any) -> Any:
    """Return `module`, which from now on tells the pipe of each step."""
    if PIPE not in os.environ:
        return module
    pipe = os.open(os.environ[PIPE], os.O_WRONLY)
    gate = gate_of(os.environ.get(GATE))

    def tell(told: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if told.training:
            os.write(pipe, b"%d\n" % int(kwargs["attention_mask"].sum()))
            gate()

    module.register_forward_pre_hook(tell, with_kwargs=True)
    return module


def gate_of(path: str | None) -> Callable[[], None]:
    """Return what waits until a step may be taken; without a pipe it never does."""
    if path is None:
        return lambda: None
    pipe, left = os.open(path, os.O_RDONLY), 0
    Path(f"{path}.pid").write_text(str(os.getpid()), encoding="utf-8")

    def wait() -> None:
        nonlocal left
        if not left:
            left = int(os.read(pipe, DIGITS))
        left -= 1

    return wait


def told(spec: llmbench.ModelSpec) -> llmbench.ModelSpec:
    """Return `spec` under another name, with modules that tell."""
    return dataclasses.replace(
        spec, name=PREFIX + spec.name, build=lambda request: tell_steps(spec.build(request)), preload=spec.preload
    )


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the wrapped models."""
    return [told(spec) for module in (recurrent, bert, gpt) for spec in module.llmbench_models()]
