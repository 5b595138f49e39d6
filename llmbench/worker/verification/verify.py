"""Causes on trial: predict what removing each would give, remove it, and measure both side by side.

Both arms run in this process on the same parameters and the same batches, in turns: A B A B from a random start.
Learning rates are 0, so the optimizer does its work and changes nothing. Nothing is derived here but `predicted_x`:
records keep the seconds of each pair of blocks.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmbench.contract.errors import DoesNotApply, NotMeasured, OutOfTime
from llmbench.contract.specs import AXES, CauseSpec, Intervention
from llmbench.contract.step_trial import StepTrial
from llmbench.worker.verification.paired_blocks import (
    LEADING_SHARE,
    LEAST_S,
    PATIENCE,
    measure_pairs,
    try_together,
    zero_learning_rates,
)

Emit = Callable[[dict[str, Any]], None]

TRIED_FROM = 1.04  # predictions below need no trial when only the verdict is asked for: the threshold is 1.10
TRIED, TRIED_IN_HASTE, HASTE_S = 3, 2, 8.0  # so many of the leading suspects per axis; fewer in so little time
FURTHER_FROM = 1.08  # in haste, all but the leading suspect of an axis must promise more: it would hardly be material
TOGETHER_SHARE = 0.15  # of the time, for the two largest at once
LEAST_TRIALS = 0.5  # of the time, for the trials, where looking at the causes took long
#: Behind so long, or such a share of the time, no further cause is looked at.
LEAST_PROBING_S, PROBING_SHARE = 6.0, 0.6


def verify_causes(
    trial: StepTrial,
    record: Mapping[str, Any],
    causes: Sequence[CauseSpec],
    *,
    mode: str,
    seconds: float,
    seed: int = 0,
    emit: Emit = lambda event: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
    """Return what `record["interventions"]` and `record["together"]` hold.

    `mode` is "verdict" (the leading suspects) or "all"; `seconds` is about the time that all trials take together.
    An intervention that fails is recorded as `failed` with its error, and the others go on.
    """
    begin = time.perf_counter()
    rng = random.Random(seed)
    with zero_learning_rates(trial.optimizer):
        trial.settle()
        trial.pace_s = pace_of(record) or trial.step_s
        until = trial.until
        probing = begin + max(LEAST_PROBING_S, PROBING_SHARE * seconds)
        probing = min(probing, begin + PROBING_SHARE * (until - begin))
        in_turn = sorted(causes, key=lambda cause: AXES.index(cause.axis))  # components first: they are the headline
        try:
            trial.until = min(probing, until)  # one look must not take what the trials need
            found = {cause.name: probe(trial, record, cause, probing) for cause in in_turn}
        finally:
            trial.until = until
        by_name = {cause.name: cause for cause in causes}
        few = (TRIED, TRIED_FROM) if seconds >= HASTE_S else (TRIED_IN_HASTE, FURTHER_FROM)
        tried = [by_name[name] for name in suspects(found, mode, *few)]
        changes: dict[str, Intervention] = {}
        axes: set[str] = set()
        end = max(begin + seconds, time.perf_counter() + LEAST_TRIALS * seconds)
        end = min(end, until)
        for left, cause in zip(range(len(tried), 0, -1), tried, strict=True):
            emit({"event": "verify", "cause": cause.name})
            rest = max(0.0, end - time.perf_counter())
            share = rest * (1 - TOGETHER_SHARE) / left
            leading_s = 0.0 if cause.axis in axes else LEADING_SHARE[cause.axis] * rest
            patience_s = min(max(PATIENCE * max(share, LEAST_S), leading_s), until - time.perf_counter())
            axes.add(cause.axis)
            try_cause(trial, cause, found[cause.name], changes, share, rng, patience_s)
        for cause in tried:  # what was too long for its share may have what the others left
            rest = end - time.perf_counter()
            if found[cause.name]["outcome"] == "out_of_time" and rest > 0:
                try_cause(trial, cause, found[cause.name], changes, rest, rng, rest)
        rest = end - time.perf_counter()
        together = try_together(trial, found, changes, rest, rng) if rest > 0 or mode == "all" else None
    return found, together


def pace_of(record: Mapping[str, Any]) -> float | None:
    """Return the seconds of a step of the clean pass without the wait for its batch, None where they are not known."""
    step_s = (record.get("samples") or {}).get("step_s")
    if not step_s:
        return None
    waits = (record.get("phases") or {}).get("input_s") or [0.0]
    pace_s = statistics.median(step_s) - statistics.median(waits)
    return pace_s if pace_s > 0 else None


def try_cause(
    trial: StepTrial,
    cause: CauseSpec,
    row: dict[str, Any],
    changes: dict[str, Intervention],
    seconds: float,
    rng: random.Random,
    patience_s: float,
) -> None:
    """Remove a cause and measure, within about `seconds`; its row and `changes` get what comes of it."""
    started = time.perf_counter()
    row["reason"] = None
    try:
        changes[cause.name] = change = cause.intervene(trial)
        row |= measure_pairs(trial, change, max(0.0, seconds - (time.perf_counter() - started)), rng, patience_s)
        row |= {"share": change.share, "check": dict(change.check)}
    except NotMeasured as reason:
        row |= _not_measured(reason)
    except Exception as error:  # a plugin's intervention, on a module that is not ours
        row |= {"outcome": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    row["spent_s"]["trial"] = row["spent_s"].get("trial", 0.0) + time.perf_counter() - started


def probe(trial: StepTrial, record: Mapping[str, Any], cause: CauseSpec, until: float = math.inf) -> dict[str, Any]:
    """Return the row of a cause before it is tried: its facts and its prediction, or why there are none.

    From `until` on (of `time.perf_counter`) nothing is looked at any more.
    """
    row: dict[str, Any] = {"axis": cause.axis, "class": cause.cause_class, "outcome": "not_selected", "reason": None}
    row |= {"predicted_x": None, "facts": {}, "advice": cause.advice}
    row |= {"clean_s": [], "treated_s": [], "clean_first": [], "block_steps": None, "share": 1.0}
    row["spent_s"] = {}
    if cause.engines is not None and trial.engine not in cause.engines:
        return row | {"outcome": "unisolated", "reason": f"not written for the engine {trial.engine}"}
    begin = time.perf_counter()
    if begin > until:
        return row | {"outcome": "out_of_time", "reason": "no time was left to look at it"}
    try:
        row["facts"] = dict(cause.probe(trial))
        row["predicted_x"] = cause.predict(record, row["facts"])
    except NotMeasured as reason:
        return row | _not_measured(reason)
    except Exception as error:  # see `verify`
        return row | {"outcome": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        row["spent_s"]["probe"] = time.perf_counter() - begin
    return row


def _not_measured(reason: NotMeasured) -> dict[str, Any]:
    outcomes = {DoesNotApply: "does_not_apply", OutOfTime: "out_of_time"}
    outcome = next((name for kind, name in outcomes.items() if isinstance(reason, kind)), "unisolated")
    return {"outcome": outcome, "reason": str(reason)}


def suspects(
    found: Mapping[str, Mapping[str, Any]], mode: str, most: int, further_from: float = TRIED_FROM
) -> list[str]:
    """Return the causes to try, `most` per axis, the largest prediction first; one without it counts as large.

    Behind the first of an axis only those from `further_from` on. Of a verdict the leading component is the headline,
    so it comes before everything else.
    """
    open_ = [name for name, row in found.items() if row["outcome"] == "not_selected"]
    sizes = {name: _or_inf(found[name]["predicted_x"]) for name in open_}
    ranked = sorted(open_, key=lambda name: -sizes[name])
    if mode == "all":
        return ranked
    by_axis: dict[str, list[str]] = {}
    for name in ranked:
        ahead = by_axis.setdefault(found[name]["axis"], [])
        if sizes[name] >= (further_from if ahead else TRIED_FROM):
            ahead.append(name)
    chosen = {name for names in by_axis.values() for name in names[:most]}
    leading = by_axis.get(AXES[0], [])[:1]
    return leading + [name for name in ranked if name in chosen and name not in leading]


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else value


# --- pairs of blocks ------------------------------------------------------------------------------------
