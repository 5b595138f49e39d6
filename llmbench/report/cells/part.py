"""One part of a cell's summary: some of its fields, and why some of them are not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llmbench.contract.record import Row


class Part(NamedTuple):
    """Some fields of a summary. A field that is not known is None, and `reasons` says why."""

    fields: Row
    reasons: Mapping[str, str]


def unknown(names: Iterable[str], reason: str) -> Part:
    """Return a part of which no field is known, for one reason."""
    names = tuple(names)
    return Part(dict.fromkeys(names), dict.fromkeys(names, reason))


def explain(fields: Row, reasons: Mapping[str, str], why: str | None = None) -> Part:
    """Return a part with a reason for each field of `reasons` that is None: `why` if given, else its own."""
    unknown_names = [name for name in reasons if fields[name] is None]
    return Part(fields, {name: why or reasons[name] for name in unknown_names} if unknown_names else {})


def merge(parts: Iterable[Part]) -> Part:
    """Return the fields and the reasons of all parts, in their order."""
    fields: dict[str, object] = {}
    reasons: dict[str, str] = {}
    for own_fields, own_reasons in parts:
        fields.update(own_fields)
        if own_reasons:
            reasons.update(own_reasons)
    return Part(fields, reasons)
