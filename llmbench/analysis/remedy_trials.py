"""Trials of remedies: the cell of each, and the gains that their records show. Pure functions of cells and records.

A trial is a cell of its own: the cell with the remedies' changes, `remedy_of` and a `role`, `ROUND:NAMES` (names
joined by `+`; none for the configuration as it was). Trials of a round run in turns, each in a process of its own, and
repeat i of two of them is a pair. Rounds: `screen` tries each remedy alone, `add-NAME` one more on top of those chosen
so far, `confirm` the recommended configuration against the plain one; `learn` trains (one cell per seed) and scores.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from llmbench import stats
from llmbench.contract.cell import Cell
from llmbench.contract.job import LEARN
from llmbench.contract.specs import RemedySpec
from llmbench.records.attempts import is_disturbed, latest_attempts, prefer_undisturbed

if TYPE_CHECKING:
    from llmbench.contract.record import Ends, Quality, Record

Names = tuple[str, ...]  # of the remedies of a configuration; none for the plain one
Pair = tuple["Record", "Record"]  # of one repeat: without a change, and with it

# Rounds.
SCREEN = "screen"  # each remedy alone
ADD = "add-"  # and the name of a remedy: it on top of those chosen so far
CONFIRM = "confirm"  # the recommended configuration

# Outcomes for quality.
BETTER = "better"
UNCHANGED = "unchanged"
WORSE = "worse"
UNDECIDED = "undecided"

LEAST_GAIN_X = 1.03  # of throughput: two processes alike may differ by less
LEVEL = 0.95  # of intervals
BLOCKS = 10  # of steps, per process: a stall does not move their median
EQUAL = 0.005  # of the plain configuration's quality: a loss up to this is none
TOLERANCE = 0.05  # of the same: an interval that holds 0 and a larger loss is undecided


class QualityEffect(TypedDict):
    """The effect of remedies on the primary metric, over seeds."""

    metric: str
    delta: float  # mean of the differences by seed
    ci: Ends | None  # Student's interval of `delta`; None from one seed
    seeds: int
    plain: float  # mean without the remedies
    changed: float  # mean with them
    outcome: str


def role_of(round_: str, names: Sequence[str]) -> str:
    """Return the role of a trial of `names` in a round."""
    return f"{round_}:{'+'.join(names)}"


def round_and_names(role: str) -> tuple[str, Names]:
    """Return the two parts of a role: the reverse of `role_of`."""
    round_, _, names = role.partition(":")
    return round_, tuple(names.split("+")) if names else ()


def change_cell(cell: Cell, specs: Iterable[RemedySpec]) -> Cell:
    """Return the cell with the changes of all `specs`, one after the other. Raises DoesNotApply as they do."""
    for spec in specs:
        cell = spec.change(cell)
    return cell


def trial_cell(plain: Cell, of: str, round_: str, specs: Sequence[RemedySpec], seed: int | None = None) -> Cell:
    """Return the cell of a trial of `specs` on `plain`, whose own id is `of`."""
    cell = change_cell(plain, specs)
    seed = cell.seed if seed is None else seed
    return dataclasses.replace(cell, remedy_of=of, role=role_of(round_, [s.name for s in specs]), seed=seed)


def cell_differences(plain: Cell, other: Cell) -> dict[str, object]:
    """Return the fields that `other` changes, with their values."""
    before: Mapping[str, object] = plain.to_json()
    skipped = ("remedy_of", "role", "seed")
    return {k: v for k, v in other.to_json().items() if v != before[k] and k not in skipped}


def apply_differences(cell: Cell, plain: Cell, other: Cell) -> Cell:
    """Return `cell` with the changes that `other` makes to `plain`: the cell that a suite with these settings plans."""
    return Cell.from_json({**cell.to_json(), **cell_differences(plain, other)})


@dataclass(frozen=True)
class Trials:
    """The counted records of all trials of one cell, by role, then by repeat (of `learn`: by seed)."""

    by_role: Mapping[str, Mapping[int, Record]]

    def pairs(self, round_: str, before: Names, after: Names) -> Sequence[Pair]:
        """Return the pairs of good records of two configurations in a round: the quiet ones, else all."""
        return prefer_undisturbed(self._pairs(round_, before, after), 1, _is_disturbed)

    def quiet_pairs(self, round_: str, before: Names, after: Names) -> Sequence[Pair]:
        """Return the pairs of good records that other processes did not disturb."""
        return prefer_undisturbed(self._pairs(round_, before, after), 0, _is_disturbed)

    def _pairs(self, round_: str, before: Names, after: Names) -> list[Pair]:
        a, b = (self.by_role.get(role_of(round_, names), {}) for names in (before, after))
        both = [(a[i], b[i]) for i in sorted(a.keys() & b.keys())]
        return [pair for pair in both if all(record["status"] == "ok" for record in pair)]

    def first(self, round_: str, names: Names) -> Record | None:
        """Return one record of a configuration in a round, one that is not ok if there is one."""
        records = list(self.by_role.get(role_of(round_, names), {}).values())
        return next((r for r in records if r["status"] != "ok"), records[0] if records else None)

    def recommendation(self) -> Names | None:
        """Return the configuration that was confirmed last; None before one was."""
        rounds = [round_and_names(role) for role in self.by_role]
        configurations = [names for round_, names in rounds if round_ == CONFIRM and names]
        return configurations[-1] if configurations else None


def _is_disturbed(pair: Pair) -> bool:
    return any(map(is_disturbed, pair))


def trials_of(records: Iterable[Record]) -> dict[str, Trials]:
    """Return cell id -> the trials of its remedies, in the order in which they first appear."""
    groups: dict[str, dict[str, dict[int, list[Record]]]] = {}
    for record in records:
        cell = record["cell"]
        if of := cell.get("remedy_of"):
            role = cell["role"] or ""
            key = cell["seed"] if role.startswith(f"{LEARN}:") else record["repeat"]
            groups.setdefault(of, {}).setdefault(role, {}).setdefault(key, []).append(record)
    return {
        of: Trials({role: {k: _latest(attempts) for k, attempts in by_key.items()} for role, by_key in roles.items()})
        for of, roles in groups.items()
    }


def _latest(attempts: Sequence[Record]) -> Record:
    """Return the attempt that counts, of those at one repeat (of `learn`: at one seed)."""
    alike = [cast("Record", {**r, "repeat": 0}) for r in attempts]
    return next(iter(latest_attempts(alike).values()))


def unit_of(record: Record) -> Literal["step_examples", "step_tokens"]:
    """Return the unit of throughput: real tokens in training, examples in prediction (whose outputs may differ)."""
    return "step_examples" if record["cell"]["stage"] == "eval" else "step_tokens"


def pace(record: Record) -> float:
    """Return the seconds per real token (or example) of a process: the median over blocks of steps."""
    times, amounts = record["samples"]["step_s"], record["samples"][unit_of(record)]
    size = max(1, len(times) // BLOCKS)
    blocks = [(sum(times[i : i + size]), sum(amounts[i : i + size])) for i in range(0, len(times) - size + 1, size)]
    return statistics.median(seconds / amount for seconds, amount in blocks if amount)


def gain(trials: Trials, round_: str, before: Names, after: Names) -> stats.Estimate | None:
    """Return the throughput of `after` over that of `before`, from pairs of processes; None without a pair."""
    pairs = trials.pairs(round_, before, after)
    if not pairs:
        return None
    sides = [[[pace(pair[i])] for pair in pairs] for i in (0, 1)]
    return stats.ratio_interval(sides[0], sides[1], LEVEL, paired=True)


def memory_change_mib(trials: Trials, round_: str, after: Names) -> float | None:
    """Return the median change of peak memory against the plain configuration."""
    peaks = [(a["memory"].get("peak_mib"), b["memory"].get("peak_mib")) for a, b in trials.pairs(round_, (), after)]
    changes = [b - a for a, b in peaks if a is not None and b is not None]
    return statistics.median(changes) if changes else None


def quality_change(trials: Trials, names: Names) -> QualityEffect | None:
    """Return the effect of `names` on the primary metric, both trained with the same seeds; None without such trials.

    `outcome`: `worse` where the interval is on that side of 0, by more than 0.5 % of the plain value; `undecided` where
    it holds 0 and a loss of more than 5 %; else `unchanged`, or `better`.
    """
    pairs = [(a["quality"], b["quality"]) for a, b in trials.pairs(LEARN, (), names)]
    if not pairs:
        return None
    metric = _metric(pairs)
    plain, other = ([pair[i]["values"][metric] for pair in pairs] for i in (0, 1))
    higher = pairs[0][0]["direction"].get(metric) != "lower"
    changes = [b - a for a, b in zip(plain, other, strict=True)]
    delta, ci = statistics.fmean(changes), None
    if len(changes) > 1:
        half = stats.t_quantile((1 + LEVEL) / 2, len(changes) - 1) * statistics.stdev(changes) / math.sqrt(len(changes))
        ci = [delta - half, delta + half]
    elif not changes[0]:
        ci = [0.0, 0.0]
    return {
        "metric": metric,
        "delta": delta,
        "ci": ci,
        "seeds": len(pairs),
        "plain": statistics.fmean(plain),
        "changed": statistics.fmean(other),
        "outcome": _outcome(ci, statistics.fmean(plain), higher),
    }


def _metric(pairs: Sequence[tuple[Quality, Quality]]) -> str:
    """Return the primary metric; where a model is scored by another (a masked one), the first that all have."""
    shared = [name for name in pairs[0][0]["values"] if all(name in q["values"] for pair in pairs for q in pair)]
    primary = pairs[0][0]["primary"]
    return primary if primary in shared else shared[0]


def _outcome(ci: Ends | None, plain: float, higher: bool) -> str:
    """Return the outcome for quality; `plain` is the mean without remedies, `higher` whether more is better."""
    if ci is None:
        return UNDECIDED
    low, high = ci if higher else [-end for end in reversed(ci)]
    scale = abs(plain) or 1.0
    if low > 0:
        return BETTER
    if low >= -EQUAL * scale:
        return UNCHANGED
    if high < 0:
        return WORSE
    return UNCHANGED if low >= -TOLERANCE * scale else UNDECIDED
