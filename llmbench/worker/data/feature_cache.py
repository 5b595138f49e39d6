"""Features on disk: JSON, so that a run directory of somebody else cannot run code. A pickle could.

Values come back with their exact types: a tuple does not become a list. A file that is not as `write` leaves it counts
as missing, and the features are made again. Values that JSON does not know (an array, NaN) are not written at all.

A column is a list of values of one kind, and containers are taken apart, which reads nearly as fast as a pickle:

- plain values (int, float, str, bool, None): `{"plain": [...]}`
- lists: `{"lengths": [...], "items": column}`, with the items of all lists one after the other
- tuples of one length: `{"tuples": [column, ...]}`, one column for each place
- dicts of the same keys: `{"keys": [...], "fields": [column, ...]}`
- tuples and dicts that are empty: `{"empty": ["dict", ...]}`
- others: `{"mixed": [column, ...]}`, one column for each value
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.contract.files import write_atomic
from llmbench.contract.specs import Feature

if TYPE_CHECKING:
    from llmbench.contract.record import JsonObject

FORMAT = 1  # raise when files are written in another way
PLAIN_TYPES = frozenset({int, float, str, bool, type(None)})
EMPTY_TYPES: dict[str, type] = {"tuple": tuple, "dict": dict}


def _import_orjson() -> ModuleType | None:
    with contextlib.suppress(ImportError):
        return importlib.import_module("orjson")
    return None


ORJSON = _import_orjson()  # not needed, only three times as fast as the standard library


class SplitFeatures(NamedTuple):
    """The features of one split of a data set."""

    info: Mapping[str, object]  # of the data set
    features: Sequence[Feature]
    examples: int  # of which the features were made


class NotPlain(TypeError):
    """A value that JSON does not give back as it was."""


def write(path: Path, key: Sequence[object], split: SplitFeatures) -> None:
    """Write features where JSON can hold them. `key` is all that they were made of; `read` asks for the same one."""
    try:
        columns = {"info": to_column([dict(split.info)]), "features": to_column(list(split.features))}
        document = {"format": FORMAT, "key": list(key), "examples": split.examples, **columns}
        content = _dump(document)
    except (TypeError, ValueError, RecursionError):  # of a plugin's task: its features are made in every process
        return
    write_atomic(path, content, sync=False)


def read(path: Path, key: Sequence[object]) -> SplitFeatures | None:
    """Return the features in the file; None where there is none, or where it is not as `write` leaves it."""
    try:
        document = _load(path.read_bytes())
        if document["format"] != FORMAT or document["key"] != list(key):
            return None
        (info,), features = from_column(document["info"]), from_column(document["features"])
        split = SplitFeatures(info, features, document["examples"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return split if _is_whole(split) else None


def _is_whole(split: SplitFeatures) -> bool:
    whole = isinstance(split.info, dict) and type(split.examples) is int and split.examples > 0
    return whole and bool(split.features) and all(isinstance(feature, dict) for feature in split.features)


def to_column(values: Sequence[Any]) -> JsonObject:
    """Return the column of `values`. Raises NotPlain for a value that would come back as another one."""
    kinds = set(map(type, values))
    if kinds and kinds <= set(EMPTY_TYPES.values()) and not any(values):
        return {"empty": [type(value).__name__ for value in values]}
    if kinds <= PLAIN_TYPES:
        if float in kinds and not all(math.isfinite(v) for v in values if type(v) is float):
            raise NotPlain("JSON has no NaN and no infinity")
        return {"plain": list(values)}
    if kinds == {list}:
        return {"lengths": list(map(len, values)), "items": to_column(list(chain.from_iterable(values)))}
    if kinds == {tuple} and len(set(map(len, values))) == 1:
        return {"tuples": [to_column(list(map(itemgetter(place), values))) for place in range(len(values[0]))]}
    if kinds == {dict} and len(orders := set(map(tuple, values))) == 1:
        (names,) = orders
        if not all(type(name) is str for name in names):
            raise NotPlain("JSON has keys of text only")
        return {"keys": list(names), "fields": [to_column([value[name] for value in values]) for name in names]}
    if len(values) == 1:
        raise NotPlain(f"JSON has no {kinds.pop().__name__} like this")
    return {"mixed": [to_column([value]) for value in values]}


def from_column(column: Any) -> list[Any]:
    """Return the values of a column. Raises ValueError, TypeError or LookupError for one that `to_column` did not make.

    It never takes more memory than the column has entries.
    """
    if "plain" in column:
        values = column["plain"]
        if type(values) is not list or not set(map(type, values)) <= PLAIN_TYPES:
            raise ValueError("not a list of plain values")
        return values
    if "empty" in column:
        return [EMPTY_TYPES[name]() for name in column["empty"]]
    if "lengths" in column:
        items, values, at = from_column(column["items"]), [], 0
        for length in column["lengths"]:
            if type(length) is not int or length < 0:
                raise ValueError("not a length")
            values.append(items[at : at + length])
            at += length
        if at != len(items):
            raise ValueError("lengths do not add up to the items")
        return values
    if "tuples" in column:
        return list(zip(*map(from_column, column["tuples"]), strict=True))
    if "keys" in column:
        names, fields = column["keys"], [from_column(field) for field in column["fields"]]
        if len(names) != len(fields) or not all(type(name) is str for name in names):
            raise ValueError("keys and fields do not match")
        return [dict(zip(names, row, strict=True)) for row in zip(*fields, strict=True)]
    values = [from_column(each) for each in column["mixed"]]
    if not all(len(each) == 1 for each in values):
        raise ValueError("not one value for each column")
    return [each[0] for each in values]


def _dump(document: JsonObject) -> bytes:
    if ORJSON is not None:
        return bytes(ORJSON.dumps(document))
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def _load(content: bytes) -> Any:
    return json.loads(content) if ORJSON is None else ORJSON.loads(content)
