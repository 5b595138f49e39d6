"""A check: its subject, how it fails, and the list of all checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.plugins.registry import Owner, Registry


class Failed(Exception):
    """The plugin breaks its contract; the message says how, in one line."""


class NotHere(Exception):
    """The check does not apply to this plugin, or cannot be made here; the message says why."""


@dataclass(frozen=True)
class Subject:
    """The plugin under test."""

    kind: str
    name: str  # as a suite names it
    spec: Any
    owner: Owner
    registry: Registry
    files: tuple[str, ...]  # plugin files that were given
    folder: Path  # where a check may write

    def require(self, good: bool, why: str) -> None:
        """Raise Failed with `why` unless `good`."""
        if not good:
            raise Failed(why)


@dataclass(frozen=True)
class Check:
    """One line of the contract."""

    name: str
    says: str  # what is true where it passes
    run: Callable[[Subject], None]


#: kind -> name -> check, in the order in which they run
CHECKS: dict[str, dict[str, Check]] = {}


def check(*kinds: str, says: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Make a function a check of plugins of `kinds`, named as the function."""

    def add(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        name = function.__name__.strip("_").replace("_", "-")
        for kind in kinds:
            CHECKS.setdefault(kind, {})[name] = Check(name, says, function)
        return function

    return add


def one_line(error: BaseException) -> str:
    """Return the error in one line, with its place in the plugin where there is one."""
    import traceback

    text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/llmbench/" not in f.filename and "site-packages" not in f.filename]
    return f"{text} ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else text
