"""Checks of arguments from Python, with an error of one line that says what to write instead."""

from __future__ import annotations

from collections.abc import Sequence

from llmbench.contract.errors import UserError


def check_budget(seconds: float, name: str) -> None:
    """Raise UserError unless the time is above 0."""
    if not seconds > 0:
        raise UserError(f"{name} {seconds:g}: give seconds, such as 60")


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """Return `value`; raise UserError, which lists `known`, where it is none of them."""
    if value not in known:
        raise UserError(f"{name} {value!r}: write one of: {', '.join(known)}")
    return value
