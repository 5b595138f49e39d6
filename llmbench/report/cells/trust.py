"""How far a cell's numbers can be trusted: unexplained time, and the shape of the step times. Pure functions."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from llmbench import stats
from llmbench.analysis import process_counts
from llmbench.report.cells.part import Part, explain

if TYPE_CHECKING:
    from llmbench.contract.record import Ends, Record

#: Above this the phases do not explain the step.
RESIDUAL_LIMIT_PCT = 5.0
#: Fewer pairs of steps give no interval at the level of 95 %.
LEAST_PAIRS = 6
FIELDS = ("phase_residual_pct", "phase_residual_ci", "outlier_steps", "autocorrelation", "steps_wanted", "warmup_steps")


class Residual(NamedTuple):
    """The part of a step that its phases leave unexplained, in percent of the step, with its 95 % interval."""

    pct: float | None
    ci: Ends | None


def describe_steps(cells: Sequence[Sequence[Record]]) -> list[stats.Description | None]:
    """Describe the step times in the good records of each cell; None for a cell that was not timed.

    All cells at once are faster than one after the other.
    """
    samples = [[times for r in good if (times := r["samples"].get("step_s"))] for good in cells]
    descriptions = iter(stats.describe_all([times for times in samples if times]))
    return [next(descriptions) if times else None for times in samples]


def summarise_trust(
    good: Sequence[Record], residual: Residual, steps: stats.Description | None, why: str | None
) -> Part:
    """Return the fields named in FIELDS and `unreliable`, the reasons not to rely on the interval (mostly none)."""
    timing = [r["counts"].get("timing") or {} for r in good]
    unreliable = list(steps.unreliable) if steps else []
    if any(t.get("steady") is False for t in timing):
        unreliable.append("the step time was still changing when warm-up ended")
    fields = {
        "phase_residual_pct": residual.pct,
        "phase_residual_ci": residual.ci,
        "outlier_steps": steps and steps.outliers,
        "autocorrelation": max(steps.autocorrelations, default=None) if steps else None,
        "steps_wanted": max((t["samples_wanted"] for t in timing if t.get("samples_wanted")), default=None),
        "warmup_steps": max((t["warmup_steps"] for t in timing if t.get("warmup_steps") is not None), default=None),
        "unreliable": unreliable,
    }
    reasons = dict.fromkeys(FIELDS, why or "not measured")
    if residual.pct is not None:
        reasons["phase_residual_ci"] = f"fewer than {LEAST_PAIRS} pairs of steps"
    return explain(fields, reasons)


def summarise_precision(
    good: Sequence[Record], reached: stats.TwoStageInterval | None, estimate: stats.Estimate | None, why: str | None
) -> Part:
    """Return the half-width (percent) of the step time's interval: as the budget asked for it, and as it was reached.

    `repeats_wanted` is the number of processes that the first ones asked for, where the budget left it to them.
    """
    given = [budget["ci_pct"] for record in good if (budget := record.get("budget"))]
    fields = {
        "ci_pct_wanted": given[-1] if given else None,
        "ci_pct_reached": estimate.half_width_pct if estimate else None,
        "repeats_wanted": reached.target_processes if reached else None,
    }
    planned = process_counts.has_adaptive_count(good)
    reasons = {
        "ci_pct_wanted": "the records do not say",
        "ci_pct_reached": "too few steps or processes for an interval" if estimate else "no step was timed",
        "repeats_wanted": "the first processes have no spread to plan from" if planned else "no max_repeats was given",
    }
    return explain(fields, reasons, why)


def residual_pct(good: Sequence[Record]) -> Residual:
    """Return the part of a step that its phases leave unexplained, in percent (negative: they add up to more).

    It is the median over pairs of steps on the same batch, one clean and one in phases. Its interval is that of the
    sign test (Conover, Practical Nonparametric Statistics, 3.2): it holds for any distribution, as long as the pairs
    are independent. Fewer than 6 pairs have no interval.
    """
    ratios = []
    for record in good:
        clean = record["samples"].get("paired_step_s") or ()
        parts = zip(*(record.get("phases") or {}).values(), strict=False)
        ratios += [sum(seconds) / whole for seconds, whole in zip(parts, clean, strict=False) if whole > 0]
    if not ratios:
        return Residual(None, None)
    left = sorted(100.0 * (1.0 - ratio) for ratio in ratios)
    rank = _median_rank(len(left))
    return Residual(statistics.median(left), [left[rank], left[-1 - rank]] if rank is not None else None)


@functools.cache
def _median_rank(n: int) -> int | None:
    """Return the rank, among `n` sorted values, at which the 95 % interval of their median begins; None for few."""
    below, rank = 0.0, None
    for k in range(n // 2):
        below += math.comb(n, k) / 2**n
        if 2 * below > 0.05:
            break
        rank = k
    return rank


def residual_warnings(residual: Residual) -> list[str]:
    """Return a line when the phases do not explain the step; it says whether that may be chance."""
    if residual.pct is None or abs(residual.pct) <= RESIDUAL_LIMIT_PCT:
        return []
    sure = "from too few pairs of steps for an interval"
    if residual.ci is not None:
        low, high = residual.ci
        chance = low <= RESIDUAL_LIMIT_PCT and high >= -RESIDUAL_LIMIT_PCT
        sure = f"95 % interval {low:.1f} to {high:.1f}" + (": it may be chance" if chance else "")
    return [f"the phases leave {residual.pct:.1f} % of the step unexplained (limit {RESIDUAL_LIMIT_PCT:g} %; {sure})"]
