"""Where work stands against what the machine can do: the roofline (Williams, Waterman, Patterson 2009), pure.

A number that is not known is None, and so are those that follow from it; no number is infinite. A *ceiling* is a number
per second, or a mapping with `value`, `low` and `high`; a *level* of memory is a mapping with `level` (its name),
`capacity_bytes` (None: no end) and measured bandwidths (`triad_bytes_per_s`, `copy_bytes_per_s` ...), each a ceiling.

Counted bytes are what operators read and write, so they come from the caches where they fit there. A working set W is
therefore held against the fastest that this hierarchy allows: as much of W as fits from each level, the rest from the
next. Where W fits into the first level that is this level's bandwidth, where it is far beyond the caches, memory's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from llmbench.contract.ceilings import MODE_OF_DTYPE

if TYPE_CHECKING:
    from llmbench.contract.record import CeilingEstimate, MemoryLevel, OperatorCount, OperatorTime

ALL = "all"  # the operator class of a whole phase, and the phase of a whole step

Ceiling: TypeAlias = "float | CeilingEstimate | None"


@dataclass(frozen=True)
class Range:
    """A number and how low and high it may be."""

    value: float
    low: float
    high: float

    def over(self, amount: float) -> Range:
        """Return `amount` divided by this: least where this is highest."""
        return Range(amount / self.value, amount / self.high, amount / self.low)

    def times(self, factor: float) -> Range:
        """Return this, scaled."""
        return Range(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, other: Range) -> Range:
        """Return the sum; both may be low together."""
        return Range(self.value + other.value, self.low + other.low, self.high + other.high)


NOTHING = Range(0.0, 0.0, 0.0)


def positive_or_none(number: float | None) -> float | None:
    """Return a positive finite number as it is, anything else as None."""
    return number if number is not None and math.isfinite(number) and number > 0 else None


def range_of(ceiling: Ceiling) -> Range | None:
    """Return a ceiling with its bounds; None where it is not known. Bounds that are missing are the value."""
    if not isinstance(ceiling, Mapping):
        value = positive_or_none(ceiling)
        return None if value is None else Range(value, value, value)
    value = positive_or_none(ceiling.get("value"))
    if value is None:
        return None
    low, high = positive_or_none(ceiling.get("low")) or value, positive_or_none(ceiling.get("high")) or value
    return Range(value, min(low, value), max(high, value))


# --- one piece of work ----------------------------------------------------------------------------------


def arithmetic_intensity(flops: float | None, bytes_: float | None) -> float | None:
    """Return FLOPs per byte."""
    return None if flops is None or positive_or_none(bytes_) is None else flops / bytes_  # type: ignore[operator]


def attainable_flops_per_s(intensity: float | None, peak: float | None, bandwidth: float | None) -> float | None:
    """Return the roof over an intensity: min(peak, intensity x bandwidth)."""
    if intensity is None or positive_or_none(peak) is None or positive_or_none(bandwidth) is None:
        return None
    return min(peak, intensity * bandwidth)  # type: ignore[type-var, operator]


def roofline_s(flops: float | None, bytes_: float | None, peak: float | None, bandwidth: float | None) -> float | None:
    """Return the least seconds: max(FLOPs / peak, bytes / bandwidth)."""
    if flops is None or bytes_ is None or positive_or_none(peak) is None or positive_or_none(bandwidth) is None:
        return None
    return max(flops / peak, bytes_ / bandwidth)  # type: ignore[operator]


def limiting_resource(
    flops: float | None, bytes_: float | None, peak: float | None, bandwidth: float | None
) -> str | None:
    """Return the resource that takes longer, "compute" or "memory"; None where it is not known or there is no work."""
    least_s = roofline_s(flops, bytes_, peak, bandwidth)
    if not least_s:
        return None
    return "compute" if flops / peak == least_s else "memory"  # type: ignore[operator]


def percent_of(amount: float | None, seconds: float | None, ceiling: Ceiling) -> Range | None:
    """Return amount per second in per cent of a ceiling, low and high by the ceiling's bounds."""
    limit = range_of(ceiling)
    if amount is None or positive_or_none(seconds) is None or limit is None:
        return None
    return limit.over(100.0 * amount / seconds)  # type: ignore[operator]


def mfu_pct(model_flops: float | None, step_s: float | None, datasheet_flops_per_s: Ceiling) -> float | None:
    """Return model FLOPs utilisation: FLOPs that the model needs, of the datasheet's dense peak (PaLM, appendix B)."""
    share = percent_of(model_flops, step_s, datasheet_flops_per_s)
    return share.value if share else None


def hfu_pct(hardware_flops: float | None, step_s: float | None, datasheet_flops_per_s: Ceiling) -> float | None:
    """Return hardware FLOPs utilisation: all FLOPs that were done, also those done twice, of the same peak."""
    return mfu_pct(hardware_flops, step_s, datasheet_flops_per_s)


def ceiling_pct(flops: float | None, seconds: float | None, measured_flops_per_s: Ceiling) -> Range | None:
    """Return the FLOPs that were done, in per cent of the peak measured on this machine for this precision."""
    return percent_of(flops, seconds, measured_flops_per_s)


# --- memory ---------------------------------------------------------------------------------------------


def memory_level(working_set_bytes: float | None, levels: Sequence[MemoryLevel]) -> str | None:
    """Return the name of the nearest level that holds a working set."""
    if working_set_bytes is None:
        return None
    ordered = _near_to_far(levels)
    fitting = [level for level in ordered if working_set_bytes <= _capacity(level)]
    return str((fitting or ordered[-1:])[0]["level"]) if ordered else None


def bandwidth_at(working_set_bytes: float | None, levels: Sequence[MemoryLevel]) -> Range | None:
    """Return the highest bytes per second at which a working set can be gone through (see the head of this file)."""
    if working_set_bytes is None or working_set_bytes < 0:
        return None
    return _bandwidth(working_set_bytes, _speeds(_near_to_far(levels)))


def _bandwidth(working_set_bytes: float, speeds: Sequence[tuple[float, Range]]) -> Range | None:
    if not speeds:
        return None
    if working_set_bytes == 0:
        return speeds[0][1]
    seconds, below = NOTHING, 0.0
    for number, (capacity, speed) in enumerate(speeds):
        reach = working_set_bytes if number == len(speeds) - 1 else min(capacity, working_set_bytes)
        seconds = seconds.plus(speed.over(max(0.0, reach - below)))
        below = max(below, reach)
    return Range(working_set_bytes / seconds.value, working_set_bytes / seconds.high, working_set_bytes / seconds.low)


def bandwidth_pct(
    bytes_: float | None, seconds: float | None, working_set_bytes: float | None, levels: Sequence[MemoryLevel]
) -> Range | None:
    """Return bytes per second in per cent of the bandwidth that the working set allows."""
    limit = bandwidth_at(working_set_bytes, levels)
    if bytes_ is None or positive_or_none(seconds) is None or limit is None:
        return None
    return limit.over(100.0 * bytes_ / seconds)  # type: ignore[operator]


def _capacity(level: MemoryLevel) -> float:
    capacity = level.get("capacity_bytes")
    return math.inf if capacity is None else float(capacity)


def _near_to_far(levels: Sequence[MemoryLevel]) -> list[MemoryLevel]:
    return sorted(levels, key=_capacity)


def _speeds(ordered: Sequence[MemoryLevel]) -> list[tuple[float, Range]]:
    """Return (capacity, bandwidth) from near to far: each level's best kernel, never slower than a farther level."""
    speeds: list[tuple[float, Range]] = []
    for level in reversed(ordered):
        kernels = [range_of(cast("Ceiling", c)) for name, c in level.items() if name.endswith("_bytes_per_s")]
        known = [kernel for kernel in kernels if kernel is not None]
        if known:
            known += [speeds[0][1]] if speeds else []
            best = Range(max(k.value for k in known), max(k.low for k in known), max(k.high for k in known))
            speeds.insert(0, (_capacity(level), best))
    return speeds


# --- phases and operator classes ------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """One phase, or one operator class of it, against the roofline."""

    phase: str
    operator_class: str  # ALL: the phase
    flops: float
    bytes: float
    seconds: float | None
    intensity: float | None  # FLOPs per byte
    bound: str | None  # "compute" or "memory"
    roofline_s: float | None  # sum over operators, which run one after the other
    attainable_flops_per_s: float | None
    ceiling_pct: Range | None
    bandwidth_pct: Range | None


def positions(
    rows: Sequence[OperatorCount],
    times: Iterable[OperatorTime] | None,
    peaks: Mapping[str, Ceiling],
    levels: Sequence[MemoryLevel],
    *,
    float32_as: str = "fp32",
) -> list[Position]:
    """Return the position of each (phase, operator class) and of each phase.

    `rows` and `times` are those of a trace, `peaks` and `levels` the `matmul` and `memory_levels` of a document of
    ceilings. `float32_as` is "tf32" where float32 products run in it. An operator's working set is what a call moves.
    """
    seconds_of = list(times or ())
    groups: dict[tuple[str, str], list[OperatorCount]] = {}
    for row in rows:
        groups.setdefault((row["phase"], row["operator_class"]), []).append(row)
        groups.setdefault((row["phase"], ALL), []).append(row)
    named = {**MODE_OF_DTYPE, "float32": float32_as}
    out = []
    for (phase, kind), group in groups.items():
        own = [t["seconds"] for t in seconds_of if t["phase"] == phase and kind in (t["operator_class"], ALL)]
        seconds = positive_or_none(sum(own)) if own else None
        out.append(_position(phase, kind, group, seconds, peaks, levels, named))
    return out


def step_position(
    rows: Sequence[OperatorCount],
    step_s: float | None,
    peaks: Mapping[str, Ceiling],
    levels: Sequence[MemoryLevel],
    *,
    float32_as: str = "fp32",
) -> Position:
    """Return the position of a whole step that takes `step_s`, measured with nothing attached; else as `positions`."""
    return _position(ALL, ALL, rows, positive_or_none(step_s), peaks, levels, {**MODE_OF_DTYPE, "float32": float32_as})


def _position(
    phase: str,
    kind: str,
    group: Sequence[OperatorCount],
    seconds: float | None,
    peaks: Mapping[str, Ceiling],
    levels: Sequence[MemoryLevel],
    named: Mapping[str, str],
) -> Position:
    flops, moved = sum(row["flops"] for row in group), sum(row["bytes"] for row in group)
    compute = [_compute_s(row, peaks, named) for row in group]
    speeds = _speeds(_near_to_far(levels))
    memory = [_memory_s(row, speeds) for row in group]
    compute_s, memory_s = _sum(compute), _sum(memory)
    least_s, limits = None, (0.0, 0.0)
    if compute_s is not None and memory_s is not None:
        least_s = sum(max(c.value, m.value) for c, m in zip(compute, memory, strict=True) if c and m)
        limits = (compute_s.value, memory_s.value)
    return Position(
        phase=phase,
        operator_class=kind,
        flops=flops,
        bytes=moved,
        seconds=seconds,
        intensity=arithmetic_intensity(flops, moved),
        bound=None if max(limits) == 0 else "compute" if limits[0] >= limits[1] else "memory",
        roofline_s=least_s,
        attainable_flops_per_s=flops / least_s if least_s else None,
        ceiling_pct=compute_s.times(100 / seconds) if compute_s is not None and seconds else None,
        bandwidth_pct=memory_s.times(100 / seconds) if memory_s is not None and seconds else None,
    )


def _compute_s(row: OperatorCount, peaks: Mapping[str, Ceiling], named: Mapping[str, str]) -> Range | None:
    if not row["flops"]:
        return NOTHING
    peak = range_of(peaks.get(named.get(row["dtype"], ""), None))
    return peak.over(row["flops"]) if peak is not None else None


def _memory_s(row: OperatorCount, speeds: Sequence[tuple[float, Range]]) -> Range | None:
    speed = _bandwidth(row["bytes"] / row["calls"], speeds)
    return speed.over(row["bytes"]) if speed is not None else None


def _sum(parts: Iterable[Range | None]) -> Range | None:
    total = NOTHING
    for part in parts:
        if part is None:
            return None
        total = total.plus(part)
    return total
