"""Targets of `llmbench diagnose`: `llmbench.planted.targets:NAME` for each case, `NAME_unplanted` without its plant."""

from __future__ import annotations

from collections.abc import Callable

import torch

from llmbench.planted import cases, hosts, plants

UNPLANTED = "_unplanted"


def build(case: cases.Case, *, planted: bool) -> hosts.Workload:
    """Return the case's workload; the same seed in every process."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    if case.plant is None:
        return hosts.HOSTS[case.host]()
    return plants.PLANTS[case.plant](case.host, case.strength, planted)


def __getattr__(name: str) -> Callable[[], dict[str, object]]:
    planted = not name.endswith(UNPLANTED)
    for case in cases.every():
        if case.name == name.removesuffix(UNPLANTED):
            return lambda: build(case, planted=planted).target()
    raise AttributeError(name)


def __dir__() -> list[str]:
    return [case.name for case in cases.every()]
