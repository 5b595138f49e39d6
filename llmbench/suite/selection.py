"""Which cells to keep: the expressions of `-k`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from llmbench.contract.cell import Cell
from llmbench.contract.errors import UserError

Test = Callable[[Cell], bool]


def word_of(value: object) -> str:
    """Return how a field's value is written in a suite or in an expression."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_selection(expression: str) -> Callable[[Cell], bool]:
    """Return a test of cells: words joined by `and`, `or`, `not` and parentheses.

    A word matches a cell when it is the cell's id, the value of a field, or part of the data set's or model's name.
    Raises UserError, one line, for a bad expression.
    """
    tokens = re.findall(r"[()]|[^\s()]+", expression)
    test, rest = _parse_or(expression, tokens)
    if rest:
        raise _bad_keep(expression, f"unexpected {rest[0]!r}")
    return test


def _bad_keep(expression: str, message: str) -> UserError:
    return UserError(f"-k {expression}: {message}; write words with and, or, not and parentheses")


def _parse_or(expression: str, tokens: list[str]) -> tuple[Test, list[str]]:
    test, tokens = _parse_and(expression, tokens)
    while tokens and tokens[0] == "or":
        right, tokens = _parse_and(expression, tokens[1:])
        test = _either(test, right)
    return test, tokens


def _parse_and(expression: str, tokens: list[str]) -> tuple[Test, list[str]]:
    test, tokens = _parse_not(expression, tokens)
    while tokens and tokens[0] == "and":
        right, tokens = _parse_not(expression, tokens[1:])
        test = _both(test, right)
    return test, tokens


def _parse_not(expression: str, tokens: list[str]) -> tuple[Test, list[str]]:
    if not tokens:
        raise _bad_keep(expression, "it ends too early")
    word, *rest = tokens
    if word == "not":
        inner, rest = _parse_not(expression, rest)
        return (lambda cell: not inner(cell)), rest
    if word == "(":
        inner, rest = _parse_or(expression, rest)
        if not rest or rest[0] != ")":
            raise _bad_keep(expression, "a parenthesis is not closed")
        return inner, rest[1:]
    if word in (")", "and", "or"):
        raise _bad_keep(expression, f"unexpected {word!r}")
    return (lambda cell: _has_word(cell, word)), rest


def _either(left: Test, right: Test) -> Test:
    return lambda cell: left(cell) or right(cell)


def _both(left: Test, right: Test) -> Test:
    return lambda cell: left(cell) and right(cell)


def _has_word(cell: Cell, word: str) -> bool:
    values = [v for name, v in dataclasses.asdict(cell).items() if v is not None and name != "parent"]
    parts = cell.model.partition("@")[0].split(":")
    return (
        word == cell.cell_id or word in cell.dataset or word in parts or any(word == word_of(value) for value in values)
    )
