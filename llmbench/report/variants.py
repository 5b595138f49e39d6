"""What tells cells apart that are alike by model, size, task, device and precision: the options that vary. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

#: Fields that tables have a column for.
SHOWN = ("stage", "model", "size", "task", "device", "precision")
#: Fields that follow from others, or name where a cell comes from.
DERIVED = ("parent", "tokenizer", "pretrain_dataset")


def variants(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return, for each cell (fields as in `Cell`), its options that differ among cells alike, such as `seed=1`.

    A data set is named without its fingerprint, unless that is all that differs. Empty where nothing differs.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(_alike(cell), []).append(cell)
    return [_variant(cell, groups[_alike(cell)]) for cell in cells]


def _alike(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell.get(name) for name in SHOWN)


def _variant(cell: Mapping[str, Any], group: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for name, value in cell.items():
        if name in SHOWN or name in DERIVED or len({str(other.get(name)) for other in group}) < 2:
            continue
        if name == "dataset":
            short = str(value).partition("@")[0]
            same = [o for o in group if str(o.get(name)).partition("@")[0] == short]
            unique = len({str(o.get(name)) for o in same}) == 1
            parts.append(short.rpartition(":")[2] if unique else str(value))
        else:
            parts.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(parts)
