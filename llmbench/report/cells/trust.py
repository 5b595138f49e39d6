"""How far a cell's numbers can be trusted: what phases leave over, what disturbed, what the samples look like. Pure."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from llmbench import stats
from llmbench.analysis import process_counts

Record = Mapping[str, Any]

#: Above this the phases do not explain the step.
RESIDUAL_LIMIT_PCT = 5.0
LEAST_PAIRS = 6  # of which an interval at the level of 95 % can be had
FIELDS = ("phase_residual_pct", "phase_residual_ci", "outlier_steps", "autocorrelation", "steps_wanted", "warmup_steps")


def described(cells: Sequence[Sequence[Record]]) -> list[stats.Description | None]:
    """Return what the step times of each cell's good records look like; None of one that was not timed."""
    samples = [[times for r in good if (times := r["samples"].get("step_s"))] for good in cells]
    found = iter(stats.describe_all([some for some in samples if some]))
    return [next(found) if some else None for some in samples]


def summarise_trust(
    good: Sequence[Record], described: stats.Description | None, reasons: dict[str, str], why: str | None
) -> dict[str, Any]:
    """Return the fields named in FIELDS and `unreliable`, a list of reasons (empty: none was found)."""
    residual, residual_ci = residual_pct(good)
    timing = [r["counts"].get("timing") or {} for r in good]
    out: dict[str, Any] = {
        "phase_residual_pct": residual,
        "phase_residual_ci": residual_ci,
        "outlier_steps": described and described.outliers,
        "autocorrelation": max(described.autocorrelations, default=None) if described else None,
        "steps_wanted": max((t["samples_wanted"] for t in timing if t.get("samples_wanted")), default=None),
        "warmup_steps": max((t["warmup_steps"] for t in timing if t.get("warmup_steps") is not None), default=None),
    }
    reasons |= {name: why or "not measured" for name in FIELDS if out[name] is None}
    if residual is not None and residual_ci is None:
        reasons["phase_residual_ci"] = f"fewer than {LEAST_PAIRS} pairs of steps"
    out["unreliable"] = list(described.unreliable) if described else []
    if any(t.get("steady") is False for t in timing):
        out["unreliable"].append("the step time was still changing when warm-up ended")
    return out


def precision(
    good: Sequence[Record],
    reached: stats.Reached | None,
    estimate: stats.Estimate | None,
    reasons: dict[str, str],
    why: str | None,
) -> dict[str, Any]:
    """Return the half-width of the step time's interval that was wanted and the one that was reached, in percent.

    `repeats_wanted` is how many processes the first ones asked for, where the number was left to them.
    """
    given = [budget["ci_pct"] for record in good if (budget := record.get("budget"))]
    out: dict[str, Any] = {
        "ci_pct_wanted": given[-1] if given else None,
        "ci_pct_reached": estimate.half_width_pct if estimate else None,
        "repeats_wanted": reached.processes_wanted if reached else None,
    }
    planned = process_counts.planned(good)
    unknown = {
        "ci_pct_wanted": "the records do not say",
        "ci_pct_reached": "too few steps or processes for an interval" if estimate else "no step was timed",
        "repeats_wanted": "the first processes have no spread to plan from" if planned else "no max_repeats was given",
    }
    reasons |= {name: why or text for name, text in unknown.items() if out[name] is None}
    return out


def residual_pct(good: Sequence[Record]) -> tuple[float | None, list[float] | None]:
    """Return how much of a step its phases leave unexplained, in percent of it (negative: they add up to more), and
    the 95 % interval of that.

    The median over pairs of steps on the same batch, one clean and one in phases; its interval is that of the sign test
    (Conover, Practical Nonparametric Statistics, 3.2), so it holds for any distribution of pairs that do not hang on
    each other, and there is none of fewer than 6.
    """
    ratios = []
    for record in good:
        clean = record["samples"].get("paired_step_s") or ()
        parts = zip(*(record.get("phases") or {}).values(), strict=False)
        ratios += [sum(seconds) / whole for seconds, whole in zip(parts, clean, strict=False) if whole > 0]
    if not ratios:
        return None, None
    left = sorted(100.0 * (1.0 - ratio) for ratio in ratios)
    rank = _median_rank(len(left))
    return statistics.median(left), [left[rank], left[-1 - rank]] if rank is not None else None


@functools.cache
def _median_rank(n: int) -> int | None:
    """Return which of `n` sorted values begins the 95 % interval of their median, None where n is too small."""
    below, rank = 0.0, None
    for k in range(n // 2):
        below += math.comb(n, k) / 2**n
        if 2 * below > 0.05:
            break
        rank = k
    return rank


def residual_warning(residual: float | None, interval: Sequence[float] | None) -> list[str]:
    """Return a line when the phases do not explain the step, and whether that may be chance."""
    if residual is None or abs(residual) <= RESIDUAL_LIMIT_PCT:
        return []
    sure = "from too few pairs of steps for an interval"
    if interval is not None:
        low, high = interval
        chance = low <= RESIDUAL_LIMIT_PCT and high >= -RESIDUAL_LIMIT_PCT
        sure = f"95 % interval {low:.1f} to {high:.1f}" + (": it may be chance" if chance else "")
    return [f"the phases leave {residual:.1f} % of the step unexplained (limit {RESIDUAL_LIMIT_PCT:g} %; {sure})"]
