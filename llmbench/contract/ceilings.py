"""The measured ceilings of a machine, and its datasheet: pure functions of documents (`Ceilings`).

`llmbench.worker.ceilings.calibrate` measures, `llmbench.execution.calibration` keeps the documents. A document has the
ceiling of each matmul *mode* (fp32, tf32, bf16, fp16, fp8, int8), and the mode in which each precision computes its
matmuls. What is not known is None, never infinite, zero or guessed; `reasons` of the document says why.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from llmbench.contract.cell import content_id

if TYPE_CHECKING:
    from llmbench.contract.record import CeilingEstimate, Ceilings, Datasheet, JsonObject, MatmulPeak, MemoryLevel

#: Version of the document and of how it is measured; another one makes a kept document stale.
CEILINGS_SCHEMA = 1
#: How long calibration takes, in seconds, by default.
DEFAULT_SECONDS = 10.0
MAX_AGE = datetime.timedelta(days=30)
#: After this time a document is checked again that was measured while other processes were busy.
MAX_BUSY_AGE = datetime.timedelta(hours=1)
#: Two measurements of a ceiling agree when their intervals, wider by this share, overlap.
TOLERANCE = 0.05
#: dtype of the matmul's operands -> mode
MODE_OF_DTYPE = {
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
    "int8": "int8",
}
MODES = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8")
OPERATIONS = ("triad", "copy", "read")
#: Parts of a document that are no measurement, and not part of its id.
NOT_MEASURED = ("ceilings_id", "checked_at", "precisions")


def precision_modes(precisions: Iterable[JsonObject]) -> dict[str, str]:
    """Return the matmul mode of each precision (fields of a PrecisionSpec) by name; each mode's own name is one, too.

    A precision named like a mode has that one; else its matmuls have the dtype of the autocast region, or of the
    parameters. One whose dtype has no mode is left out.
    """
    modes = {mode: mode for mode in MODES}
    for fields in precisions:
        dtype = fields.get("autocast") or fields.get("parameters", "float32")
        mode = MODE_OF_DTYPE.get(dtype)
        if mode == "fp32" and fields.get("matmul") == "tf32":
            mode = "tf32"
        if mode is not None:
            modes.setdefault(fields["name"], mode)
    return modes


def matmul_peak(doc: Ceilings, precision: str) -> MatmulPeak | None:
    """Return the estimate of the matmul ceiling (FLOP/s) of a precision, None where it is not known."""
    mode = doc.get("precisions", {}).get(precision)
    estimate = doc.get("matmul", {}).get(mode or "")
    return None if estimate is None else {**estimate, "mode": mode}


def datasheet_peak(doc: Ceilings, precision: str) -> float | None:
    """Return the datasheet's dense matmul peak (FLOP/s) of a precision, None where there is none."""
    mode = doc.get("precisions", {}).get(precision)
    entry = doc.get("datasheet")
    return None if entry is None else entry["flops_per_s"].get(mode or "")


def datasheet_entry(name: str, device: str) -> tuple[Datasheet | None, str | None]:
    """Return the datasheet of the device called `name`, in FLOP/s and bytes/s, and why there is none."""
    if device.partition(":")[0] != "cuda":
        return None, f"no vendor prints dense matmul peaks for a {device} device as it is clocked here"
    matches = [entry for entry in datasheet() if re.fullmatch(entry["pattern"], name)]
    if len(matches) != 1:
        return None, f"no entry of the datasheet table matches {name!r}" if not matches else f"{name!r} is ambiguous"
    entry = matches[0]
    flops = {mode: None if (t := entry["dense_tflops"].get(mode)) is None else t * 1e12 for mode in MODES}
    return {
        "name": entry["name"],
        "flops_per_s": flops,
        "memory_bytes_per_s": entry["memory_gb_per_s"] * 1e9,
        "source": entry["source"],
    }, None


def datasheet() -> list[JsonObject]:
    """Return the entries of the packaged table, `datasheet.yaml`."""
    from importlib.resources import files

    import yaml

    text = (files("llmbench") / "contract" / "datasheet.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load(text)["devices"])


def fingerprint(environment: JsonObject) -> str:
    """Return a hash of what decides a machine's ceilings: CPU, cores, memory, torch, its threads, and the devices."""
    memory_mib = environment.get("memory_mib")
    facts = {
        "cpu": environment.get("cpu"),
        "usable_cores": environment.get("usable_cores"),
        "memory_gib": None if memory_mib is None else round(memory_mib / 1024),
        "torch": (environment.get("packages") or {}).get("torch"),
        "torch_threads": environment.get("torch_threads"),
        "capability": environment.get("torch_cpu_capability"),
        "devices": [[d.get("device"), d.get("name")] for d in environment.get("devices") or ()],
    }
    return content_id(facts)


def device_name(environment: JsonObject, device: str) -> str | None:
    """Return the name of a device of the environment; `cuda` is the first one."""
    wanted = "cuda:0" if device == "cuda" else device
    return next((d.get("name") for d in environment.get("devices") or () if d.get("device") == wanted), None)


def best_device(environment: JsonObject) -> str:
    """Return the device that `auto` means: the first accelerator there is, else the CPU."""
    names = [d["device"] for d in environment.get("devices") or ()]
    return next((name for name in names if name != "cpu"), "cpu")


def complete(measured: Ceilings, environment: JsonObject, device: str, now: datetime.datetime) -> Ceilings:
    """Return the whole document of measured ceilings: with name, date, datasheet and `ceilings_id`."""
    name = device_name(environment, device)
    entry, why_not = datasheet_entry(name or "", device)
    doc: JsonObject = {
        "schema": CEILINGS_SCHEMA,
        "measured_at": now.isoformat(timespec="seconds"),
        **measured,
        "name": name,
        "fingerprint": fingerprint(environment),
        "datasheet": entry,
        "reasons": {**measured["reasons"], **({"datasheet": why_not} if why_not else {})},
    }
    return cast("Ceilings", {"ceilings_id": ceilings_id(doc), **doc})


def ceilings_id(doc: Mapping[str, object]) -> str:
    """Return the hash of the measurements in a document."""
    return content_id({key: value for key, value in doc.items() if key not in NOT_MEASURED})


def is_stale(doc: Ceilings, now: datetime.datetime) -> bool:
    """Return whether a document in the cache has to be checked again before it is used.

    After 30 days; after an hour when other processes were busy while it was measured; at once when another version of
    llmbench's ceilings wrote it, or its date cannot be read or lies in the future.
    """
    if doc.get("schema") != CEILINGS_SCHEMA:
        return True
    try:
        age = now - datetime.datetime.fromisoformat(doc.get("checked_at") or doc["measured_at"])
    except (KeyError, TypeError, ValueError):
        return True
    return not datetime.timedelta(0) <= age <= (MAX_BUSY_AGE if doc.get("warnings") else MAX_AGE)


def disagreements(doc: Ceilings, again: Ceilings) -> list[str]:
    """Return the names of the ceilings that a second, partial measurement does not confirm.

    Two estimates agree when their intervals, widened by 5 %, overlap. A lower one measured while other processes were
    busy says nothing about the ceiling.
    """
    wrong = []
    for name, old, new in _pairs(doc, again):
        if old is None or new is None:
            wrong.append(name)
            continue
        lower = _high(new) * (1 + TOLERANCE) < _low(old)
        higher = _low(new) > _high(old) * (1 + TOLERANCE)
        if higher or (lower and not again.get("warnings")):
            wrong.append(name)
    return wrong


def _pairs(doc: Ceilings, again: Ceilings) -> list[tuple[str, CeilingEstimate | None, CeilingEstimate | None]]:
    pairs = [(f"matmul.{mode}", doc["matmul"].get(mode), new) for mode, new in again["matmul"].items()]
    levels = {level["level"]: level for level in doc["memory_levels"]}
    for level in again["memory_levels"]:
        old = levels.get(level["level"], {})
        for operation in OPERATIONS:
            pairs.append((f"{level['level']}.{operation}", _rate(old, operation), _rate(level, operation)))
    return pairs


def _rate(level: MemoryLevel, operation: str) -> CeilingEstimate | None:
    return cast("Mapping[str, CeilingEstimate]", level).get(f"{operation}_bytes_per_s")


def _low(estimate: CeilingEstimate) -> float:
    return float(estimate["value"] if estimate["low"] is None else estimate["low"])


def _high(estimate: CeilingEstimate) -> float:
    return float(estimate["value"] if estimate["high"] is None else estimate["high"])
