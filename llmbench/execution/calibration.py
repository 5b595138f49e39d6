"""Ceilings when they are needed: from the cache of this machine, checked again when old, else measured.

One JSON file per machine and device under `$LLMBENCH_CACHE`, `$XDG_CACHE_HOME/llmbench` or `~/.cache/llmbench`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from llmbench.contract.ceilings import (
    CEILINGS_SCHEMA,
    DEFAULT_SECONDS,
    ceilings_id,
    complete,
    disagreements,
    fingerprint,
    is_stale,
    precision_modes,
)
from llmbench.contract.files import write_atomic
from llmbench.execution import worker_calls
from llmbench.records.json_lines import dump_json

if TYPE_CHECKING:
    from llmbench.contract.record import Ceilings, JsonObject

#: A check takes this share of the time of measuring everything.
RECHECK_SHARE = 0.2


class Caller(Protocol):
    """Runs functions of the worker in processes of their own, as an executor does."""

    def call(self, function_name: str, *args: Any) -> Any:
        """Return the JSON value of `module:function` called with `args`."""


def ensure(
    executor: Caller,
    environment: JsonObject,
    device: str,
    note: Callable[[str], None],
    *,
    precisions: Sequence[Any] = (),
    seconds: float = DEFAULT_SECONDS,
    fresh: bool = False,
) -> Ceilings:
    """Return the ceilings of `device` (not `auto`) on the machine of `environment`, measured where the cache has none.

    `precisions` are the PrecisionSpecs whose names reports will ask for. `fresh` measures in any case. Where the cache
    cannot be written, `note` is told, and the next run measures again. Raises Unsupported where the device is absent.
    """
    now = datetime.datetime.now(datetime.UTC)
    specs = [dict(p) if isinstance(p, Mapping) else dataclasses.asdict(p) for p in precisions]
    device = "cuda:0" if device == "cuda" else device
    path = cache_path(environment, device)
    ceilings = None if fresh else load(path)
    if ceilings is not None and is_stale(ceilings, now):
        ceilings = _recheck(ceilings, executor, note, seconds, now)
    elif ceilings is not None:
        note(f"ceilings of {device}: measured {ceilings['measured_at']} ({path})")
        return ceilings | {"precisions": precision_modes(specs)}
    if ceilings is None:
        note(f"ceilings of {device}: measuring, about {seconds:.0f} s")
        ceilings = complete(
            executor.call(worker_calls.MEASURE_CEILINGS, device, specs, seconds, str(path.parent)),
            environment,
            device,
            now,
        )
    for warning in ceilings["warnings"]:
        note(f"ceilings of {device}: {warning}")
    try:
        write_atomic(path, dump_json(ceilings, indent=1) + "\n")
    except OSError as error:
        note(f"{path}: cannot be written ({error.strerror}); the ceilings are measured again next time")
    return ceilings | {"precisions": precision_modes(specs)}


def cache_path(environment: JsonObject, device: str, variables: Mapping[str, str] = os.environ) -> Path:
    """Return the cache file of the ceilings of a device of this machine."""
    name = f"{fingerprint(environment)}-{device.replace(':', '-')}.json"
    return cache_folder(variables) / "ceilings" / name


def cache_folder(variables: Mapping[str, str] = os.environ) -> Path:
    """Return llmbench's cache folder; an empty variable counts as not set."""
    if folder := variables.get("LLMBENCH_CACHE"):
        return Path(folder)
    if folder := variables.get("XDG_CACHE_HOME"):
        return Path(folder) / "llmbench"
    return Path.home() / ".cache" / "llmbench"


def latest(device: str, variables: Mapping[str, str] = os.environ) -> Ceilings | None:
    """Return the ceilings of `device` that were measured last, None where the cache has none; measure nothing."""
    name = "cuda-0" if device == "cuda" else device.replace(":", "-")
    docs = [load(path) for path in sorted((cache_folder(variables) / "ceilings").glob(f"*-{name}.json"))]
    return max((doc for doc in docs if doc is not None), key=lambda doc: str(doc.get("measured_at")), default=None)


def load(path: Path) -> Ceilings | None:
    """Return the ceilings in a cache file; None without a file, or where its content does not give its id."""
    try:
        doc = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(doc, dict):
        return None
    ceilings = cast("Ceilings", doc)
    return ceilings if ceilings.get("ceilings_id") == ceilings_id(ceilings) else None


def _recheck(
    ceilings: Ceilings, executor: Caller, note: Callable[[str], None], seconds: float, now: datetime.datetime
) -> Ceilings | None:
    """Return old ceilings that a short measurement confirms, None where all have to be measured again."""
    device = ceilings.get("device")
    if ceilings.get("schema") != CEILINGS_SCHEMA:
        note(f"ceilings of {device}: kept by another version of llmbench")
        return None
    note(f"ceilings of {device}: measured {ceilings['measured_at']}; checking, about {RECHECK_SHARE * seconds:.0f} s")
    again = executor.call(worker_calls.RECHECK_CEILINGS, ceilings, RECHECK_SHARE * seconds)
    wrong = disagreements(ceilings, again)
    if not wrong and ceilings["warnings"] and not again["warnings"]:
        wrong = ["the machine, which was busy and is not any more"]
    if wrong:
        note(f"ceilings of {device}: changed: {', '.join(wrong)}")
        return None
    return ceilings | {"checked_at": now.isoformat(timespec="seconds")}
