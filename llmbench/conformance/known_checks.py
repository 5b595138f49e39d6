"""The checks by kind of plugin. Each module of checks registers its own when it is imported."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from llmbench.conformance.subject import CHECKS, Check
from llmbench.contract.kinds import PLURALS

_MODULES = ("common", *PLURALS.values())


def known() -> Mapping[str, Mapping[str, Check]]:
    """Return kind -> name -> check, of all checks."""
    for name in _MODULES:
        importlib.import_module(f"llmbench.conformance.{name}")
    return CHECKS


def names(kind: str) -> list[str]:
    """Return the names of the checks of a kind, in the order in which they run. Raises KeyError for no kind."""
    return list(known()[kind])
