"""Cells that are alike in all but some fields: by what studies, comparisons and tables group them. Pure.

Records make equal cells look different in three ways. A record that is too old for a field does not have it: the field
then has its default. A field that follows from others (the id of the parent) differs wherever those do. And another
version of a data set has another fingerprint, although all that is done with it is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from llmbench.contract.cell import DEFAULTS
from llmbench.contract.sizes import parse_size

T = TypeVar("T")
Fields = Mapping[str, object]  # of a cell
#: What cells that are alike have in common: their fields and the texts of their values.
Key = tuple[tuple[str, str], ...]

#: Fields that follow from others.
DERIVED = ("parent", "tokenizer")
#: Fields that name where data come from: `name@fingerprint`.
FINGERPRINTS = ("dataset", "pretrain_dataset", "tokenizer")


def fields_of(cell: Fields, apart_from: Collection[str] = DERIVED, *, fingerprints: bool = True) -> dict[str, object]:
    """Return the fields of a cell by name, without those of `apart_from`.

    The settings of the size are fields of their own (`size.hidden`), and `size` is its name and factor. Without
    `fingerprints`, data are named without the fingerprint of their content.
    """
    fields = {name: value for name, value in (DEFAULTS | dict(cell)).items() if name not in apart_from}
    if not fingerprints:
        fields |= {name: str(fields[name]).partition("@")[0] for name in FINGERPRINTS if name in fields}
    size = fields.pop("size", None)
    if isinstance(size, str):
        parsed = parse_size(size)
        fields |= {name: value for name, value in settings_of(size).items() if name not in apart_from}
        fields["size"] = (parsed.name, parsed.factor)
    return fields


def settings_of(size: str) -> dict[str, int | str]:
    """Return the settings of a size as fields of their own (`size.hidden`)."""
    return {f"size.{key}": int(text) if text.isdigit() else text for key, text in parse_size(size).settings}


def key_of(cell: Fields, apart_from: Collection[str] = DERIVED, *, fingerprints: bool = True) -> Key:
    """Return the key that cells share which are alike in all fields but those of `apart_from` (see `fields_of`)."""
    fields = fields_of(cell, apart_from, fingerprints=fingerprints)
    return tuple(sorted((name, str(value)) for name, value in fields.items()))


def group(
    items: Iterable[T], cell_of: Callable[[T], Fields], apart_from: Collection[str] = DERIVED
) -> dict[Key, list[T]]:
    """Return `items` by the key of their cells, in the order in which they come (see `key_of`)."""
    groups: dict[Key, list[T]] = {}
    for item in items:
        groups.setdefault(key_of(cell_of(item), apart_from), []).append(item)
    return groups
