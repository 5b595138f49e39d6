"""From records to one summary per cell: pure functions of dicts, no files, no clock.

What is not known is None, and `reasons` says why, field by field (`shares.comm` for one share). Nothing is guessed:
a phase with a large share is a *suspect*, and only an intervention can make it a verdict.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmbench import stats
from llmbench.analysis import attribution, costs, process_counts
from llmbench.contract.cell import PHASES
from llmbench.contract.job import FAILED
from llmbench.records import attempts
from llmbench.records.lazy import mapped
from llmbench.report.cells import capacity, compilation, inference, speed, trust, variants

Record = Mapping[str, Any]

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
_VERDICT_FIELDS = (
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
_COPIED = ("model", "size", "task", "dataset", "stage", "device", "precision", "batch_size", "seq_len", "seed")


def summarise(
    records: Iterable[Record],
    commands: Mapping[str, str] | None = None,
    ceilings: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Return one summary per cell, in the order of first appearance, with the fields of `report --format json`.

    `commands` holds the command line that planned each cell, `ceilings` what machines can do at best, by id. Per
    repeat, the latest attempt that is ok counts, else the latest. The status of the cell is that of repeat 0, where
    the cell also trains and is scored.
    """
    groups = attempts.by_cell(records)
    prior = process_counts.fit_prior(attempts.good(attempts.latest_attempts(group)) for group in groups.values())
    some = functools.partial(_summaries, commands=commands or {}, prior=prior, ceilings=ceilings or {}, known={})
    cells = mapped(some, list(groups.values()))
    fields = [group[0]["cell"] for group in groups.values()]
    for cell, variant in zip(cells, variants.find_variants(fields), strict=True):
        cell["variant"] = variant
    return compilation.with_pay_off(cells, fields)


def failures(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return what went wrong and was not made good: every counted record that is not ok, with its error."""
    found: list[dict[str, Any]] = []
    records = list(records)
    if all(record["status"] == "ok" for record in records):
        return found
    groups = attempts.by_cell(records)
    names = dict(zip(groups, variants.find_variants([group[0]["cell"] for group in groups.values()]), strict=True))
    for group in groups.values():
        for repeat, record in attempts.latest_attempts(group).items():
            if record["status"] != "ok":
                error = record.get("error") or {}
                what = ": ".join(str(error[k]) for k in ("type", "message") if error.get(k))
                found.append(
                    {
                        "cell": record["cell"],
                        "variant": names[record["cell_id"]],
                        "cell_id": record["cell_id"],
                        "repeat": repeat,
                    }
                    | {"status": record["status"], "error": " ".join(what.split()) or None}
                )
    return found


def _summaries(groups: Sequence[Sequence[Record]], **given: Any) -> list[dict[str, Any]]:
    """Return the summary of each cell; what is sought in their times is sought in those of all at once."""
    counted = [attempts.latest_attempts(group) for group in groups]
    good = [attempts.good(by_repeat) for by_repeat in counted]
    described, causes = trust.described(good), attribution.bottlenecks_of(good)
    return [_summary(*of_cell, **given) for of_cell in zip(groups, counted, good, described, causes, strict=True)]


def _summary(
    group: Sequence[Record],
    by_repeat: Mapping[int, Record],
    good: Sequence[Record],
    described: stats.Description | None,
    causes: list[dict[str, Any]],
    commands: Mapping[str, str],
    prior: stats.Prior | None,
    ceilings: Mapping[str, Mapping[str, Any]],
    known: dict[tuple[tuple[str, str], ...], dict[str, str]],
) -> dict[str, Any]:
    """Return the summary of a cell; `known`: reasons of earlier ones, which it shares if they are the same."""
    first = by_repeat[min(by_repeat)]
    latest = max((r for r in group if r["repeat"] == min(by_repeat)), key=lambda r: r["attempt"])
    reasons: dict[str, str] = {}
    out: dict[str, Any] = {"cell_id": first["cell_id"], **{k: first["cell"].get(k) for k in _COPIED}}
    out |= {
        "status": latest["status"],
        "attempts": len([r for r in group if r["repeat"] == min(by_repeat)]),
        "repeats": len(good),
    }
    command = commands.get(first["cell_id"])
    missing = f"no repeat finished: the cell is {latest['status']}"
    why = None if good else missing
    out |= _timing(good, prior, reasons, why)
    out |= _shares(good, reasons, why)
    out |= _memory(good, reasons, why)
    out |= speed.utilisation(good, ceilings, reasons, why)
    out |= inference.speeds(good, reasons, why)
    out |= capacity.largest_batch(by_repeat.get(0), reasons, why)
    out |= _verdict(good, causes, reasons, why)
    out |= trust.summarise_trust(good, described, reasons, why)
    out |= compilation.summarise_compilation(good, first["cell"], reasons, why)
    out |= _quality(by_repeat.get(0), reasons)
    training = (by_repeat.get(0) or {}).get("training") or None
    if training is None:
        reasons["training"] = "the cell does not train" if first["cell"]["stage"] == "eval" else missing
    out["training"] = training
    out |= capacity.price(out, [r.get("budget") or {} for r in by_repeat.values()], reasons)
    walls = [r["wall_s"] for r in by_repeat.values() if r.get("wall_s") is not None]
    out["seconds"] = sum(walls) if walls else None
    if not walls:
        reasons["seconds"] = "no attempt has a wall time"
    out["warnings"] = _warnings(by_repeat) + trust.residual_warning(out["phase_residual_pct"], out["phase_residual_ci"])
    out["error"] = latest.get("error")
    out["environment_ids"] = sorted({r["environment_id"] for r in by_repeat.values() if r.get("environment_id")})
    out["reproduce"] = None if command is None else reproduce(command, first["cell_id"])
    if command is None:
        reasons["reproduce"] = "the run directory does not say how the cell was planned"
    compiled_too = out["compile"]  # their reasons are still added to
    out["reasons"] = reasons if compiled_too else known.setdefault(tuple(reasons.items()), reasons)
    return out


def _verdict(
    good: Sequence[Record], causes: list[dict[str, Any]], reasons: dict[str, str], why: str | None
) -> dict[str, Any]:
    """Return the verdict and what it rests on: `bottlenecks` (a row per cause) and `interactions`."""
    out: dict[str, Any] = dict.fromkeys(_VERDICT_FIELDS)
    out["bottlenecks"] = causes
    out["interactions"] = attribution.interactions(good)
    out |= attribution.verdict(out["bottlenecks"])
    missing = NO_CAUSE if out["verdict"] is not None else why or NOT_VERIFIED
    reasons |= {name: missing for name in _VERDICT_FIELDS if out[name] is None}
    return out


def reproduce(command: str, cell_id: str) -> str:
    """Return the command line that measures one cell again, in a folder of its own so that nothing is resumed."""
    return f"{command} -k {cell_id} -o {shlex.quote(f'results/local/reproduce-{cell_id}')}"


def _warnings(by_repeat: Mapping[int, Record]) -> list[str]:
    seen = [str(w) for r in by_repeat.values() for w in r.get("warnings") or []]
    seen += [f"repeat {n} is {r['status']}" for n, r in by_repeat.items() if n and r["status"] in FAILED]
    return list(dict.fromkeys(seen))


def _timing(
    good: Sequence[Record], prior: stats.Prior | None, reasons: dict[str, str], why: str | None
) -> dict[str, Any]:
    """Return step time, interval and throughput of the clean timed passes; tokens are counted without padding."""
    names = ("step_ms", "step_ms_ci", "step_ms_ci_kind", "steps", "tokens_per_s", "samples_per_s")
    out: dict[str, Any] = dict.fromkeys(names)
    times = attempts.step_times(good)
    if not any(times):
        reasons |= dict.fromkeys(names, why or "no step was timed")
        return out | trust.precision(good, None, None, reasons, why)
    reached = process_counts.reached(good, prior)
    estimate = reached.estimate if reached else stats.pooled_interval(times, prior=prior)
    out |= trust.precision(good, reached, estimate, reasons, why)
    out["step_ms"] = estimate.value * 1e3
    out["steps"] = sum(map(len, times))
    if estimate.low is None or estimate.high is None:
        reasons["step_ms_ci"] = reasons["step_ms_ci_kind"] = "too few steps or processes for an interval"
    else:
        out["step_ms_ci"] = [estimate.low * 1e3, estimate.high * 1e3]
        out["step_ms_ci_kind"] = "stein" if reached else estimate.method
    for name, samples in (("tokens_per_s", "step_tokens"), ("samples_per_s", "step_examples")):
        out[name] = _rate(good, samples)
        if out[name] is None:
            reasons[name] = f"samples hold no {samples} for each step"
    return out


def _rate(good: Sequence[Record], name: str) -> float | None:
    """Return the sum of `name` over the sum of step times, over all repeats that have both."""
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


def _shares(good: Sequence[Record], reasons: dict[str, str], why: str | None) -> dict[str, Any]:
    totals = phase_totals(good)
    whole = sum(totals.values())
    shares = {phase: totals[phase] / whole if whole and phase in totals else None for phase in PHASES}
    for phase, share in shares.items():
        if share is None:
            reasons[f"shares.{phase}"] = why or "not a phase of this stage, or not measured on this device"
    known = {phase: share for phase, share in shares.items() if share is not None}
    suspect = max(known, key=known.__getitem__) if known else None
    if suspect is None:
        reasons |= dict.fromkeys(("suspect", "suspect_share", "suspect_class"), why or "no phase was measured")
    return {
        "shares": shares,
        "suspect": suspect,
        "suspect_share": known[suspect] if suspect else None,
        "suspect_class": SUSPECT_CLASS[suspect] if suspect else None,
        "suspect_verified": False,
    }


def _memory(good: Sequence[Record], reasons: dict[str, str], why: str | None) -> dict[str, Any]:
    """Return padding (share of all positions), peak memory (largest of the repeats) and energy per step."""
    tokens = sum(r["counts"].get("tokens") or 0 for r in good)
    padding = [r["counts"].get("padding_tokens") for r in good]
    known = tokens > 0 and None not in padding
    peaks = [r["memory"].get("peak_mib") for r in good]
    peaks = [p for p in peaks if p is not None]
    split: Mapping[str, Any] = next((r["memory"] for r in good if r["memory"].get("weights_mib") is not None), {})
    out = {
        "padding_pct": 100.0 * sum(padding) / (tokens + sum(padding)) if known else None,
        "peak_memory_mib": max(peaks) if peaks else None,
        **{name: split.get(name) for name in MEMORY_PARTS},
    }
    unknown = {"padding_pct": "tokens were not counted", "peak_memory_mib": "memory was not measured"}
    partly = split.get("parts_reason") or "only training has it"
    unknown |= dict.fromkeys(MEMORY_PARTS, partly if split else "memory was not split up")
    out |= _energy(good, unknown)
    reasons |= {name: why or text for name, text in unknown.items() if out[name] is None}
    return out


def _energy(good: Sequence[Record], unknown: dict[str, str]) -> dict[str, Any]:
    """Return joules per step and tokens per joule of the clean passes; why they are not known goes to `unknown`."""
    meters = [r.get("energy") or {} for r in good]
    why = next((m["reason"] for m in meters if m.get("reason")), "energy was not measured")
    unknown |= dict.fromkeys(("energy_j_per_step", "tokens_per_joule", "energy_source"), why)
    known = [(m, r) for m, r in zip(meters, good, strict=True) if m.get("joules") is not None]
    joules = sum(m["joules"] for m, _ in known) if known else None
    steps = sum(len(r["samples"].get("step_s") or ()) for _, r in known)
    tokens = sum(sum(r["samples"].get("step_tokens") or ()) for _, r in known)
    return {
        "energy_j_per_step": costs.joules_per_step(joules, steps),
        "tokens_per_joule": costs.tokens_per_joule(tokens, joules),
        "energy_source": known[0][0].get("source") if known else None,
    }


def _quality(record: Record | None, reasons: dict[str, str]) -> dict[str, Any]:
    """Return quality, the oracle's and the baselines' on the same examples; all of it is on repeat 0's record."""
    quality = (record or {}).get("quality") or {}
    oracle = (record or {}).get("oracle") or {}
    baselines = (record or {}).get("baselines") or {}
    direction = quality.get("direction") or {}
    out: dict[str, Any] = {
        "quality": quality.get("values") or None,
        "quality_examples": quality.get("examples"),
        "quality_primary": quality.get("primary"),
        "quality_direction": direction or None,
        "oracle": oracle.get("values") or None,
        "oracle_kind": oracle.get("kind"),
        "baseline": best_baseline(baselines, direction) or None,
        "baselines": baselines or None,
    }
    scored = out["quality"] is not None
    texts = dict.fromkeys(("oracle", "oracle_kind"), "no oracle is known for this data")
    texts |= dict.fromkeys(("baseline", "baselines"), "the task has no trivial baseline")
    for name, value in out.items():
        if value is None:
            reasons[name] = texts.get(name, "not recorded") if scored else "this cell was not scored"
    return out


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
