"""`torch`: drives an `nn.Module`. The engine is part of the worker, which traces and verifies with torch, too."""

from __future__ import annotations

import llmbench


def open_engine(request: llmbench.EngineRequest) -> llmbench.Engine:
    """Return the engine; raises Unsupported where the device is absent."""
    from llmbench.worker.torch_engine.engine import TorchEngine

    return TorchEngine(**vars(request))


@llmbench.hookimpl
def llmbench_engines() -> list[llmbench.EngineSpec]:
    """Return the engine."""
    return [llmbench.EngineSpec("torch", open_engine, "PyTorch modules on CPU, CUDA and MPS", preload=("torch",))]
