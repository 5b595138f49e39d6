"""JSON Schemas of suites (for editors) and of records, made from the tables and types that the code goes by.

A suite's is made from `llmbench.suite.fields`, a record's from the types of `llmbench.contract.record`.
`docs/generate.py` writes both to `llmbench/schemas/`, which is shipped. A suite that the schema refuses is refused by
`llmbench.suite.file`, too; the checker knows more, such as the names of plugins.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from llmbench.contract import record
from llmbench.contract.cell import LATER_FIELDS, PHASES, SETTABLE_FIELDS, STAGES, Budget
from llmbench.contract.job import SCHEMA_VERSION
from llmbench.suite.fields import AMPLE, BUDGET_KEYS, DOUBLED, FIELDS, is_whole

DRAFT = "https://json-schema.org/draft/2020-12/schema"

Schema: TypeAlias = dict[str, Any]

_KINDS: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}


def comments_of(kind: type) -> dict[str, str]:
    """Return the comment after each field of a class, by the name of the field."""
    source = inspect.getsource(kind)
    lines = source.splitlines()
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            _, _, found[node.target.id] = lines[(node.end_lineno or 1) - 1].partition("  # ")
    return found


def meaning_of(name: str) -> str:
    """Return the meaning of a field of a cell or a key of the budget."""
    if name in FIELDS:
        return FIELDS[name].meaning
    return {**comments_of(record.FirstCellFields), **comments_of(record.CellFields)}[name]


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [{"type": "null"}, schema]}


# --- records --------------------------------------------------------------------------------------------

#: Fields of a record's parts whose types a reader of records can rely on. Other fields may change with engines and
#: versions, so the schema leaves them open.
FIXED: Mapping[type, Sequence[str]] = {
    record.Counts: ("tokens", "padding_tokens", "examples", "flops", "bytes", "kernels"),
    record.Memory: ("peak_mib", "capacity_mib"),
    record.Energy: ("joules",),
    record.Intervention: ("outcome", "predicted_x", "clean_s", "treated_s", "reason"),
    record.Quality: ("values", "examples"),
    record.Oracle: ("kind", "values"),
    record.Training: ("steps", "seconds"),
    record.ErrorFields: ("type", "message"),
}
#: What types cannot say of a field.
LIMITS: Mapping[str, Schema] = {
    "cell_id": {"pattern": "^[0-9a-f]{12}$"},
    "repeat": {"minimum": 0},
    "repeats": {"minimum": 1},
    "attempt": {"minimum": 0},
    "phases": {"propertyNames": {"enum": [f"{phase}_s" for phase in (*PHASES, "prefill", "decode")]}},
}


def record_schema() -> Schema:
    """Return the JSON Schema of one line of `records.jsonl`."""
    meanings = comments_of(record.Record)
    properties = {
        name: _record_field(name, kind, meanings[name]) for name, kind in typing.get_type_hints(record.Record).items()
    }
    return {
        "$schema": DRAFT,
        "title": "llmbench record",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _record_field(name: str, kind: Any, meaning: str) -> Schema:
    """Return the schema of a field of a record, with its meaning."""
    described = {"description": meaning}
    if name == "schema_version":
        return {"const": SCHEMA_VERSION, **described}
    if name == "cell":
        return {**_cell_schema(), **described}
    if name == "budget":
        return {**_budget_schema(), **described}
    if name in ("memory", "interventions"):  # in this order since the first version of the schema
        return {"type": "object", **described, **_of_type(kind)}
    options = typing.get_args(kind)
    nullable = types.NoneType in options
    (part, *_) = [option for option in options if option is not types.NoneType] if nullable else [kind]
    if not typing.is_typeddict(part):
        return {**_of_type(kind), **LIMITS.get(name, {}), **described}
    schema = {**described, **_of_type(part)} if part in FIXED else {**_of_type(part), **described}
    return _maybe(schema) if nullable else schema


def _of_type(kind: Any, *, number_or_null: bool = False) -> Schema:
    """Return the schema of a type. A number that is not finite is null in JSON, so a float may be null.

    `number_or_null`: so may an integer, as in the parts of a record, which plugins fill in.
    """
    if kind is record.Samples:  # an engine may have series of its own
        return _of_type(record.Series)
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        fields = {name: _of_type(hints[name], number_or_null=True) for name in FIXED.get(kind, ())}
        return {"type": "object", "properties": fields} if fields else {"type": "object"}
    origin, given = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {"enum": list(given)}
    if origin is list:
        return {"type": "array", "items": _of_type(given[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_type(given[1])}
    names = [_KINDS[one] for one in given or (kind,)]
    if "null" not in names and (kind is float or (kind is int and number_or_null)):
        names.append("null")
    return {"type": names[0] if len(names) == 1 else names}


def _cell_schema() -> Schema:
    properties: dict[str, Schema] = {}
    for name, kind in typing.get_type_hints(record.CellFields).items():
        names = [_KINDS[one] for one in typing.get_args(kind) or (kind,)]
        properties[name] = {"type": names[0] if len(names) == 1 else names, "description": meaning_of(name)}
    properties["stage"]["enum"] = list(STAGES)
    required = [name for name in properties if name not in LATER_FIELDS]
    return {"type": "object", "description": "", "properties": properties, "required": required}


def _budget_schema() -> Schema:
    names = [f.name for f in dataclasses.fields(Budget)]
    return {"type": "object", "properties": {name: _maybe(_not_null(name)) for name in names}}


# --- suites ---------------------------------------------------------------------------------------------


def suite_schema() -> Schema:
    """Return the JSON Schema of a suite file, for editors that complete and check YAML."""
    names = list(SETTABLE_FIELDS)
    fields = {name: {"$ref": f"#/$defs/{name}", "description": meaning_of(name)} for name in names}
    mapping = {"type": "object", "properties": fields, "additionalProperties": False}
    budget: dict[str, Schema] = {name: _scalar(name) for name in BUDGET_KEYS if name != "steps"}
    budget["steps"] = fields["steps"]
    flat = {name: {"$ref": f"#/$defs/{name}_values", "description": meaning_of(name)} for name in names}
    properties = {
        "name": {"type": "string", "pattern": r"^[A-Za-z0-9][\w.-]*$", "description": "one word; default: the file's"},
        "extends": {"type": "string", "description": "a shipped suite or a file that this one starts from"},
        "matrix": {**mapping, "description": "axes: the cells are the product of their values"},
        "include": {"type": "array", "items": mapping, "description": "points beside the matrix"},
        "exclude": {
            "type": "array",
            "items": {**mapping, "properties": flat, "minProperties": 1},
            "description": "points of the matrix that are left out: those that match all fields of an entry",
        },
        "defaults": {**mapping, "description": "fields that are no axes"},
        "repeats": _scalar("repeats"),
        "budget": {
            "type": "object",
            "properties": budget,
            "additionalProperties": False,
            "description": "how long each cell is measured",
        },
        "verify": _scalar("verify"),
        "measure": _scalar("measure"),
        "learning": _maybe(_learning_schema(fields)),
        "scaling": _maybe(_scaling_schema()),
    }
    return {
        "$schema": DRAFT,
        "title": "llmbench suite",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {key: value for name in names for key, value in _expressions(name).items()},
    }


def _learning_schema(fields: Mapping[str, Schema]) -> Schema:
    axis = {"enum": list(DOUBLED)}
    return {
        "type": "object",
        "description": "study what limits quality, by doubling data, steps and parameters",
        "properties": {
            "double": {"anyOf": [axis, {"type": "array", "items": axis, "minItems": 1}]},
            "seeds": _scalar("seeds"),
            "follow": _scalar("follow"),
            "ample": {
                "type": "object",
                "properties": {name: fields[name] for name in AMPLE},
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    }


def _scaling_schema() -> Schema:
    def values(least: int) -> Schema:
        return {"type": "array", "items": {"type": "integer", "minimum": least}, "minItems": 2}

    return {
        "type": "object",
        "description": "study how cost grows: an axis (a whole-numbered field, or a setting of the size) -> its values",
        "minProperties": 1,
        "properties": {name: values(FIELDS[name].least) for name in SETTABLE_FIELDS if is_whole(name)},
        "propertyNames": {"not": {"enum": [name for name in SETTABLE_FIELDS if not is_whole(name)]}},
        "additionalProperties": values(1),
    }


def _expressions(name: str) -> dict[str, Schema]:
    """Return the definitions of a field: a value, a list, or a mapping keyed by the values of another field."""
    values = {"anyOf": [_scalar(name), {"type": "array", "items": _scalar(name), "minItems": 1}]}
    nested = {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": f"#/$defs/{name}"}}
    return {f"{name}_values": values, name: {"anyOf": [{"$ref": f"#/$defs/{name}_values"}, nested]}}


def _scalar(name: str) -> Schema:
    """Return the schema of one value of a key of a suite."""
    return _maybe(_not_null(name)) if FIELDS[name].nullable else _not_null(name)


def _not_null(name: str) -> Schema:
    field = FIELDS[name]
    described = {"description": field.meaning} if field.meaning else {}
    if field.type is int:
        return {"type": "integer", "minimum": field.least, **described}
    if field.type is float:  # YAML 1.1 takes 1e-3 for text
        text = {"type": "string", "pattern": r"^\s*\+?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"}
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, text], **described}
    if field.type is bool:
        return {"type": "boolean", **described}
    if field.pattern is not None:
        return {"type": "string", "pattern": f"^({field.pattern.pattern})$", **described}
    if field.choices:
        return {"enum": list(field.choices), **described}
    return {"type": "string", "pattern": r"\S", **described}
