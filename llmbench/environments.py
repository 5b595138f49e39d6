"""What differs between two machines, from what was captured of them: pure functions of dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FactDifference = tuple[str, Any, Any]  # path, value in the first, value in the second

#: Top-level parts that are not the machine: its hash, and what changes from moment to moment.
NOT_THE_MACHINE = ("environment_id", "now")


def different_facts(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[FactDifference]:
    """Return `(path, value in a, value in b)` for every fact that differs, in the order of `a`, then of `b`.

    Paths look like `packages.torch` and `devices[0].name`. What only one of them has is None in the other: in an
    environment, None and absent both mean "not known".
    """
    left, right = ({k: v for k, v in side.items() if k not in NOT_THE_MACHINE} for side in (a, b))
    return list(_walk("", left, right))


def _walk(path: str, a: Any, b: Any) -> Iterator[FactDifference]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in [*a, *(name for name in b if name not in a)]:
            yield from _walk(f"{path}.{name}" if path else name, a.get(name), b.get(name))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        for index in range(max(len(a), len(b))):
            left, right = (values[index] if index < len(values) else None for values in (a, b))
            yield from _walk(f"{path}[{index}]", left, right)
    elif a != b:
        yield path, a, b
