"""What tells cells apart that are alike by model, size, task, device and precision: the options that vary. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmbench.analysis.studies import alike

#: Fields that tables have a column for.
SHOWN = ("stage", "model", "size", "task", "device", "precision")
#: Fields that follow from others, or name where a cell comes from.
DERIVED = (*alike.DERIVED, "pretrain_dataset")
HIDDEN = frozenset((*SHOWN, *DERIVED))


def find_variants(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return, for each cell (fields as in `Cell`), its options that differ among cells alike, such as `seed=1`.

    A data set is named without its fingerprint, unless that is all that differs. Empty where nothing differs.
    """
    keys = [_alike(cell) for cell in cells]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for key, cell in zip(keys, cells, strict=True):
        groups.setdefault(key, []).append(cell)
    varying = {key: _varying(group) for key, group in groups.items()}
    return [_variant(cell, varying[key]) for key, cell in zip(keys, cells, strict=True)]


def _alike(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell.get(name) for name in SHOWN)


def _varying(group: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the fields whose values differ in a group; of the data set: short name -> how many data sets have it."""
    found: dict[str, dict[str, int]] = {}
    for name in names_of(group):
        values = values_of(group, name) if name not in HIDDEN else ()
        if len(values) > 1:
            found[name] = Counter(value.partition("@")[0] for value in values) if name == "dataset" else {}
    return found


def names_of(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the fields that `cells` have, in their order; most have the same ones."""
    return list(dict.fromkeys(name for names in dict.fromkeys(map(tuple, cells)) for name in names))


def values_of(cells: Iterable[Mapping[str, Any]], name: str) -> set[str]:
    """Return the values that `cells` have of a field, as texts."""
    found = [cell.get(name) for cell in cells]
    try:
        return set(map(str, set(found)))
    except TypeError:  # lists and mappings have no hash
        return set(map(str, found))


def _variant(cell: Mapping[str, Any], varying: Mapping[str, Mapping[str, int]]) -> str:
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
