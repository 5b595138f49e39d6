"""How fast a cell is against what the machine can do: FLOPs, utilisation, roofline. Pure functions of records.

Counts are of the mean step, so the seconds they are divided by are mean seconds too: all of the clean pass over its
steps. A trace is of one batch; its operators are held against the seconds that the mean step takes for as much work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.analysis import roofline
from llmbench.analysis.roofline import Position, Range
from llmbench.contract import ceilings as machine
from llmbench.report.cells.part import Part, explain, unknown

Record = Mapping[str, Any]

FIELDS = (
    "flops_per_step",
    "model_flops_per_step",
    "bytes_per_step",
    "kernels_per_step",
    "arithmetic_intensity",
    "mfu_pct",
    "hfu_pct",
    "ceiling_pct",
    "ceiling_pct_range",
    "bandwidth_pct",
    "bandwidth_pct_range",
    "roofline_bound",
    "operators",
    "positions",
)
NO_CEILINGS = "this machine's ceilings were not measured"
NOT_TRACED = "no repeat was traced"


def mean_step_s(good: Sequence[Record]) -> float | None:
    """Return all seconds of the clean passes over all of their steps."""
    times = [seconds for record in good for seconds in record["samples"].get("step_s") or ()]
    return sum(times) / len(times) if times else None


def summarise_utilisation(good: Sequence[Record], ceilings: Mapping[str, Mapping[str, Any]], why: str | None) -> Part:
    """Return the fields of a cell named in FIELDS: counts of the traced step, utilisation, and roofline positions."""
    traced = next((record for record in good if record.get("operators")), None)
    step_s = mean_step_s(good) if traced else None
    if traced is None or step_s is None:
        return unknown(FIELDS, why or NOT_TRACED)
    out: dict[str, Any] = dict.fromkeys(FIELDS)
    counts, precision = traced["counts"], traced["cell"]["precision"]
    out |= {f"{name}_per_step": counts.get(name) for name in ("flops", "model_flops", "bytes", "kernels")}
    out["arithmetic_intensity"] = roofline.arithmetic_intensity(counts.get("flops"), counts.get("bytes"))
    doc = ceilings.get(traced.get("ceilings_id") or "")
    if doc is not None:
        peak = machine.datasheet_peak(doc, precision)
        out["mfu_pct"] = roofline.mfu_pct(counts.get("model_flops"), step_s, peak)
        out["hfu_pct"] = roofline.hfu_pct(counts.get("flops"), step_s, peak)
        out |= _against_ceilings(traced, step_s, doc)
        out["positions"] = operator_positions(traced, good, doc)
    out["operators"] = operator_shares(traced, good)
    return explain(out, _reasons(doc, has_formula=out["model_flops_per_step"] is not None))


def _against_ceilings(traced: Record, step_s: float, doc: Mapping[str, Any]) -> dict[str, Any]:
    """Return the step's position under this machine's roofline."""
    rows, size = traced["operators"]["rows"], _mean_over_traced(traced)
    found = roofline.step_position(
        rows, step_s / size, doc["matmul"], doc["memory_levels"], float32_as=_mode(traced, doc)
    )
    return {
        "ceiling_pct": found.ceiling_pct.value if found.ceiling_pct else None,
        "ceiling_pct_range": _range(found.ceiling_pct),
        "bandwidth_pct": found.bandwidth_pct.value if found.bandwidth_pct else None,
        "bandwidth_pct_range": _range(found.bandwidth_pct),
        "roofline_bound": found.bound,
    }


def _mean_over_traced(traced: Record) -> float:
    """Return how much larger the mean step is than the traced one."""
    flops = traced["operators"]["totals"]["flops"]
    return traced["counts"]["flops"] / flops if flops else 1.0


def _mode(traced: Record, doc: Mapping[str, Any]) -> str:
    return "tf32" if doc.get("precisions", {}).get(traced["cell"]["precision"]) == "tf32" else "fp32"


def _range(estimate: Range | None) -> list[float] | None:
    return None if estimate is None else [estimate.low, estimate.high]


def _reasons(doc: Mapping[str, Any] | None, *, has_formula: bool) -> dict[str, str]:
    """Return why each field of FIELDS is not known, should it be None; `has_formula`: for the model's FLOPs."""
    reasons = dict.fromkeys(FIELDS, "a ceiling of this precision or memory is not known" if doc else NO_CEILINGS)
    if doc and doc.get("datasheet"):
        sheet = "no datasheet peak for this precision"
    else:
        sheet = doc.get("reasons", {}).get("datasheet") if doc else NO_CEILINGS
    formula = "the model's plugin has no formula for its FLOPs"
    if sheet:
        reasons |= {"mfu_pct": sheet, "hfu_pct": sheet}
    if not has_formula:
        reasons["mfu_pct"] = formula
    return reasons | {
        "operators": "operators have no times here; see the trace's notes",
        "model_flops_per_step": formula,
    }


def phase_means(good: Sequence[Record]) -> dict[str, float]:
    """Return phase -> mean seconds in the phase passes."""
    times: dict[str, list[float]] = {}
    for record in good:
        for name, seconds in (record.get("phases") or {}).items():
            times.setdefault(name.removesuffix("_s"), []).extend(seconds)
    return {name: sum(seconds) / len(seconds) for name, seconds in times.items() if seconds}


def operator_shares(traced: Record, good: Sequence[Record]) -> dict[str, float] | None:
    """Return operator class -> share of the step, `host` and `input` included; None without times.

    Profiling slows small operators, so the classes share each phase as the profiler saw them, and the phases share
    the step as the phase pass did.
    """
    times, spent = traced["operators"].get("times"), traced["operators"].get("phases_s") or {}
    means = phase_means(good)
    whole = sum(means.values())
    if not times or not whole:
        return None
    shares: dict[str, float] = {}
    for row in times:
        if spent.get(row["phase"]) and row["phase"] in means:
            part = row["seconds"] / spent[row["phase"]] * means[row["phase"]] / whole
            shares[row["operator_class"]] = shares.get(row["operator_class"], 0.0) + part
    seen = {row["phase"] for row in times}
    rest = sum(mean for phase, mean in means.items() if phase not in seen) / whole
    shares["input"] = shares.get("input", 0.0) + rest
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def operator_positions(traced: Record, good: Sequence[Record], doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the roofline position of each phase and operator class, at the seconds of the phase pass.

    These are scaled to the traced batch; None where operators have no times.
    """
    trace, means, size = traced["operators"], phase_means(good), _mean_over_traced(traced)
    spent = trace.get("phases_s") or {}
    times = [
        {**row, "seconds": row["seconds"] / spent[row["phase"]] * means[row["phase"]] / size}
        for row in trace.get("times") or ()
        if spent.get(row["phase"]) and row["phase"] in means
    ]
    found = roofline.positions(trace["rows"], times, doc["matmul"], doc["memory_levels"], float32_as=_mode(traced, doc))
    return [_plain(position) for position in found]


def _plain(position: Position) -> dict[str, Any]:
    fields = dataclasses.asdict(position)
    return {**fields, **{name: fields[name] and fields[name]["value"] for name in ("ceiling_pct", "bandwidth_pct")}}
