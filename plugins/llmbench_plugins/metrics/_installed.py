"""Whether the library of a metric is there, asked before a model is trained for hours to be scored by it."""

from __future__ import annotations

import importlib.util


def check_installed(module: str) -> None:
    """Raise ModuleNotFoundError where a module is not installed; it is not imported."""
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
