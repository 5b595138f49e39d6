"""Nested rows as flat ones: names are joined by dots, such as `shares.input`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbench.contract.record import Row


def flatten(row: Row, prefix: str = "", without: frozenset[str] = frozenset()) -> Iterator[tuple[str, object]]:
    """Yield names and values of nested mappings. Lists are not taken apart; fields of `without` are left out."""
    for name, value in row.items():
        if name in without:
            continue
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.", without)
        else:
            yield f"{prefix}{name}", value


def flat_row(row: Row) -> dict[str, object]:
    """Return a flat row for columns of one type: a list of texts or of numbers stays a list, any other is JSON text."""
    return {name: _plain_list(value) if isinstance(value, list | tuple) else value for name, value in flatten(row)}


def spread_row(row: Row, without: frozenset[str] = frozenset()) -> dict[str, object]:
    """Return a flat row of plain values: each item of a list has a name of its own, two are `.low` and `.high`."""
    flat: dict[str, object] = {}
    for name, value in flatten(row, without=without):
        if isinstance(value, list):
            ends = ("low", "high") if len(value) == 2 else range(len(value))
            flat |= {f"{name}.{end}": item for end, item in zip(ends, value, strict=True)}
        else:
            flat[name] = value
    return flat


def as_text(value: object) -> str:
    """Return a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _plain_list(items: Sequence[object]) -> object:
    if all(isinstance(item, str) for item in items):
        return list(items)
    numbers = [float(item) for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
    return numbers if len(numbers) == len(items) else as_text(items)
