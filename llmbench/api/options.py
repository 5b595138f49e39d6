"""Checks of what Python callers give, with one line that says what to write instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmbench.contract.errors import UserError

if TYPE_CHECKING:
    pass


def check_budget(seconds: float, name: str) -> None:
    """Raise UserError for what is no time."""
    if not seconds > 0:
        raise UserError(f"{name} {seconds:g}: give seconds, such as 60")


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """Return `value`; raise UserError that suggests a name where it is none of `known`."""
    if value not in known:
        raise UserError(f"{name} {value!r}: write one of: {', '.join(known)}")
    return value
