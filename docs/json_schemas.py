"""JSON Schemas of suites (for editors) and of records, made from the tables that the checker and the writer use.

`docs/generate.py` writes them to `llmbench/schemas/`, which is shipped. A suite that the schema refuses is refused by
`llmbench.suite.file`, too; the checker knows more, such as the names of plugins.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from llmbench.contract.cell import LATER_FIELDS, PHASES, SETTABLE_FIELDS, STAGES, Budget, Cell
from llmbench.contract.job import SCHEMA_VERSION, STATUSES
from llmbench.suite import fields as suite_fields

DRAFT = "https://json-schema.org/draft/2020-12/schema"
#: What each field of a cell, and key of a budget, means.
MEANINGS: Mapping[str, str] = {
    "model": "name of a model's plugin, or NAME:NAME_OR_PATH",
    "size": "name of a size, with settings and factors: tiny, base, tiny:layers=1,hidden=32, tiny*2",
    "task": "name of a task's plugin",
    "dataset": "name of a data set's plugin, or NAME:ARGUMENT, such as file:${data}/ag_news",
    "stage": "pretrain, finetune or eval",
    "device": "cpu, cuda, cuda:N, mps, or auto: the best there is",
    "precision": "name of a numeric setting",
    "batch_size": "examples of a step",
    "seq_len": "longest input, tokens, special ones included",
    "target_len": "longest output of generation, tokens, end included; null: seq_len",
    "steps": "optimizer steps of training",
    "seed": "random seed of weights, order and masks",
    "optimizer": "kind of optimizer",
    "learning_rate": "peak learning rate; null: the model's own for the stage",
    "workers": "loader processes",
    "bucketing": "batches of similar lengths",
    "compile": "compile the model",
    "attention": "implementation of attention",
    "strategy": "how several processes share the work",
    "world_size": "processes that share the work",
    "train_examples": "examples to train on; null: all",
    "test_examples": "examples to score; null: all",
    "vocab_size": "tokens of the tokenizer that is trained",
    "pretrain_dataset": "corpus of pretraining; null: the text of the data set",
    "weights": "folder or hub name of a pretrained model to start from",
    "threads": "threads of an operator on the CPU; null: torch's own choice",
    "accumulation": "parts that a batch is taken in before an update",
    "labelled_logits": "output projection and loss only where there is a label",
    "pretokenized": "text becomes tokens once, before the first step; false: in the loader",
    "pin_memory": "page-locked batches, copied without waiting",
    "checkpointing": "activations computed again in the backward pass",
    "kv_cache": "generation keeps keys, values and states from token to token",
    "cuda_graphs": "compiled, and replayed as CUDA graphs",
    "keep_memory": "freed host memory stays with the process (glibc) instead of going back to the system",
    "lora": "rank of low-rank adapters that alone are fine-tuned; null: all weights",
    "tokenizer": "identity of the tokenizer",
    "parent": "id of the cell whose checkpoint it starts from",
    "remedy_of": "id of the cell that it is a trial of a remedy for",
    "role": "which round of that trial, and with which remedies",
    "seconds": "clean timing per cell, seconds, shared by its first repeats",
    "ci_pct": "wanted half-width of the interval of the step time, percent",
    "memory_mib": "limit of a cell's process, MiB",
    "max_repeats": "up to so many processes per cell, where the first ones show that ci_pct needs them",
    "largest_batch": "search the largest batch that fits",
    "price_per_hour": "of the machine, in any currency",
    "verify_seconds": "time to try causes, seconds per cell",
    "remedy_seconds": "clean timing of each process that tries a remedy, seconds",
    "remedy_pairs": "pairs of processes that measure the recommended configuration",
    "remedy_seeds": "seeds that it is trained with",
}
#: Field of a record -> its schema; `new_record` writes all of them.
_NUMBERS = {"type": "array", "items": {"type": ["number", "null"]}}
_OBJECT = {"type": "object"}
_ID = {"type": "string", "pattern": "^[0-9a-f]{12}$"}


def _maybe(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "null"}, dict(schema)]}


def _object(description: str = "", **properties: Any) -> dict[str, Any]:
    known = {"description": description} if description else {}
    return {**known, "type": "object", "properties": properties}


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of one line of `records.jsonl`."""
    number, text, count = {"type": ["number", "null"]}, {"type": "string"}, {"type": ["integer", "null"]}
    scores = {"type": "object", "additionalProperties": number}
    properties: dict[str, Any] = {
        "schema_version": {"const": SCHEMA_VERSION, "description": "version of this schema"},
        "cell_id": {**_ID, "description": "hash of the cell's content; the same on every machine"},
        "cell": _cell_schema(),
        "repeat": {
            "type": "integer",
            "minimum": 0,
            "description": "which process of the cell; 0 also trains and is scored",
        },
        "repeats": {"type": "integer", "minimum": 1, "description": "processes that were planned at first"},
        "budget": {**_budget_schema(nullable=True), "description": "how long it was measured"},
        "attempt": {"type": "integer", "minimum": 0, "description": "earlier attempts at this repeat"},
        "status": {"enum": list(STATUSES), "description": "how it ended"},
        "started_at": {"type": ["string", "null"], "description": "when, ISO 8601 with time zone"},
        "wall_s": {**number, "description": "wall time of the process, seconds"},
        "spent": {
            "type": "object",
            "additionalProperties": number,
            "description": "seconds of measuring, training, scoring",
        },
        "environment_id": {"type": ["string", "null"], "description": "key in environment.json"},
        "ceilings_id": {"type": ["string", "null"], "description": "key in ceilings.json"},
        "samples": {
            "type": "object",
            "additionalProperties": _NUMBERS,
            "description": "raw series of the clean pass, a value per step: step_s, step_tokens, step_examples ...",
        },
        "phases": {
            "type": "object",
            "additionalProperties": _NUMBERS,
            "propertyNames": {"enum": [f"{name}_s" for name in (*PHASES, "prefill", "decode")]},
            "description": "seconds of each phase, a value per step of the phase pass",
        },
        "counts": _object(
            "means per step: tokens without padding, FLOPs, bytes, kernels; and parameters and how timing went",
            **dict.fromkeys(("tokens", "padding_tokens", "examples", "flops", "bytes", "kernels"), number),
        ),
        "memory": {
            "type": "object",
            "description": "MiB: the peak, what there is, and parts by purpose",
            "properties": {"peak_mib": number, "capacity_mib": number},
        },
        "energy": _maybe(_object("joules of the clean pass, its seconds, the source, or the reason", joules=number)),
        "interventions": {
            "type": "object",
            "description": "cause -> prediction, and the paired samples with and without it",
            "additionalProperties": _object(
                outcome=text,
                predicted_x=number,
                clean_s=_NUMBERS,
                treated_s=_NUMBERS,
                reason={"type": ["string", "null"]},
            ),
        },
        "together": _maybe({**_OBJECT, "description": "the paired samples without the two largest causes"}),
        "remedy": _maybe({**_OBJECT, "description": "of a trial: what was predicted, and why"}),
        "quality": _object(
            "metric values on the test split, how many examples, which is primary, which side is better",
            values=scores,
            examples=count,
        ),
        "oracle": _maybe(
            _object("the same of the model that knows the data", kind={"enum": ["exact", "reference"]}, values=scores)
        ),
        "baselines": {
            "type": "object",
            "additionalProperties": scores,
            "description": "the same of trivial answers, by name",
        },
        "training": _maybe(_object("steps, seconds, tokens, and losses as [step, loss]", steps=count, seconds=number)),
        "operators": _maybe({**_OBJECT, "description": "FLOPs, bytes and time of each operator of a traced step"}),
        "compilation": _maybe({**_OBJECT, "description": "what compiling took"}),
        "health": _maybe({**_OBJECT, "description": "what disturbed the clean pass, as the system counts it"}),
        "checkpoint": _maybe(
            {**_OBJECT, "description": "the checkpoint that was written, and the one it started from"}
        ),
        "warnings": {"type": "array", "items": text, "description": "what disturbed a measurement, in words"},
        "error": _maybe(_object("type, message and traceback", type=text, message=text)),
    }
    return {
        "$schema": DRAFT,
        "title": "llmbench record",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _cell_schema() -> dict[str, Any]:
    hints = typing.get_type_hints(Cell)
    kinds = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    properties = {}
    for one in dataclasses.fields(Cell):
        types = [kinds[kind] for kind in (typing.get_args(hints[one.name]) or (hints[one.name],))]
        properties[one.name] = {"type": types[0] if len(types) == 1 else types, "description": MEANINGS[one.name]}
    properties["stage"]["enum"] = list(STAGES)
    required = [name for name in properties if name not in LATER_FIELDS]
    what = "every field of the cell; those that came later may be left out, and are then at their default"
    return {"type": "object", "description": what, "properties": properties, "required": required}


def _budget_schema(*, nullable: bool) -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(Budget)]
    return {"type": "object", "properties": {name: _scalar(name, nullable=nullable) for name in names}}


# --- suites ---------------------------------------------------------------------------------------------


def suite_schema() -> dict[str, Any]:
    """Return the JSON Schema of a suite file, for editors that complete and check YAML."""
    names = list(SETTABLE_FIELDS)
    fields = {name: {"$ref": f"#/$defs/{name}", "description": MEANINGS[name]} for name in names}
    mapping = {"type": "object", "properties": fields, "additionalProperties": False}
    budget: dict[str, Any] = {name: _scalar(name) for name in suite_fields.BUDGET_KEYS if name != "steps"}
    budget["steps"] = fields["steps"]
    flat = {name: {"$ref": f"#/$defs/{name}_values", "description": MEANINGS[name]} for name in names}
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
        "repeats": {**_scalar("repeats"), "description": "fresh processes per cell"},
        "budget": {
            "type": "object",
            "properties": budget,
            "additionalProperties": False,
            "description": "how long each cell is measured",
        },
        "verify": {
            **_scalar("verify"),
            "description": "which causes are removed and measured: none, the leading suspects, all",
        },
        "measure": {
            **_scalar("measure"),
            "description": "all, or speed: steps, phases and the peak of memory; nothing is traced, verified or scored",
        },
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


def _learning_schema(fields: Mapping[str, Any]) -> dict[str, Any]:
    doubled = {"enum": list(suite_fields.DOUBLED)}
    return {
        "type": "object",
        "description": "study what limits quality, by doubling data, steps and parameters",
        "properties": {
            "double": {"anyOf": [doubled, {"type": "array", "items": doubled, "minItems": 1}]},
            "seeds": _scalar("seeds"),
            "follow": _maybe(
                {
                    **{"type": "integer", "minimum": suite_fields.FOLLOW_FROM},
                    "description": "ask what doubling leaves open again, with so many times as much; null: do not",
                }
            ),
            "ample": {
                "type": "object",
                "properties": {name: fields[name] for name in suite_fields.AMPLE},
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    }


def _scaling_schema() -> dict[str, Any]:
    def values(least: int) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "integer", "minimum": least}, "minItems": 2}

    whole = {name: values(suite_fields.INTEGERS[name]) for name in SETTABLE_FIELDS if name in suite_fields.INTEGERS}
    others = [name for name in SETTABLE_FIELDS if name not in suite_fields.INTEGERS]
    return {
        "type": "object",
        "description": "study how cost grows: an axis (a whole-numbered field, or a setting of the size) -> its values",
        "minProperties": 1,
        "properties": whole,
        "propertyNames": {"not": {"enum": others}},
        "additionalProperties": values(1),
    }


def _expressions(name: str) -> dict[str, Any]:
    """Return the definitions of a field: a value, a list, or a mapping keyed by the values of another field."""
    values = {"anyOf": [_scalar(name), {"type": "array", "items": _scalar(name), "minItems": 1}]}
    nested = {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": f"#/$defs/{name}"}}
    return {f"{name}_values": values, name: {"anyOf": [{"$ref": f"#/$defs/{name}_values"}, nested]}}


def _scalar(name: str, *, nullable: bool | None = None) -> dict[str, Any]:
    """Return the schema of one value, by the tables that the checker of suites uses."""
    out = _not_null(name)
    if name in MEANINGS:
        out["description"] = MEANINGS[name]
    can_be_null = name in suite_fields.NULLABLE if nullable is None else nullable
    return _maybe(out) if can_be_null else out


def _not_null(name: str) -> dict[str, Any]:
    if name in suite_fields.INTEGERS:
        return {"type": "integer", "minimum": suite_fields.INTEGERS[name]}
    if name in suite_fields.FLOATS:  # YAML 1.1 takes 1e-3 for text
        text = {"type": "string", "pattern": r"^\s*\+?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"}
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, text]}
    if name in suite_fields.BOOLEANS:
        return {"type": "boolean"}
    if name in suite_fields.CHOICES:
        return {"enum": list(suite_fields.CHOICES[name])}
    if name == "device":
        return {"type": "string", "pattern": f"^({suite_fields.DEVICE.pattern})$"}
    return {"type": "string", "pattern": r"\S"}
