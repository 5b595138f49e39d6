"""What removing a part of a step should give: arithmetic on records that predictions share. Pure, standard library."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from llmbench.contract.record import Intervention, Record


def step_s(record: Mapping[str, object]) -> float | None:
    """Return the median of the clean step times (seconds), None without any."""
    times = cast("Record", record).get("samples", {}).get("step_s")
    return statistics.median(times) if times else None


def without(record: Mapping[str, object], part_s: Sequence[float], left_s: float = 0.0) -> float | None:
    """Return T / (T - t + left): the step time over that of a step whose part of `t` seconds takes `left_s` instead.

    T is the median clean step of `record`, t the median of `part_s`. None where either is not known, or where the part
    is all of the step.
    """
    whole = step_s(record)
    if whole is None or not part_s:
        return None
    rest = whole - statistics.median(part_s) + left_s
    return whole / rest if rest > 0 else None


def part_of(record: Mapping[str, object], cause: str) -> list[float]:
    """Return the seconds per step that the probe of `cause` found its part to take; empty where it found none."""
    return list((_trial(record, cause).get("facts") or {}).get("part_s") or ())


def headroom_of(record: Mapping[str, object], cause: str) -> float | None:
    """Return the headroom of `cause` in `record`: median over pairs where it was measured, else as predicted."""
    trial = _trial(record, cause)
    if trial.get("treated_s"):
        share = trial.get("share") or 1.0
        pairs = zip(trial["clean_s"], trial["treated_s"], strict=True)
        rest = statistics.median(1 - (1 - treated / clean) / share for clean, treated in pairs)
        return 1 / rest if rest > 0 else None
    return trial.get("predicted_x")


def _trial(record: Mapping[str, object], cause: str) -> Intervention:
    return (cast("Record", record).get("interventions") or {}).get(cause) or {}
