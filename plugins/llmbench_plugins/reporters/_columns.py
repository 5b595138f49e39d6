"""Columns of a table for the page's script: numbers as numbers, texts as places in one list of strings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

#: Characters from which a text is a sentence and gets room.
LONG = 40


class Strings:
    """All texts of a page, each once."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._places: dict[str, int] = {}
        self._shown: dict[str, int] = {}  # text as it is in a row -> its place as people read it

    def place_value(self, column: Any, value: Any) -> int:
        """Return the place of `value` as `column` shows it."""
        if not isinstance(value, str):
            return self.place(column.text(value))
        place = self._shown.get(value)
        if place is None:
            place = self._shown[value] = self.place(column.text(value))
        return place

    def place(self, text: str) -> int:
        """Return the place of `text` in `values`."""
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(text)
        return self._places[text]


def pack(column: Any, values: Sequence[Any], strings: Strings) -> dict[str, Any]:
    """Return a column: `k` is f (floats shown to `d` digits), i (integers) or s (places in `strings`); `r`: the class.

    A column that holds anything else (a mixture, a number too large or small for its digits) is as its texts are.
    """
    out: dict[str, Any] = {"name": column.heading, "r": style(column, values)}
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {int}:
        return out | {"k": "i", "v": list(values)}
    if kinds == {float} and _plain(values, column.digits):
        return out | {"k": "f", "d": column.digits, "v": [None if v is None else v + 0.0 for v in values]}
    if kinds <= {str}:
        places = {
            value: None if value is None else strings.place_value(column, value) for value in dict.fromkeys(values)
        }
        return out | {"k": "s", "v": list(map(places.get, values))}
    return out | {"k": "s", "v": [None if v is None else strings.place_value(column, v) for v in values]}


def style(column: Any, values: Sequence[Any]) -> str:
    """Return the class of a column's fields: n (numbers, to the right), long (sentences), or none."""
    if column.align == "right":
        return "n"
    return "long" if any(isinstance(value, str) and len(value) > LONG for value in dict.fromkeys(values)) else ""


def _plain(values: Sequence[float | None], digits: int) -> bool:
    """Return whether all of `values` are shown to `digits` digits."""
    sizes = [abs(value) for value in values if value]
    return not sizes or (math.isfinite(sum(sizes)) and 10**-digits / 2 <= min(sizes) and max(sizes) < 1e9)
