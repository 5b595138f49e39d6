"""JSON of the page's data, written part by part: as objects, the numbers of a large report take ten times the room."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

try:
    import orjson
except ImportError:  # a machine that only measures need not have it
    orjson = None  # type: ignore[assignment]


class Written(str):
    """Text that is JSON already."""


def parts(value: Any, depth: int) -> Iterator[str]:
    """Yield `value` as JSON, part by part. Down to `depth` levels, dicts and lists may hold `Written` text."""
    if depth and isinstance(value, dict):
        for i, (name, item) in enumerate(value.items()):
            yield ("," if i else "{") + json.dumps(str(name)) + ":"
            yield from parts(item, depth - 1)
        yield "}" if value else "{}"
    elif depth and isinstance(value, list):
        yield f"[{','.join(''.join(parts(item, depth - 1)) for item in value)}]"
    else:
        yield as_json(value)


def as_json(value: Any) -> Written:
    """Return `value` as JSON."""
    if isinstance(value, Written):
        return value
    if orjson is not None:
        with contextlib.suppress(TypeError):  # of a value that it does not know
            return Written(orjson.dumps(value), "utf-8")
    return Written(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
