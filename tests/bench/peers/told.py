"""A plugin: the built-in models under the names `told-lstm`, `told-bert`, `told-gpt`, which tell a pipe of each step.

At the start of each forward pass in training the module writes the number of its tokens (without padding) as a line to
the named pipe in the variable `TOLD_PIPE`. It says nothing of time: the reader has a clock of its own. The same module
runs in every tool, so what it costs (some microseconds) is the same in all of them.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import llmbench
from llmbench_plugins.models import bert, gpt, recurrent

PREFIX = "told-"
PIPE = "TOLD_PIPE"


def tell_steps(module: Any) -> Any:
    """Return `module`, which from now on tells the pipe of each step."""
    if PIPE not in os.environ:
        return module
    pipe = os.open(os.environ[PIPE], os.O_WRONLY)

    def tell(told: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if told.training:
            os.write(pipe, b"%d\n" % int(kwargs["attention_mask"].sum()))

    module.register_forward_pre_hook(tell, with_kwargs=True)
    return module


def told(spec: llmbench.ModelSpec) -> llmbench.ModelSpec:
    """Return `spec` under another name, with modules that tell."""
    return dataclasses.replace(
        spec, name=PREFIX + spec.name, build=lambda request: tell_steps(spec.build(request)), preload=spec.preload
    )


@llmbench.hookimpl
def llmbench_models() -> list[llmbench.ModelSpec]:
    """Return the wrapped models."""
    return [told(spec) for module in (recurrent, bert, gpt) for spec in module.llmbench_models()]
