"""Measuring the ceilings of a device, the best that it can do. `measure_ceilings` is the page to read.

Every quantity is a `CeilingEstimate` (`llmbench.worker.ceilings.sampling` has the estimator) or None, with the reason
under its path in `reasons`. Rates are per second: FLOP/s (`matmul`; int8: operations) and bytes/s; times are seconds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from llmbench.contract.ceilings import DEFAULT_SECONDS, precision_modes
from llmbench.worker.ceilings import bandwidth, matmul, transfers
from llmbench.worker.ceilings.sampling import ESTIMATOR, Metered, best_estimate, rounds, sweep
from llmbench.worker.ceilings.timing import SAMPLE_S
from llmbench.worker.machine.monitor import NOT_HERE, Monitor, others_pct
from llmbench.worker.torch_engine.engine import open_device

if TYPE_CHECKING:
    from llmbench.contract.record import Ceilings, MemoryLevel

#: Shares of the time.
SWEEP_SHARE = 0.35  # finding the fastest shapes of matmuls
MEASURE_SHARE = 0.5  # matmuls and memory, in rounds
COPIES_SHARE = 0.06
LAUNCH_SHARE = 0.03
MIN_COPY_S = 0.05  # for copies, and for starting operators, however short the time is
BUSY_PCT = 5.0  # of the CPU: ceilings measured while others take more are checked again soon
Quantities = dict[str, list[Metered]]


def measure_ceilings(
    device: str, precisions: Sequence[Any], seconds: float = DEFAULT_SECONDS, folder: str | None = None
) -> Ceilings:
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
        matmul_candidates, endings = _find_shapes(opened, SWEEP_SHARE * seconds, reasons)
        levels = bandwidth.device_levels(opened)
        memory = _memory_candidates(opened, levels, reasons)
        rates = rounds({**matmul_candidates, **memory}, MEASURE_SHARE * seconds, clock, SAMPLE_S[opened.type])
        copy_rates, no_copies = transfers.copies(opened, max(MIN_COPY_S, COPIES_SHARE * seconds), clock)
        start_s, no_launch = transfers.launch(opened, max(MIN_COPY_S, LAUNCH_SHARE * seconds), clock)
    read, no_read = transfers.storage(folder)
    reasons |= {**no_copies, **no_launch} | ({"storage_read_bytes_per_s": str(no_read)} if read is None else {})
    reasons["allreduce_bytes_per_s"] = "one worker: nothing to reduce over"
    matmuls = {
        mode: best_estimate(candidates, rates[mode], sweep_ended=endings[mode])
        for mode, candidates in matmul_candidates.items()
    }
    other_load_pct, warnings = _other_load(load, reasons)
    return {
        "device": str(opened),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "estimator": ESTIMATOR,
        "precisions": precision_modes([_fields_of(p) for p in precisions]),
        "matmul": {mode: matmuls.get(mode) for mode in matmul.MODES},
        "memory_levels": [_level(level, memory, rates) for level in levels],
        "host_to_device": copy_rates["host_to_device"],
        "device_to_host": copy_rates["device_to_host"],
        "launch_latency_s": start_s["launch_latency_s"],
        "round_trip_s": start_s["round_trip_s"],
        "storage_read_bytes_per_s": read,
        "allreduce_bytes_per_s": None,
        "other_load_pct": other_load_pct,
        "warnings": warnings,
        "reasons": reasons,
    }


def recheck(document: Ceilings, seconds: float) -> Ceilings:
    """Measure the matmuls of `document`, at its shapes, and main memory again.

    The result has `matmul`, `memory_levels`, `other_load_pct` and `warnings`.
    """
    opened, load = open_device(document["device"]), Monitor()
    load.start()
    with _active(opened):
        matmul_candidates: Quantities = {}
        for mode, old in document["matmul"].items():
            if old is not None:
                shape = (old["shape"][0], old["shape"][1], old["shape"][2])
                matmul_candidates[mode] = matmul.contenders(mode, [shape], opened)
        levels = bandwidth.device_levels(opened)
        memory = _memory_candidates(opened, levels, {}, only=levels[-1:])
        rates = rounds({**matmul_candidates, **memory}, seconds, time.perf_counter, SAMPLE_S[opened.type], count=3)
    other_load_pct, warnings = _other_load(load, {})
    return {
        "matmul": {mode: best_estimate(candidates, rates[mode]) for mode, candidates in matmul_candidates.items()},
        "memory_levels": [_level(levels[-1], memory, rates)],
        "other_load_pct": other_load_pct,
        "warnings": warnings,
    }


def _find_shapes(device: torch.device, budget_s: float, reasons: dict[str, str]) -> tuple[Quantities, dict[str, str]]:
    """Return the fastest shapes of each mode that the device has, and why each sweep ended."""
    modes = []
    for mode in matmul.MODES:
        why_not = matmul.missing(mode, device)
        if why_not is None:
            modes.append(mode)
        else:
            reasons[f"matmul.{mode}"] = why_not
    candidates: Quantities = {}
    endings: dict[str, str] = {}
    for mode in modes:
        try:
            best = sweep(matmul.scales(mode, device), budget_s / len(modes), time.perf_counter, SAMPLE_S[device.type])
        except (RuntimeError, NotImplementedError) as error:
            reasons[f"matmul.{mode}"] = f"the matmul fails: {str(error).splitlines()[0]}"
            continue
        if not best.fastest:
            reasons[f"matmul.{mode}"] = "not enough free memory for the smallest matmul"
            continue
        shapes = [(c.facts["shape"][0], c.facts["shape"][1], c.facts["shape"][2]) for c in best.fastest]
        candidates[mode] = matmul.contenders(mode, shapes, device)
        endings[mode] = best.ending
    return candidates, endings


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


def _level(level: bandwidth.Level, memory: Quantities, rates: Mapping[str, list[list[float]]]) -> MemoryLevel:
    bandwidths = {
        f"{operation}_bytes_per_s": best_estimate(memory[name], rates[name])
        for operation in bandwidth.ARRAYS
        for name in [f"{level.name}.{operation}"]
    }
    facts = dataclasses.asdict(level)
    return cast("MemoryLevel", {"level": facts.pop("name"), **facts, **bandwidths})


def _other_load(load: Monitor, reasons: dict[str, str]) -> tuple[float | None, list[str]]:
    """Return the percent of the CPU that others took meanwhile, and a warning where that is much."""
    other_pct = others_pct(load.stop())
    warnings = []
    if other_pct is None:
        reasons["other_load_pct"] = NOT_HERE
    elif other_pct and other_pct > BUSY_PCT:
        warnings.append(
            f"other processes used {other_pct:.0f} % of the CPU meanwhile; the ceilings may be too low, and are "
            "checked again after an hour"
        )
    return other_pct, warnings


def _fields_of(precision: Any) -> dict[str, object]:
    return dict(precision) if isinstance(precision, Mapping) else dataclasses.asdict(precision)


def _active(device: torch.device) -> Any:
    """Return a context in which CUDA events and graphs belong to the device."""
    import contextlib

    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
