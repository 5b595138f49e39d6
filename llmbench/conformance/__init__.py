"""The conformance kit: whether a plugin keeps the contract of its hook. `llmbench plugins check NAME` prints it.

In a plugin's own tests, with the fixture that llmbench brings to pytest::

    import pytest
    from llmbench import conformance

    @pytest.mark.parametrize("check", conformance.names("model"))
    def test_conforms(check, llmbench_conformance):
        llmbench_conformance("model", "my-model", check)

Checks run in a process of their own with a time limit each, so that a plugin that hangs or crashes fails and no more.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from llmbench.conformance.running import FAILED, NOT_HERE, PASSED, STATUSES, Verdict, check, targets
from llmbench.conformance.subject import CHECKS, Check

__all__ = ["FAILED", "NOT_HERE", "PASSED", "STATUSES", "Verdict", "check", "known", "names", "targets"]

_MODULES = (
    "common",
    "models",
    "tasks",
    "datasets",
    "metrics",
    "precisions",
    "causes",
    "remedies",
    "reporters",
    "engines",
)


def known() -> Mapping[str, Mapping[str, Check]]:
    """Return kind -> name -> check, of all checks."""
    for name in _MODULES:
        importlib.import_module(f"llmbench.conformance.{name}")
    return CHECKS


def names(kind: str) -> list[str]:
    """Return the names of the checks of a kind, in the order in which they are made. Raises KeyError for no kind."""
    return list(known()[kind])
