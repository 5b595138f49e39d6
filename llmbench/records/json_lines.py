"""JSON as it is kept on disk: one record a line."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llmbench.contract.errors import RunDirError
from llmbench.contract.job import SCHEMA_VERSION

if TYPE_CHECKING:
    from llmbench.contract.record import Record

try:
    import orjson
except ImportError:  # a machine that only measures need not have it
    orjson = None  # type: ignore[assignment]


def dump_json(value: object, *, indent: int | None = None) -> str:
    """Return standard JSON of `value`: NaN and infinities become null, arrays and their scalars lists and numbers.

    Raises TypeError for anything else that JSON does not know.
    """
    return json.dumps(_plain(value), allow_nan=False, indent=indent)


def _plain(value: object) -> object:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def parse_records(
    lines: Iterable[bytes], where: str, parse: Callable[[bytes], Record | None] | None = None
) -> Iterator[Record]:
    """Yield the records in `lines`; a torn last line is left out. RunDirError names the line that is none.

    `parse` makes a record of a line (None: it is none), `parse_line` unless given.
    """
    parse = parse or parse_line
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        record = parse(line)
        if record is None:
            if not line.endswith(b"\n"):
                return
            raise not_a_record(where, number)
        if record["schema_version"] > SCHEMA_VERSION:
            raise RunDirError(
                f"{where}:{number}: written by a newer llmbench (schema {record['schema_version']}, "
                f"this one knows {SCHEMA_VERSION}); upgrade llmbench"
            )
        yield record


def not_a_record(where: str, number: int) -> RunDirError:
    """Return the error of a line that holds no record."""
    return RunDirError(f"{where}:{number}: not a record; remove the line, or restore the file")


def parse_line(line: bytes) -> Record | None:
    """Return the record in `line`, None when it is not a whole one."""
    try:
        record = _loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("schema_version"), int):
        return None
    return cast("Record", record) if isinstance(record.get("cell_id"), str) else None


def _loads(line: bytes) -> object:
    """Return the JSON value in `line`; by orjson where it is installed, and where it knows the value (no NaN)."""
    if orjson is not None:
        with contextlib.suppress(ValueError):
            return orjson.loads(line)
    return json.loads(line)
