"""Whether a record of unknown origin is what llmbench writes: shapes, names and numbers. Pure.

A record of one's own run needs no such check; one from a bundle that somebody sent does, before anything is made of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TypeGuard, cast

from llmbench.contract.cell import STAGES, id_of_cell
from llmbench.contract.job import STATUSES

_ID = re.compile(r"[0-9a-f]{12}")
#: What no name has: markup, and what moves the cursor.
_UNSAFE = re.compile(r"[<>\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
LONGEST_NAME = 500
LARGEST_COUNT = 1_000_000


def record_problem(record: Mapping[str, object]) -> str | None:
    """Return the first fault of a record, in a few words; None where it has none."""
    for name, check in _FIELDS.items():
        problem = check(record.get(name))
        if problem:
            return f"{name}: {problem}"
    if id_of_cell(cast("Mapping[str, object]", record["cell"])) != record["cell_id"]:
        return "cell_id: not the hash of the cell"
    return None


def _number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 if isinstance(value, int) else math.isfinite(value)


def _optional_number(value: object) -> str | None:
    return None if value is None or _number(value) else "not a number"


def _cell_id(value: object) -> str | None:
    return None if isinstance(value, str) and _ID.fullmatch(value) else "not an id"


def _optional_id(value: object) -> str | None:
    return None if value is None or (isinstance(value, str) and name_problem(value) is None) else "not an id"


def name_problem(value: object) -> str | None:
    """Return why `value` is not the name of something; None when it can be."""
    if not isinstance(value, str):
        return "not text"
    if not 0 < len(value) <= LONGEST_NAME:
        return f"empty, or longer than {LONGEST_NAME} characters"
    return "markup or control characters in a name" if _UNSAFE.search(value) else None


def _cell(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return "not an object"
    for key in ("model", "size", "task", "dataset", "stage", "device", "precision"):
        if problem := name_problem(value.get(key)):
            return f"{key}: {problem}"
    if value["stage"] not in STAGES:
        return "stage: unknown"
    for key, item in value.items():
        plain = item is None or isinstance(item, bool) or _number(item)
        if not plain and (problem := name_problem(item)):
            return f"{key}: {problem}"
    return None


def _count(value: object) -> str | None:
    return None if isinstance(value, int) and 0 <= value < LARGEST_COUNT else "not a count"


def _status(value: object) -> str | None:
    return None if value in STATUSES else "unknown"


def _series(value: object) -> str | None:
    """Samples and phases: name -> list of numbers; times (`*_s`) are not negative, step times positive."""
    if not isinstance(value, Mapping):
        return "not an object"
    for name, numbers in value.items():
        if not isinstance(numbers, list) or not all(n is None or _number(n) for n in numbers):
            return f"{name}: not a list of numbers"
        if name.endswith("_s") and any(n is not None and n < 0 for n in numbers):
            return f"{name}: negative"
        if name == "step_s" and not all(n is not None and n > 0 for n in numbers):
            return "step_s: not positive"
    return None


def _object(value: object) -> str | None:
    return None if value is None or isinstance(value, Mapping) else "not an object"


def _counts(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return "not an object"
    bad = [
        k for k, v in value.items() if k != "timing" and not (v is None or isinstance(v, list | Mapping) or _number(v))
    ]
    return f"{bad[0]}: not a number" if bad else _object(value.get("timing"))


def _quality(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return "not an object"
    values, direction = value.get("values") or {}, value.get("direction") or {}
    if not isinstance(values, Mapping) or not all(v is None or _number(v) for v in values.values()):
        return "values: not numbers"
    if not isinstance(direction, Mapping) or not all(v in ("higher", "lower") for v in direction.values()):
        return "direction: neither higher nor lower"
    return _optional_number(value.get("examples"))


def _texts(value: object) -> str | None:
    return (
        None if value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value)) else "not texts"
    )


def _error(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(v is None or isinstance(v, str) for v in value.values()):
        return "not an object of texts"
    return None


_FIELDS: dict[str, Callable[[object], str | None]] = {
    "cell_id": _cell_id,
    "cell": _cell,
    "repeat": _count,
    "attempt": _count,
    "status": _status,
    "wall_s": _optional_number,
    "environment_id": _optional_id,
    "ceilings_id": _optional_id,
    "samples": _series,
    "phases": _series,
    "counts": _counts,
    "memory": _object,
    "quality": _quality,
    "oracle": _object,
    "baselines": _object,
    "interventions": _object,
    "operators": _object,
    "training": _object,
    "health": _object,
    "energy": _object,
    "budget": _object,
    "warnings": _texts,
    "error": _error,
}
