"""Differences of machines and software between two runs: they explain a change before the code does. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmbench.analysis.quality_changes import data_of
from llmbench.records.read import Run

if TYPE_CHECKING:
    from llmbench.contract.record import JsonObject

CEILING_PCT = 5.0  # ceilings that differ by more are listed
#: Facts that are listed first: they change step times the most.
FIRST = ("devices", "cpu", "torch", "driver", "cuda", "clocks", "governor", "packages", "data", "ceiling")


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same: its name, and its values in base and head as text (`-`: not there)."""

    what: str
    base: str
    head: str


def find_differences(base: Run, head: Run) -> list[Difference]:
    """Return the differences of environment, data and ceilings; those that matter most for step times first."""
    every = [*_data(base, head), *_environments(base, head), *_ceilings(base, head)]
    return sorted(every, key=lambda one: (_rank(one.what), one.what))


def _rank(what: str) -> int:
    words = re.split(r"[^a-z0-9]+", what.lower())
    return next((i for i, name in enumerate(FIRST) if any(word.startswith(name) for word in words)), len(FIRST))


def _environments(base: Run, head: Run) -> Iterator[Difference]:
    """Yield every fact that differs between the environments of the runs; several values are listed."""
    values: dict[str, tuple[list[str], list[str]]] = {}
    for before, after in itertools.product(_environments_of(base), _environments_of(head)):
        for path, *pair in different_facts(before, after):
            for texts, value in zip(values.setdefault(path, ([], [])), pair, strict=True):
                text = _text(value)
                if text not in texts:
                    texts.append(text)
    for path, sides in values.items():
        if set(sides[0]) != set(sides[1]):
            yield Difference(path, *(", ".join(texts) for texts in sides))


def _environments_of(run: Run) -> list[JsonObject]:
    """Return the environments that the processes of a run were measured in."""
    names = dict.fromkeys(str(record.get("environment_id")) for record in run.records)
    return [run.environments[name] for name in names if name in run.environments]


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, Mapping):
        return " ".join(str(item) for item in value.values() if not isinstance(item, Mapping | list))
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _data(base: Run, head: Run) -> Iterator[Difference]:
    """Yield the data sets that have one name and not the same content."""
    sides: list[dict[str, set[str]]] = []
    for run in (base, head):
        names: dict[str, set[str]] = {}
        for record in run.records:
            for identity in data_of(record["cell"])[:2]:
                name, _, fingerprint = str(identity or "").partition("@")
                if fingerprint:
                    names.setdefault(f"{name} ({record['cell'].get('task')})", set()).add(fingerprint)
        sides.append(names)
    for name in sides[0]:
        if name in sides[1] and sides[0][name] != sides[1][name]:
            yield Difference(f"data {name}", *(", ".join(sorted(side[name])) for side in sides))


def _ceilings(base: Run, head: Run) -> Iterator[Difference]:
    """Yield the ceilings that differ by more than `CEILING_PCT`."""
    sides = [dict(pair for doc in run.ceilings.values() for pair in _measurements(doc)) for run in (base, head)]
    for name in sides[0]:
        a, b = sides[0][name], sides[1].get(name)
        if b is not None and abs(b / a - 1) > CEILING_PCT / 100:
            yield Difference(f"ceiling {name}", f"{a:.3g}", f"{b:.3g} ({100 * (b / a - 1):+.0f} %)")


def _measurements(doc: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the measured values of a document of ceilings, each with its path in the document."""
    if isinstance(doc, list):
        doc = {str(item.get("level", i)) if isinstance(item, Mapping) else str(i): item for i, item in enumerate(doc)}
    if not isinstance(doc, Mapping):
        return
    value = doc.get("value")
    if isinstance(value, float | int) and not isinstance(value, bool) and value > 0:
        yield path, float(value)
        return
    for key, item in doc.items():
        here = f"{path} {key}" if path else str(key)
        if not path and key in ("memory_levels", "matmul") and "device" in doc:
            here = f"{doc['device']} {key}"
        yield from _measurements(item, here)


FactDifference = tuple[str, object, object]  # path, value in the first, value in the second


#: Top-level parts that are not the machine: its hash, and what changes from moment to moment.
NOT_THE_MACHINE = ("environment_id", "now")


def different_facts(a: Mapping[str, object], b: Mapping[str, object]) -> list[FactDifference]:
    """Return `(path, value in a, value in b)` for every fact that differs, in the order of `a`, then of `b`.

    Paths look like `packages.torch` and `devices[0].name`. What only one of them has is None in the other: in an
    environment, None and absent both mean "not known".
    """
    left, right = ({k: v for k, v in side.items() if k not in NOT_THE_MACHINE} for side in (a, b))
    return list(_walk("", left, right))


def _walk(path: str, a: object, b: object) -> Iterator[FactDifference]:
    """Yield the differences of two values, which may be mappings or lists, below `path`."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in [*a, *(name for name in b if name not in a)]:
            yield from _walk(f"{path}.{name}" if path else name, a.get(name), b.get(name))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        for index in range(max(len(a), len(b))):
            left, right = (values[index] if index < len(values) else None for values in (a, b))
            yield from _walk(f"{path}[{index}]", left, right)
    elif a != b:
        yield path, a, b
