"""Causes on trial: predict the headroom of each, remove it, and measure steps with and without it.

Both arms run in this process on the same parameters and the same batches, in turns: A B A B from a random start.
Learning rates are 0, so the optimizer does its work and changes nothing. Nothing is derived here but `predicted_x`:
records keep the seconds of each pair of blocks.
"""

from __future__ import annotations

import contextlib
import math
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmbench.contract.errors import DoesNotApply, NotMeasured, OutOfTime
from llmbench.contract.specs import AXES, CauseSpec, Intervention
from llmbench.contract.step_trial import StepTrial
from llmbench.worker.verification.paired_blocks import measure_pairs, zero_learning_rates
from llmbench.worker.verification.policy import DEFAULT_POLICY, Selection, TrialPolicy

if TYPE_CHECKING:
    from llmbench.contract.record import Emit, Measurements, Together
    from llmbench.contract.record import Intervention as TrialFields


@dataclass
class Verification:
    """The state of one verification. Trials fill in the rows of their causes, and add to `changes`."""

    trial: StepTrial
    rows: dict[str, TrialFields]  # by cause
    policy: TrialPolicy
    rng: random.Random  # draws which arm comes first
    end: float  # the reading of `time.perf_counter` at which trials should have ended
    changes: dict[str, Intervention] = field(default_factory=dict)  # of the causes that are tried

    def rest_s(self) -> float:
        """Return the seconds to the end; negative after it."""
        return self.end - time.perf_counter()


def verify_causes(
    trial: StepTrial,
    record: Measurements,
    causes: Sequence[CauseSpec],
    *,
    mode: str,
    seconds: float,
    seed: int = 0,
    emit: Emit = lambda event: None,
    policy: TrialPolicy = DEFAULT_POLICY,
) -> tuple[dict[str, TrialFields], Together | None]:
    """Predict and remove the causes; return the record's fields `interventions` and `together`.

    `mode` is "verdict" (the leading suspects) or "all"; `seconds` is about the time that all trials take together.
    An intervention that fails is recorded as `failed` with its error, and the others go on.
    """
    begin = time.perf_counter()
    with zero_learning_rates(trial.optimizer):
        trial.settle()
        trial.pace_s = pace_of(record) or trial.step_s
        rows = probe_all(trial, record, causes, begin, seconds, policy)
        by_name = {cause.name: cause for cause in causes}
        suspects = [by_name[name] for name in choose_suspects(rows, mode, policy.selection(seconds))]
        end = max(begin + seconds, time.perf_counter() + policy.trials_share * seconds)
        verification = Verification(trial, rows, policy, random.Random(seed), min(end, trial.until))
        try_suspects(verification, suspects, emit)
        retry_with_rest(verification, suspects)
        together = try_together(verification, mode)
    return rows, together


def pace_of(record: Measurements) -> float | None:
    """Return the seconds of a step of the clean pass without the wait for its batch, None where they are not known."""
    step_s = (record.get("samples") or {}).get("step_s")
    if not step_s:
        return None
    waits = (record.get("phases") or {}).get("input_s") or [0.0]
    pace_s = statistics.median(step_s) - statistics.median(waits)
    return pace_s if pace_s > 0 else None


# --- a look at each cause -------------------------------------------------------------------------------


def probe_all(
    trial: StepTrial,
    record: Measurements,
    causes: Sequence[CauseSpec],
    begin: float,
    seconds: float,
    policy: TrialPolicy,
) -> dict[str, TrialFields]:
    """Predict each cause; return their rows. Components come first: they are the headline."""
    until = trial.until
    probing = begin + max(policy.least_probing_s, policy.probing_share * seconds)
    probing = min(probing, begin + policy.probing_share * (until - begin))
    in_turn = sorted(causes, key=lambda cause: AXES.index(cause.axis))
    try:
        trial.until = min(probing, until)  # one look must not take the time that the trials need
        return {cause.name: probe(trial, record, cause, probing) for cause in in_turn}
    finally:
        trial.until = until


def probe(trial: StepTrial, record: Measurements, cause: CauseSpec, until: float = math.inf) -> TrialFields:
    """Return the row of a cause before its trial: its facts and its prediction, or the reason why there are none.

    After `until` (a reading of `time.perf_counter`) no cause is looked at.
    """
    row: TrialFields = {
        "axis": cause.axis,
        "class": cause.cause_class,
        "outcome": "not_selected",
        "reason": None,
        "predicted_x": None,
        "facts": {},
        "advice": cause.advice,
        "clean_s": [],
        "treated_s": [],
        "clean_first": [],
        "block_steps": None,
        "share": 1.0,
        "spent_s": {},
    }
    if cause.engines is not None and trial.engine not in cause.engines:
        return {**row, "outcome": "unisolated", "reason": f"not written for the engine {trial.engine}"}
    begin = time.perf_counter()
    if begin > until:
        return {**row, "outcome": "out_of_time", "reason": "no time was left to look at it"}
    try:
        row["facts"] = dict(cause.probe(trial))
        row["predicted_x"] = cause.predict(record, row["facts"])
    except Exception as error:  # a plugin's look at a module that is not ours
        row.update(outcome_of(error))
    finally:
        row["spent_s"]["probe"] = time.perf_counter() - begin
    return row


def outcome_of(error: Exception) -> TrialFields:
    """Return `outcome` and `reason` of a cause that could not be measured, or whose code failed."""
    if not isinstance(error, NotMeasured):
        return {"outcome": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    outcomes = {DoesNotApply: "does_not_apply", OutOfTime: "out_of_time"}
    outcome = next((name for kind, name in outcomes.items() if isinstance(error, kind)), "unisolated")
    return {"outcome": outcome, "reason": str(error)}


def choose_suspects(rows: Mapping[str, TrialFields], mode: str, selection: Selection) -> list[str]:
    """Return the causes to try, the largest prediction first; a cause without a prediction counts as large.

    Of a verdict the leading component is the headline, so it comes before everything else.
    """
    sizes = {name: _or_inf(row["predicted_x"]) for name, row in rows.items() if row["outcome"] == "not_selected"}
    ranked = sorted(sizes, key=lambda name: -sizes[name])
    if mode == "all":
        return ranked
    by_axis: dict[str, list[str]] = {}
    for name in ranked:
        ahead = by_axis.setdefault(rows[name]["axis"], [])
        if sizes[name] >= (selection.further_x if ahead else selection.leading_x):
            ahead.append(name)
    chosen = {name for names in by_axis.values() for name in names[: selection.per_axis]}
    leading = by_axis.get(AXES[0], [])[:1]
    return leading + [name for name in ranked if name in chosen and name not in leading]


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else value


# --- trials ---------------------------------------------------------------------------------------------


def try_suspects(verification: Verification, suspects: Sequence[CauseSpec], emit: Emit) -> None:
    """Try each suspect in its share of the time. The first of an axis may take more of the rest than its share."""
    policy, axes = verification.policy, set()
    for remaining, cause in zip(range(len(suspects), 0, -1), suspects, strict=True):
        emit({"event": "verify", "cause": cause.name})
        rest_s = max(0.0, verification.rest_s())
        share_s = rest_s * (1 - policy.together_share) / remaining
        leading_s = 0.0 if cause.axis in axes else policy.leading_share(cause.axis) * rest_s
        until_s = verification.trial.until - time.perf_counter()
        axes.add(cause.axis)
        try_cause(verification, cause, share_s, min(max(policy.patience_s(share_s), leading_s), until_s))


def retry_with_rest(verification: Verification, suspects: Sequence[CauseSpec]) -> None:
    """Try the suspects again that were too long for their share, with the time that the others left."""
    for cause in suspects:
        rest_s = verification.rest_s()
        if verification.rows[cause.name]["outcome"] == "out_of_time" and rest_s > 0:
            try_cause(verification, cause, rest_s, rest_s)


def try_cause(verification: Verification, cause: CauseSpec, seconds: float, patience_s: float) -> None:
    """Remove a cause and measure, within about `seconds`; fill in its row."""
    begin = time.perf_counter()
    trial, row = verification.trial, verification.rows[cause.name]
    row["reason"] = None
    try:
        verification.changes[cause.name] = change = cause.intervene(trial)
        rest_s = max(0.0, seconds - (time.perf_counter() - begin))
        row.update(measure_pairs(trial, change, rest_s, verification.rng, patience_s, verification.policy))
        row["share"] = change.share
        row["check"] = dict(change.check)
    except Exception as error:  # a plugin's intervention, on a module that is not ours
        row.update(outcome_of(error))
    row["spent_s"]["trial"] = row["spent_s"].get("trial", 0.0) + time.perf_counter() - begin


def try_together(verification: Verification, mode: str) -> Together | None:
    """Remove the two largest causes at once and measure; return their pairs, or None where that cannot be done.

    Only interventions that change nothing but what a step does can be combined.
    """
    rest_s, policy = verification.rest_s(), verification.policy
    if rest_s <= 0 and mode != "all":
        return None
    changes = verification.changes
    gains = {name: gain_of(verification.rows[name]) for name in changes}
    plain = [n for n, c in changes.items() if c.treated is None and c.clean is None and gains[n] >= policy.together_x]
    if len(plain) < 2:
        return None
    first, second = sorted(plain, key=gains.__getitem__)[-1:-3:-1]

    @contextlib.contextmanager
    def change_both() -> Iterator[None]:
        with changes[second].changed(), changes[first].changed():
            yield

    both = Intervention(change_both, steps=changes[first].steps)
    patience_s = policy.patience_s(rest_s)
    try:
        row = measure_pairs(verification.trial, both, rest_s, verification.rng, patience_s, policy)
    except Exception:  # two changes of the same thing need not go together
        return None
    if row["outcome"] != "measured":
        return None
    return {
        "causes": [first, second],
        "clean_s": row["clean_s"],
        "treated_s": row["treated_s"],
        "clean_first": row["clean_first"],
        "block_steps": row["block_steps"],
    }


def gain_of(row: TrialFields) -> float:
    """Return the step time over the step time without the cause; 0 without pairs."""
    return sum(row["clean_s"]) / sum(row["treated_s"]) if row["treated_s"] else 0.0
