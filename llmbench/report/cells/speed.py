"""The speed of a cell compared with the limits of its machine: FLOPs, utilisation, roofline. Pure functions of records.

Counts are of the mean step. So the seconds that they are divided by are mean seconds too: the whole clean pass over the
number of its steps. A trace is of one batch. Its operators are compared with the seconds that the mean step takes for
as much work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from llmbench.analysis import roofline
from llmbench.analysis.roofline import Position, Range
from llmbench.contract.ceilings import datasheet_peak
from llmbench.report.cells.part import Part, explain, unknown

if TYPE_CHECKING:
    from llmbench.contract.record import Ceilings, Counts, Ends, OperatorTime, PositionRow, Record, Trace


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


class TracedStep(NamedTuple):
    """The trace of one step, and how it compares with the mean step."""

    trace: Trace
    #: Work (FLOPs) of the mean step over that of the traced one.
    work_ratio: float
    precision: str

    def float32_mode(self, machine: Ceilings) -> str:
        """Return the mode in which the machine multiplies float32 matrices: fp32 or tf32."""
        return "tf32" if machine.get("precisions", {}).get(self.precision) == "tf32" else "fp32"


def mean_step_s(good: Sequence[Record]) -> float | None:
    """Return the mean step time in seconds, over all steps of the clean passes."""
    times = [seconds for record in good for seconds in record["samples"].get("step_s") or ()]
    return sum(times) / len(times) if times else None


def summarise_utilisation(good: Sequence[Record], ceilings: Mapping[str, Ceilings], why: str | None) -> Part:
    """Return the fields of a cell named in FIELDS: counts of the traced step, utilisation, and roofline positions."""
    record = next((record for record in good if record.get("operators")), None)
    trace = record and record["operators"]
    step_s = mean_step_s(good) if record else None
    if record is None or not trace or step_s is None:
        return unknown(FIELDS, why or NOT_TRACED)
    counts, precision = record["counts"], record["cell"]["precision"]
    fields: dict[str, object] = dict.fromkeys(FIELDS)
    fields |= {
        "flops_per_step": counts.get("flops"),
        "model_flops_per_step": counts.get("model_flops"),
        "bytes_per_step": counts.get("bytes"),
        "kernels_per_step": counts.get("kernels"),
        "arithmetic_intensity": roofline.arithmetic_intensity(counts.get("flops"), counts.get("bytes")),
        "operators": operator_shares(trace, good),
    }
    machine = ceilings.get(record.get("ceilings_id") or "")
    if machine is not None:
        peak = datasheet_peak(machine, precision)
        step = TracedStep(trace, _work_ratio(counts, trace), precision)
        fields["mfu_pct"] = roofline.mfu_pct(counts.get("model_flops"), step_s, peak)
        fields["hfu_pct"] = roofline.hfu_pct(counts.get("flops"), step_s, peak)
        fields |= _against_ceilings(step, step_s, machine)
        fields["positions"] = operator_positions(step, good, machine)
    return explain(fields, _reasons(machine, has_formula=fields["model_flops_per_step"] is not None))


def _against_ceilings(step: TracedStep, step_s: float, machine: Ceilings) -> dict[str, object]:
    """Return the step's position under this machine's roofline."""
    position = roofline.step_position(
        step.trace["rows"],
        step_s / step.work_ratio,
        machine["matmul"],
        machine["memory_levels"],
        float32_as=step.float32_mode(machine),
    )
    return {
        "ceiling_pct": position.ceiling_pct.value if position.ceiling_pct else None,
        "ceiling_pct_range": _ends(position.ceiling_pct),
        "bandwidth_pct": position.bandwidth_pct.value if position.bandwidth_pct else None,
        "bandwidth_pct_range": _ends(position.bandwidth_pct),
        "roofline_bound": position.bound,
    }


def _work_ratio(counts: Counts, trace: Trace) -> float:
    """Return the work (FLOPs) of the mean step over that of the traced one."""
    traced, mean = trace["totals"]["flops"], counts["flops"]
    return mean / traced if traced and mean is not None else 1.0


def _ends(estimate: Range | None) -> Ends | None:
    return None if estimate is None else [estimate.low, estimate.high]


def _reasons(machine: Ceilings | None, *, has_formula: bool) -> dict[str, str]:
    """Return, for each field of FIELDS, why it would not be known; `has_formula`: the model's FLOPs are known."""
    no_ceiling = "a ceiling of this precision or memory is not known" if machine else NO_CEILINGS
    reasons = dict.fromkeys(FIELDS, no_ceiling)
    if machine and machine.get("datasheet"):
        no_peak = "no datasheet peak for this precision"
    else:
        no_peak = machine.get("reasons", {}).get("datasheet") or no_ceiling if machine else NO_CEILINGS
    no_formula = "the model's plugin has no formula for its FLOPs"
    return reasons | {
        "mfu_pct": no_peak if has_formula else no_formula,
        "hfu_pct": no_peak,
        "operators": "operators have no times here; see the trace's notes",
        "model_flops_per_step": no_formula,
    }


def phase_means(good: Sequence[Record]) -> dict[str, float]:
    """Return phase -> mean seconds in the phase passes."""
    times: dict[str, list[float]] = {}
    for record in good:
        for name, seconds in (record.get("phases") or {}).items():
            times.setdefault(name.removesuffix("_s"), []).extend(seconds)
    return {name: sum(seconds) / len(seconds) for name, seconds in times.items() if seconds}


def operator_shares(trace: Trace, good: Sequence[Record]) -> dict[str, float] | None:
    """Return operator class -> share of the step, `host` and `input` included; None without times.

    Profiling slows small operators. So the profiler says only how the classes share each phase, and the phase pass
    says how the phases share the step.
    """
    times, traced_s = trace.get("times"), trace.get("phases_s") or {}
    means = phase_means(good)
    whole = sum(means.values())
    if not times or not whole:
        return None
    shares: dict[str, float] = {}
    for row in times:
        if traced_s.get(row["phase"]) and row["phase"] in means:
            part = row["seconds"] / traced_s[row["phase"]] * means[row["phase"]] / whole
            shares[row["operator_class"]] = shares.get(row["operator_class"], 0.0) + part
    traced = {row["phase"] for row in times}
    rest = sum(mean for phase, mean in means.items() if phase not in traced) / whole
    shares["input"] = shares.get("input", 0.0) + rest
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def operator_positions(step: TracedStep, good: Sequence[Record], machine: Ceilings) -> list[PositionRow]:
    """Return the roofline position of each phase and operator class, at the seconds of the phase pass.

    These are scaled to the traced batch; None where operators have no times.
    """
    trace, means = step.trace, phase_means(good)
    traced_s = trace.get("phases_s") or {}
    times: list[OperatorTime] = [
        {**row, "seconds": row["seconds"] / traced_s[row["phase"]] * means[row["phase"]] / step.work_ratio}
        for row in trace.get("times") or ()
        if traced_s.get(row["phase"]) and row["phase"] in means
    ]
    positions = roofline.positions(
        trace["rows"],
        times,
        machine["matmul"],
        machine["memory_levels"],
        float32_as=step.float32_mode(machine),
    )
    return [_position_row(position) for position in positions]


def _position_row(position: Position) -> PositionRow:
    """Return a position as a row of a report: the estimates without their intervals."""
    fields = dataclasses.asdict(position)
    fields |= {name: fields[name] and fields[name]["value"] for name in ("ceiling_pct", "bandwidth_pct")}
    return cast("PositionRow", fields)
