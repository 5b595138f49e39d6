"""Measure what a device can do at best: its ceilings. `calibrate` is the page to read.

Every quantity is `{"value", "low", "high", "median", "samples", ...}` (`llmbench.worker.ceilings.sampling` has the
estimator) or None, with the reason under its path in `reasons`. Rates are per second: FLOP/s (`matmul`; int8:
operations) and bytes/s; times are seconds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llmbench.contract.ceilings import DEFAULT_SECONDS, precision_modes
from llmbench.worker.ceilings import bandwidth, matmul, transfers
from llmbench.worker.ceilings.sampling import ESTIMATOR, Metered, best_estimate, rounds, sweep
from llmbench.worker.ceilings.timing import SAMPLE_S
from llmbench.worker.machine.monitor import NOT_HERE, Monitor, others_pct
from llmbench.worker.torch_engine.engine import open_device

#: Shares of the time: finding shapes, measuring matmuls and memory in rounds, copies, starting operators.
SWEEP, MEASURE, COPIES, LAUNCH = 0.35, 0.5, 0.06, 0.03
MIN_COPY_S = 0.05
BUSY_PCT = 5.0
Quantities = dict[str, list[Metered]]


def measure_ceilings(
    device: str, precisions: Sequence[Any], seconds: float = DEFAULT_SECONDS, folder: str | None = None
) -> dict[str, Any]:
    """Return the measured ceilings of `device` in about `seconds`; `folder` is where a file is read from.

    `precisions` are PrecisionSpecs, or dicts of their fields; `precisions` of the result maps their names to matmul
    modes. Raises Unsupported where the device is absent, ValueError for a time that is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, not {seconds}")
    opened, clock, load = open_device(device), time.perf_counter, Monitor()
    load.start()
    with _active(opened):
        reasons: dict[str, str] = {}
        found, facts = _find_shapes(opened, SWEEP * seconds, reasons)
        levels = bandwidth.device_levels(opened)
        memory = _memory_candidates(opened, levels, reasons)
        rates = rounds({**found, **memory}, MEASURE * seconds, clock, SAMPLE_S[opened.type])
        copied, no_copies = transfers.copies(opened, max(MIN_COPY_S, COPIES * seconds), clock)
        launched, no_launch = transfers.launch(opened, max(MIN_COPY_S, LAUNCH * seconds), clock)
    read, no_read = transfers.storage(folder)
    reasons |= {**no_copies, **no_launch} | ({"storage_read_bytes_per_s": str(no_read)} if read is None else {})
    reasons["allreduce_bytes_per_s"] = "one worker: nothing to reduce over"
    matmuls = {mode: best_estimate(found[mode], rates[mode], **facts[mode]) for mode in found}
    return {
        "device": str(opened),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "estimator": ESTIMATOR,
        "precisions": precision_modes([_fields(p) for p in precisions]),
        "matmul": {mode: matmuls.get(mode) for mode in matmul.MODES},
        "memory_levels": [_level(level, memory, rates) for level in levels],
        **copied,
        **launched,
        "storage_read_bytes_per_s": read,
        "allreduce_bytes_per_s": None,
        **_load_facts(load, reasons),
        "reasons": reasons,
    }


def recheck(document: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Measure the matmuls of `document`, at the shapes it found, and main memory again.

    Returns `{"matmul": {mode: estimate}, "memory_levels": [level], "other_load_pct", "warnings"}`.
    """
    opened, load = open_device(document["device"]), Monitor()
    load.start()
    with _active(opened):
        found: Quantities = {}
        for mode, old in document["matmul"].items():
            if old is not None:
                shape = (old["shape"][0], old["shape"][1], old["shape"][2])
                found[mode] = matmul.contenders(mode, [shape], opened)
        levels = bandwidth.device_levels(opened)
        memory = _memory_candidates(opened, levels, {}, only=levels[-1:])
        rates = rounds({**found, **memory}, seconds, time.perf_counter, SAMPLE_S[opened.type], count=3)
    return {
        "matmul": {mode: best_estimate(found[mode], rates[mode]) for mode in found},
        "memory_levels": [_level(levels[-1], memory, rates)],
        **_load_facts(load, {}),
    }


def _find_shapes(
    device: torch.device, budget_s: float, reasons: dict[str, str]
) -> tuple[Quantities, dict[str, dict[str, Any]]]:
    """Return the fastest shapes of each mode the device has, and how their sweep ended."""
    wanted = []
    for mode in matmul.MODES:
        why_not = matmul.missing(mode, device)
        if why_not is None:
            wanted.append(mode)
        else:
            reasons[f"matmul.{mode}"] = why_not
    found: Quantities = {}
    facts: dict[str, dict[str, Any]] = {}
    for mode in wanted:
        try:
            swept = sweep(matmul.scales(mode, device), budget_s / len(wanted), time.perf_counter, SAMPLE_S[device.type])
        except (RuntimeError, NotImplementedError) as error:
            reasons[f"matmul.{mode}"] = f"the matmul fails: {str(error).splitlines()[0]}"
            continue
        if not swept.ranked:
            reasons[f"matmul.{mode}"] = "not enough free memory for the smallest matmul"
            continue
        ranked = [(c.facts["shape"][0], c.facts["shape"][1], c.facts["shape"][2]) for c in swept.ranked]
        found[mode] = matmul.contenders(mode, ranked, device)
        facts[mode] = {"sweep_ended": swept.stopped}
    return found, facts


def _memory_candidates(
    device: torch.device,
    levels: Sequence[bandwidth.Level],
    reasons: dict[str, str],
    only: Sequence[bandwidth.Level] | None = None,
) -> Quantities:
    if len(levels) == 1:
        reasons["memory_levels"] = "the sizes of the caches are not known here, so only main memory is measured"
    last_cache = max((level.capacity_bytes for level in levels[:-1]), default=0)
    return {
        f"{level.name}.{operation}": candidates
        for level in (levels if only is None else only)
        for operation, candidates in bandwidth.candidates(level, device, last_cache).items()
    }


def _level(level: bandwidth.Level, memory: Quantities, rates: Mapping[str, list[list[float]]]) -> dict[str, Any]:
    measured = {
        f"{operation}_bytes_per_s": best_estimate(memory[name], rates[name])
        for operation in bandwidth.ARRAYS
        for name in [f"{level.name}.{operation}"]
    }
    facts = dataclasses.asdict(level)
    return {"level": facts.pop("name"), **facts, **measured}


def _load_facts(load: Monitor, reasons: dict[str, str]) -> dict[str, Any]:
    other_pct = others_pct(load.stop())
    warnings = []
    if other_pct is None:
        reasons["other_load_pct"] = NOT_HERE
    elif other_pct and other_pct > BUSY_PCT:
        warnings.append(
            f"other processes used {other_pct:.0f} % of the CPU meanwhile; the ceilings may be too low, and are "
            "checked again after an hour"
        )
    return {"other_load_pct": other_pct, "warnings": warnings}


def _fields(precision: Any) -> dict[str, Any]:
    return dict(precision) if isinstance(precision, Mapping) else dataclasses.asdict(precision)


def _active(device: torch.device) -> Any:
    """Return a context in which CUDA events and graphs belong to the device."""
    import contextlib

    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
