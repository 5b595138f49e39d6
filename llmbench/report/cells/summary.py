"""From records to one summary per cell: pure functions of dicts, no files, no clock.

What is not known is None, and `reasons` says why, field by field (`shares.comm` for one share). Nothing is guessed:
a phase with a large share is a *suspect*, and only an intervention can make it a verdict.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from llmbench import stats
from llmbench.analysis import attribution, costs, process_counts
from llmbench.contract.cell import PHASES
from llmbench.contract.job import FAILED
from llmbench.records import attempts
from llmbench.records.lazy import map_cells
from llmbench.records.read import Run
from llmbench.report.cells import capacity, compilation, inference, speed, trust, variants
from llmbench.report.cells.part import Part, explain, merge, unknown

if TYPE_CHECKING:
    from llmbench.contract.record import (
        BottleneckRow,
        Ceilings,
        CellFields,
        CellSummary,
        Energy,
        ErrorFields,
        FailureRow,
        Memory,
        Oracle,
        Quality,
        Record,
    )

#: Phases of inference that are a forward pass by another name.
FORWARD_PARTS = ("decode", "prefill")
#: What a suspect would be a bottleneck of, were it proven; a pass through the model can be either of two.
SUSPECT_CLASS = {
    "input": "data",
    "copy": "data",
    "forward": "algorithm or hardware",
    "backward": "algorithm or hardware",
    "optimizer": "algorithm",
    "comm": "hardware",
    "idle": "hardware",
}
MEMORY_PARTS = ("weights_mib", "gradients_mib", "optimizer_mib", "activations_mib")
NOT_VERIFIED = "not verified (verify: none, or measure: speed): suspect is a share, not a proof"
NO_CAUSE = "the verdict names no cause"
VERDICT_FIELDS = (
    "verdict",
    "verdict_class",
    "verdict_where",
    "verdict_why",
    "headroom_predicted_x",
    "headroom_measured_x",
    "headroom_ci",
    "leading",
    "advice",
    "verdict_notes",
)
#: Fields of the cell that its summary repeats.
CELL_FIELDS = ("model", "size", "task", "dataset", "stage", "device", "precision", "batch_size", "seq_len", "seed")
TIMING_FIELDS = ("step_ms", "step_ms_ci", "step_ms_ci_kind", "steps", "tokens_per_s", "samples_per_s")


class _RunFacts(NamedTuple):
    """Facts of a run that the summaries of its cells need."""

    commands: Mapping[str, str]
    ceilings: Mapping[str, Ceilings]
    #: How much processes of one cell differ, as all cells of the run show it.
    prior: stats.Prior | None


class _CellFacts(NamedTuple):
    """The records of a cell, and the statistics that are computed for many cells at once."""

    #: All records of the cell.
    group: Sequence[Record]
    #: Repeat -> the attempt that counts.
    by_repeat: Mapping[int, Record]
    #: Those of `by_repeat` that are ok.
    good: Sequence[Record]
    steps: stats.Description | None
    #: A row for each cause.
    causes: list[BottleneckRow]


def summarise_run(run: Run) -> list[CellSummary]:
    """Return the summaries of a run's cells, each with the name of the `run`."""
    cells = summarise(run.records, run.commands, run.ceilings)
    for cell in cells:
        cell["run"] = run.name
    return cells


def summarise(
    records: Iterable[Record],
    commands: Mapping[str, str] | None = None,
    ceilings: Mapping[str, Ceilings] | None = None,
) -> list[CellSummary]:
    """Return one summary per cell, in the order of first appearance, with the fields of `report --format json`.

    `commands` holds the command line that planned each cell, `ceilings` the measured limits of machines, by id. Of
    each repeat, the latest attempt that is ok counts, else the latest. The status of the cell is that of repeat 0,
    where the cell also trains and is scored.
    """
    groups = attempts.by_cell(records)
    prior = process_counts.fit_prior(attempts.good(attempts.latest_attempts(group)) for group in groups.values())
    facts = _RunFacts(commands or {}, ceilings or {}, prior)
    cells = map_cells(functools.partial(_summarise_groups, facts), list(groups.values()))
    fields = [group[0]["cell"] for group in groups.values()]
    for cell, variant in zip(cells, variants.find_variants(fields), strict=True):
        cell["variant"] = variant
    compilation.compare_with_eager(cells, fields)
    return cells


def failures(records: Iterable[Record]) -> list[FailureRow]:
    """Return a row for each counted record that is not ok, with its error."""
    rows: list[FailureRow] = []
    records = list(records)
    if all(record["status"] == "ok" for record in records):
        return rows
    groups = attempts.by_cell(records)
    names = dict(zip(groups, variants.find_variants([group[0]["cell"] for group in groups.values()]), strict=True))
    for cell_id, group in groups.items():
        for repeat, record in attempts.latest_attempts(group).items():
            if record["status"] != "ok":
                rows.append(
                    {
                        "cell": record["cell"],
                        "variant": names[cell_id],
                        "cell_id": cell_id,
                        "repeat": repeat,
                        "status": record["status"],
                        "error": _error_text(record.get("error") or {}),
                    }
                )
    return rows


def _error_text(error: ErrorFields) -> str | None:
    """Return type and message of an error on one line."""
    text = ": ".join(str(part) for part in (error.get("type"), error.get("message")) if part)
    return " ".join(text.split()) or None


def _summarise_groups(run: _RunFacts, groups: Sequence[Sequence[Record]]) -> list[CellSummary]:
    """Return the summary of each cell. Their step times and causes are analysed together, which is faster."""
    by_repeat = [attempts.latest_attempts(group) for group in groups]
    good = [attempts.good(one) for one in by_repeat]
    facts = zip(groups, by_repeat, good, trust.describe_steps(good), attribution.bottlenecks_of(good), strict=True)
    parts = [_summarise_cell(run, _CellFacts(*of_cell)) for of_cell in facts]
    # equal reasons become one object: a report of 100,000 records would hold as many dicts of 40 texts
    distinct: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    cells = [cast("CellSummary", part.fields) for part in parts]
    for cell, part in zip(cells, parts, strict=True):
        cell["reasons"] = distinct.setdefault(tuple(part.reasons.items()), cast("dict[str, str]", part.reasons))
    return cells


def _summarise_cell(run: _RunFacts, cell: _CellFacts) -> Part:
    """Return the fields of a cell's summary, and the reasons for those that are None."""
    by_repeat, good = cell.by_repeat, cell.good
    first_repeat = min(by_repeat)
    first, searched = by_repeat[first_repeat], by_repeat.get(0)
    tries = [record for record in cell.group if record["repeat"] == first_repeat]
    latest = max(tries, key=lambda record: record["attempt"])
    missing = f"no repeat finished: the cell is {latest['status']}"
    why = None if good else missing
    residual = trust.residual_pct(good)
    timing, generation = _summarise_timing(good, run.prior, why), inference.summarise_inference(good, why)
    training = _summarise_training(searched, first["cell"], missing)
    budgets = [record.get("budget") or {} for record in by_repeat.values()]
    return merge(
        [
            _identify(first, latest, attempts_made=len(tries), repeats=len(good)),
            timing,
            _summarise_shares(good, why),
            _summarise_memory(good, why),
            _summarise_energy(good, why),
            speed.summarise_utilisation(good, run.ceilings, why),
            generation,
            capacity.summarise_largest_batch(searched, why),
            _summarise_verdict(good, cell.causes, why),
            trust.summarise_trust(good, residual, cell.steps, why),
            compilation.summarise_compilation(good, first["cell"], why),
            _summarise_quality(searched),
            training,
            capacity.summarise_price(timing, generation, training, budgets),
            _summarise_processes(by_repeat, latest, _warnings(by_repeat) + trust.residual_warnings(residual)),
            _summarise_command(run.commands.get(first["cell_id"]), first["cell_id"]),
        ]
    )


def _identify(first: Record, latest: Record, *, attempts_made: int, repeats: int) -> Part:
    """Return the fields that say which cell it is and how it ended."""
    fields = {"cell_id": first["cell_id"], **{name: first["cell"].get(name) for name in CELL_FIELDS}}
    return Part(fields | {"status": latest["status"], "attempts": attempts_made, "repeats": repeats}, {})


def _summarise_training(record: Record | None, cell: CellFields, missing: str) -> Part:
    """Return the training of repeat 0."""
    training = (record and record.get("training")) or None
    reason = "the cell does not train" if cell["stage"] == "eval" else missing
    return explain({"training": training}, {"training": reason})


def _summarise_processes(by_repeat: Mapping[int, Record], latest: Record, warnings: list[str]) -> Part:
    """Return the seconds, warnings, error and environments of a cell's processes."""
    walls = [seconds for record in by_repeat.values() if (seconds := record.get("wall_s")) is not None]
    fields = {
        "seconds": sum(walls) if walls else None,
        "warnings": warnings,
        "error": latest.get("error"),
        "environment_ids": sorted({identity for r in by_repeat.values() if (identity := r.get("environment_id"))}),
    }
    return explain(fields, {"seconds": "no attempt has a wall time"})


def _summarise_command(command: str | None, cell_id: str) -> Part:
    """Return the command line that measures the cell again."""
    fields = {"reproduce": None if command is None else reproduce(command, cell_id)}
    return explain(fields, {"reproduce": "the run directory does not say how the cell was planned"})


def _summarise_verdict(good: Sequence[Record], causes: list[BottleneckRow], why: str | None) -> Part:
    """Return the verdict, and the rows that it rests on: `bottlenecks` (one per cause) and `interactions`."""
    fields: dict[str, object] = dict.fromkeys(VERDICT_FIELDS)
    fields |= {
        "bottlenecks": causes,
        "interactions": attribution.interactions(good),
        **attribution.verdict(causes),
    }
    missing = NO_CAUSE if fields["verdict"] is not None else why or NOT_VERIFIED
    return explain(fields, dict.fromkeys(VERDICT_FIELDS, missing))


def reproduce(command: str, cell_id: str) -> str:
    """Return the command line that measures one cell again, in a folder of its own so that nothing is resumed."""
    return f"{command} -k {cell_id} -o {shlex.quote(f'results/local/reproduce-{cell_id}')}"


def _warnings(by_repeat: Mapping[int, Record]) -> list[str]:
    seen = [str(w) for r in by_repeat.values() for w in r.get("warnings") or []]
    seen += [f"repeat {n} is {r['status']}" for n, r in by_repeat.items() if n and r["status"] in FAILED]
    return list(dict.fromkeys(seen))


def _summarise_timing(good: Sequence[Record], prior: stats.Prior | None, why: str | None) -> Part:
    """Return step time, interval and throughput of the clean timed passes; tokens are counted without padding."""
    times = attempts.step_times(good)
    if not any(times):
        timing = unknown(TIMING_FIELDS, why or "no step was timed")
        return merge([timing, trust.summarise_precision(good, None, None, why)])
    reached = process_counts.two_stage_interval(good, prior)
    estimate = reached.estimate if reached else stats.process_interval(times, prior=prior)
    ends_s = estimate.ends
    fields = {
        "step_ms": estimate.value * 1e3,
        "step_ms_ci": None if ends_s is None else [end * 1e3 for end in ends_s],
        "step_ms_ci_kind": None if ends_s is None else "stein" if reached else estimate.method,
        "steps": sum(map(len, times)),
        "tokens_per_s": _rate(good, "step_tokens"),
        "samples_per_s": _rate(good, "step_examples"),
    }
    reasons = dict.fromkeys(("step_ms_ci", "step_ms_ci_kind"), "too few steps or processes for an interval")
    reasons["tokens_per_s"] = "samples hold no step_tokens for each step"
    reasons["samples_per_s"] = "samples hold no step_examples for each step"
    timing, precision = explain(fields, reasons), trust.summarise_precision(good, reached, estimate, why)
    # in the order that published reports have
    return Part({**timing.fields, **precision.fields}, {**precision.reasons, **timing.reasons})


def _rate(good: Sequence[Record], name: Literal["step_tokens", "step_examples"]) -> float | None:
    """Return the sum of the series `name` over the sum of step times, over all repeats that have both."""
    amount, seconds = 0.0, 0.0
    for record in good:
        steps, times = record["samples"].get(name) or [], record["samples"].get("step_s") or []
        if len(steps) == len(times):
            amount, seconds = amount + sum(steps), seconds + sum(times)
    return amount / seconds if amount and seconds else None


def phase_totals(records: Iterable[Record]) -> dict[str, float]:
    """Return phase -> seconds, over the phase passes of `records`; prefill and decode count as forward."""
    totals: dict[str, float] = {}
    for record in records:
        for name, seconds in (record.get("phases") or {}).items():
            phase = name.removesuffix("_s")
            phase = "forward" if phase in FORWARD_PARTS else phase
            if phase in PHASES and seconds:
                totals[phase] = totals.get(phase, 0.0) + sum(seconds)
    return totals


def _summarise_shares(good: Sequence[Record], why: str | None) -> Part:
    """Return the share of each phase in the phase pass, and the phase with the largest share as a suspect."""
    totals = phase_totals(good)
    whole = sum(totals.values())
    shares = {phase: totals[phase] / whole if whole and phase in totals else None for phase in PHASES}
    missing = why or "not a phase of this stage, or not measured on this device"
    reasons = {f"shares.{phase}": missing for phase, share in shares.items() if share is None}
    known = {phase: share for phase, share in shares.items() if share is not None}
    suspect = max(known, key=known.__getitem__) if known else None
    if suspect is None:
        reasons |= dict.fromkeys(("suspect", "suspect_share", "suspect_class"), why or "no phase was measured")
    fields = {
        "shares": shares,
        "suspect": suspect,
        "suspect_share": known[suspect] if suspect else None,
        "suspect_class": SUSPECT_CLASS[suspect] if suspect else None,
        "suspect_verified": False,
    }
    return Part(fields, reasons)


def _summarise_memory(good: Sequence[Record], why: str | None) -> Part:
    """Return padding (share of all positions), peak memory (largest of the repeats) and its parts."""
    tokens = sum(r["counts"].get("tokens") or 0 for r in good)
    padding = [count for r in good if (count := r["counts"].get("padding_tokens")) is not None]
    counted = tokens > 0 and len(padding) == len(good)
    peaks = [peak for r in good if (peak := r["memory"].get("peak_mib")) is not None]
    no_parts: Memory = {}
    split = next((r["memory"] for r in good if r["memory"].get("weights_mib") is not None), no_parts)
    fields = {
        "padding_pct": 100.0 * sum(padding) / (tokens + sum(padding)) if counted else None,
        "peak_memory_mib": max(peaks, default=None),
        **{name: split.get(name) for name in MEMORY_PARTS},
    }
    reasons = {"padding_pct": "tokens were not counted", "peak_memory_mib": "memory was not measured"}
    partly = split.get("parts_reason") or "only training has it"
    reasons |= dict.fromkeys(MEMORY_PARTS, partly if split else "memory was not split up")
    return explain(fields, reasons, why)


def _summarise_energy(good: Sequence[Record], why: str | None) -> Part:
    """Return joules per step and tokens per joule of the clean passes, and the meter that they come from."""
    meters: list[Energy] = [r.get("energy") or {} for r in good]
    missing = next((reason for meter in meters if (reason := meter.get("reason"))), "energy was not measured")
    metered = [
        (amount, meter, r) for meter, r in zip(meters, good, strict=True) if (amount := meter.get("joules")) is not None
    ]
    joules = sum(amount for amount, _, _ in metered) if metered else None
    steps = sum(len(r["samples"].get("step_s") or ()) for _, _, r in metered)
    tokens = sum(sum(r["samples"].get("step_tokens") or ()) for _, _, r in metered)
    fields = {
        "energy_j_per_step": costs.joules_per_step(joules, steps),
        "tokens_per_joule": costs.tokens_per_joule(tokens, joules),
        "energy_source": metered[0][1].get("source") if metered else None,
    }
    return explain(fields, dict.fromkeys(("energy_j_per_step", "tokens_per_joule", "energy_source"), missing), why)


def _summarise_quality(record: Record | None) -> Part:
    """Return the quality of the model, the oracle and the baselines on the same examples, as repeat 0 scored them."""
    quality: Quality = (record and record.get("quality")) or {}
    oracle: Oracle = (record and record.get("oracle")) or {}
    baselines = (record and record.get("baselines")) or {}
    direction = quality.get("direction") or {}
    fields = {
        "quality": quality.get("values") or None,
        "quality_examples": quality.get("examples"),
        "quality_primary": quality.get("primary"),
        "quality_direction": direction or None,
        "oracle": oracle.get("values") or None,
        "oracle_kind": oracle.get("kind"),
        "baseline": best_baseline(baselines, direction) or None,
        "baselines": baselines or None,
    }
    if fields["quality"] is None:
        return explain(fields, dict.fromkeys(fields, "this cell was not scored"))
    reasons = dict.fromkeys(fields, "not recorded")
    reasons |= dict.fromkeys(("oracle", "oracle_kind"), "no oracle is known for this data")
    reasons |= dict.fromkeys(("baseline", "baselines"), "the task has no trivial baseline")
    return explain(fields, reasons)


def best_baseline(baselines: Mapping[str, Mapping[str, float]], direction: Mapping[str, str]) -> dict[str, float]:
    """Return metric -> the best value that a trivial baseline reaches, for metrics whose better side is known."""
    best: dict[str, float] = {}
    for values in baselines.values():
        for metric, value in values.items():
            if value is None or metric not in direction:
                continue
            pick = max if direction[metric] == "higher" else min
            best[metric] = pick(best.get(metric, value), value)
    return best


def oracle_pct(value: float | None, oracle: float | None, direction: str | None) -> float | None:
    """Return how much of the oracle's quality was reached, in percent (100: as good; perplexity is turned over)."""
    if value is None or oracle is None or direction not in ("higher", "lower"):
        return None
    above, below = (value, oracle) if direction == "higher" else (oracle, value)
    return 100.0 * above / below if below > 0 else None
