"""The options that vary among cells of the same model, size, task, device and precision. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from llmbench.analysis.studies import alike

if TYPE_CHECKING:
    from llmbench.contract.record import Row

#: Fields that tables have a column for.
SHOWN = ("stage", "model", "size", "task", "device", "precision")
#: Fields that follow from others, or name where a cell comes from.
DERIVED = (*alike.DERIVED, "pretrain_dataset")
HIDDEN = frozenset((*SHOWN, *DERIVED))


def find_variants(cells: Sequence[Row]) -> list[str]:
    """Return, for each cell (fields as in `Cell`), its options that differ among similar cells, such as `seed=1`.

    A data set is named without its fingerprint, unless only the fingerprint differs. Empty where nothing differs.
    """
    keys = [_column_values(cell) for cell in cells]
    groups: dict[tuple[object, ...], list[Row]] = {}
    for key, cell in zip(keys, cells, strict=True):
        groups.setdefault(key, []).append(cell)
    varying = {key: _varying(group) for key, group in groups.items()}
    return [_variant(cell, varying[key]) for key, cell in zip(keys, cells, strict=True)]


def _column_values(cell: Row) -> tuple[object, ...]:
    return tuple(cell.get(name) for name in SHOWN)


def _varying(group: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Return the fields whose values differ in a group; for `dataset`: short name -> the number of such data sets."""
    varying: dict[str, dict[str, int]] = {}
    for name in names_of(group):
        values = values_of(group, name) if name not in HIDDEN else ()
        if len(values) > 1:
            varying[name] = Counter(value.partition("@")[0] for value in values) if name == "dataset" else {}
    return varying


def names_of(cells: Iterable[Row]) -> list[str]:
    """Return the fields that `cells` have, in their order; most have the same ones."""
    return list(dict.fromkeys(name for names in dict.fromkeys(map(tuple, cells)) for name in names))


def values_of(cells: Iterable[Row], name: str) -> set[str]:
    """Return the values that `cells` have of a field, as texts."""
    values = [cell.get(name) for cell in cells]
    try:
        return set(map(str, set(values)))
    except TypeError:  # lists and mappings have no hash
        return set(map(str, values))


def _variant(cell: Row, varying: Mapping[str, Mapping[str, int]]) -> str:
    parts = []
    for name, shorts in varying.items():
        if name not in cell:
            continue
        value = cell[name]
        if name == "dataset":
            short = str(value).partition("@")[0]
            parts.append(short.rpartition(":")[2] if shorts[short] == 1 else str(value))
        else:
            parts.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(parts)
