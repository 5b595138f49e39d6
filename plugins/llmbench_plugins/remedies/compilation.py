"""`compile`: fused operators through torch.compile. `cuda-graphs`: the same, replayed as CUDA graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import llmbench
from llmbench_plugins.remedies._record import forecast_headroom


def _compile(cell: Any) -> Any:
    if cell.compile or cell.cuda_graphs:
        raise llmbench.DoesNotApply("it is compiled")
    return dataclasses.replace(cell, compile=True)


def _graphs(cell: Any) -> Any:
    if cell.cuda_graphs:
        raise llmbench.DoesNotApply("it replays CUDA graphs")
    return dataclasses.replace(cell, compile=True, cuda_graphs=True)


def _predict_fusion(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    """Nothing in a record says which operators a compiler will fuse, so nothing is predicted."""
    return llmbench.Forecast(None, "what a compiler fuses is only known when it has")


def _predict_replay(record: Mapping[str, Any], ceilings: Mapping[str, Any]) -> llmbench.Forecast:
    return forecast_headroom(record, "host", "the device no longer waits for the host")


@llmbench.hookimpl
def llmbench_remedies() -> list[llmbench.RemedySpec]:
    """Return the remedies."""
    return [
        llmbench.RemedySpec(
            name="compile",
            answers=("kernel", "host", "memory_bandwidth"),
            change=_compile,
            predict=_predict_fusion,
            description="torch.compile: operators fused, less of the host between them",
            same_updates=True,
            family="compile",
        ),
        llmbench.RemedySpec(
            name="cuda-graphs",
            answers=("kernel", "host"),
            change=_graphs,
            predict=_predict_replay,
            description="torch.compile that replays each step's kernels as CUDA graphs",
            same_updates=True,
            family="compile",
            devices=("cuda",),
        ),
    ]
