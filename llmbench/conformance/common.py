"""The contract of plugins of every kind: their fields, their import, and that a worker finds them."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.conformance.subject import NotHere, Subject, check
from llmbench.plugins.registry import KINDS

if TYPE_CHECKING:
    from llmbench.contract.record import JsonObject

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_LOAD_S = 60.0  # time limit of a fresh process
_SLOW_S = 1.0  # of processor time; a module that only describes takes a hundredth of it
ALL = tuple(KINDS)


@check(*ALL, says="every field has the type that its spec says")
def fields(subject: Subject) -> None:
    """Look at every field of the spec."""
    spec = subject.spec
    subject.require(bool(_NAME.fullmatch(spec.name)), f"name {spec.name!r}: write letters, digits, -, _, . and +")
    for field in dataclasses.fields(spec):
        value, wanted = getattr(spec, field.name), str(field.type)
        problem = _type_problem(value, wanted)
        subject.require(problem is None, f"{field.name} is {value!r:.60}: {problem}")


def _type_problem(value: object, wanted: str) -> str | None:
    """Return how to write a field whose type is `wanted`; None where `value` is of that type."""
    if value is None:
        return None if "None" in wanted else f"write {wanted}"
    if wanted.startswith("Callable"):
        return None if callable(value) else "write a function"
    if wanted.startswith("tuple[str"):
        good = isinstance(value, tuple) and all(isinstance(one, str) for one in value)
        return None if good else "write a tuple of names, such as ('a', 'b')"
    if wanted.startswith("Mapping"):
        return None if isinstance(value, Mapping) else "write a dict"
    if wanted in ("str", "bool", "str | None"):
        kind = bool if wanted == "bool" else str
        return None if isinstance(value, kind) else f"write a {kind.__name__}"
    return None


@check(*ALL, says="importing it does no work")
def imports(subject: Subject) -> None:
    """Import it alone in a fresh process, and look at the effects."""
    seen = _import_alone(subject.owner.origin, subject.owner.name)
    require = subject.require
    require("error" not in seen, seen.get("error", ""))
    heavy = ", ".join(seen["heavy"])
    require(not heavy, f"importing it imports {heavy}; import that inside of the functions that need it")
    require(not seen["printed"], f"it prints when it is imported: {seen['printed']!r}")
    require(not seen["patched"], f"it replaces {', '.join(seen['patched'])}")
    require(not seen["threads"], f"it starts {seen['threads']} threads when it is imported")
    require(not seen["changed"], f"importing it changes {', '.join(seen['changed'])}")
    require(seen["seconds"] < _SLOW_S, f"importing it takes {seen['seconds']:.1f} s of processor time")


@functools.cache
def _import_alone(origin: str, owner: str) -> JsonObject:
    return ask_fresh_process("import_plugin", origin, owner)


def ask_fresh_process(function: str, *args: object, timeout_s: float = _LOAD_S) -> JsonObject:
    """Call a function of `llmbench.conformance.fresh` in a process of its own; return its answer, or its `error`."""
    command = [sys.executable, "-m", "llmbench.conformance.fresh", function, json.dumps(args)]
    environment = {**os.environ, "PYTHONHASHSEED": "random", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"a fresh process had not done it after {timeout_s:g} s"}
    if done.returncode or not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"error": f"a fresh process ended with {done.returncode}: {last}"}
    answer: JsonObject = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


@check(*ALL, says="a fresh process finds the same plugin")
def worker(subject: Subject) -> None:
    """Let a process that knows nothing find it, as every worker does."""
    if ":" in subject.name:
        raise NotHere("it is made from a folder of weights")
    there = ask_fresh_process("describe_plugin", subject.kind, subject.name, list(subject.files), str(Path.cwd()))
    subject.require("error" not in there, there.get("error", ""))
    here = json.loads(json.dumps(plain(subject.spec)))
    differs = [name for name, value in here.items() if there["spec"].get(name) != value]
    subject.require(not differs, f"a fresh process finds another {', '.join(differs)}; it must not depend on chance")


def plain(spec: Any) -> dict[str, object]:
    """Return the fields of a spec as values that are the same in every process; of functions, that they are some."""
    return {f.name: _stable(getattr(spec, f.name)) for f in dataclasses.fields(spec)}


def _stable(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _stable(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, tuple | list | set | frozenset):  # a set in its own order, so that one that varies is seen
        return [_stable(one) for one in value]
    if callable(value):
        return "function"
    if dataclasses.is_dataclass(value):
        return {
            "type": type(value).__name__,
            **{f.name: _stable(getattr(value, f.name)) for f in dataclasses.fields(value)},
        }
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__name__
