"""What runs with remedies show: which change each had, and what it gained."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench import stats
from llmbench.contract.cell import Cell
from llmbench.contract.job import LEARN
from llmbench.contract.specs import RemedySpec
from llmbench.records.attempts import is_disturbed, latest_attempts, prefer_undisturbed

Record = Mapping[str, Any]

Names = tuple[str, ...]

SCREEN, ADD, CONFIRM = "screen", "add-", "confirm"

LEAST_GAIN_X = 1.03  # throughput gained, at least: less is within what two processes differ by

LEVEL = 0.95

BLOCKS = 10  # of steps, per process: their median is not moved by a stall

#: Quality, relative to the plain configuration's: a loss up to `EQUAL` is none; one beyond `TOLERATED` is not ruled out
#: by an interval that holds 0 as well.
EQUAL, TOLERATED = 0.005, 0.05

BETTER, UNCHANGED, WORSE, UNDECIDED = "better", "unchanged", "worse", "undecided"


def role_of(round_: str, names: Sequence[str]) -> str:
    """Return the role of a trial."""
    return f"{round_}:{'+'.join(names)}"


def round_and_names(role: str) -> tuple[str, Names]:
    """Return what `role_of` joined."""
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


def cell_differences(plain: Cell, other: Cell) -> dict[str, Any]:
    """Return field -> value of what `other` changes."""
    before = plain.to_json()
    skipped = ("remedy_of", "role", "seed")
    return {k: v for k, v in other.to_json().items() if v != before[k] and k not in skipped}


def apply_differences(cell: Cell, plain: Cell, other: Cell) -> Cell:
    """Return `cell` with what `other` changes of `plain`: the cell that a suite with these settings plans."""
    return dataclasses.replace(cell, **cell_differences(plain, other))


@dataclass(frozen=True)
class Trials:
    """The counted records of all trials of one cell, by role, then by repeat (of `learn`: by seed)."""

    by_role: Mapping[str, Mapping[int, Record]]

    def pairs(self, round_: str, before: Names, after: Names) -> Sequence[tuple[Record, Record]]:
        """Return the pairs of good records of two configurations in a round: the quiet ones, else all."""
        return prefer_undisturbed(self._pairs(round_, before, after), 1, _is_disturbed)

    def quiet_pairs(self, round_: str, before: Names, after: Names) -> Sequence[tuple[Record, Record]]:
        """Return the pairs of good records both of which had their cores."""
        return prefer_undisturbed(self._pairs(round_, before, after), 0, _is_disturbed)

    def _pairs(self, round_: str, before: Names, after: Names) -> list[tuple[Record, Record]]:
        a, b = (self.by_role.get(role_of(round_, names), {}) for names in (before, after))
        both = [(a[i], b[i]) for i in sorted(a.keys() & b.keys())]
        return [pair for pair in both if all(record["status"] == "ok" for record in pair)]

    def first(self, round_: str, names: Names) -> Record | None:
        """Return one record of a configuration in a round, a bad one if there is one."""
        found = list(self.by_role.get(role_of(round_, names), {}).values())
        return next((r for r in found if r["status"] != "ok"), found[0] if found else None)

    def recommendation(self) -> Names | None:
        """Return the configuration that was confirmed last, None before that."""
        rounds = [round_and_names(role) for role in self.by_role]
        confirmed = [names for round_, names in rounds if round_ == CONFIRM and names]
        return confirmed[-1] if confirmed else None


def _is_disturbed(pair: tuple[Record, Record]) -> bool:
    return any(map(is_disturbed, pair))


def trials_of(records: Iterable[Record]) -> dict[str, Trials]:
    """Return cell id -> the trials of its remedies, in the order in which they first appear."""
    groups: dict[str, dict[str, dict[int, list[Record]]]] = {}
    for record in records:
        cell = record["cell"]
        if cell.get("remedy_of"):
            key = cell["seed"] if cell["role"].startswith(f"{LEARN}:") else record["repeat"]
            roles = groups.setdefault(cell["remedy_of"], {})
            roles.setdefault(cell["role"], {}).setdefault(key, []).append(record)
    return {
        of: Trials({role: {k: _latest(found) for k, found in by_key.items()} for role, by_key in roles.items()})
        for of, roles in groups.items()
    }


def _latest(attempts: Sequence[Record]) -> Record:
    return next(iter(latest_attempts([{**r, "repeat": 0} for r in attempts]).values()))


def unit_of(record: Record) -> str:
    """Return what throughput counts: real tokens in training, examples in prediction (whose outputs may differ)."""
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
    changes = [
        b["memory"]["peak_mib"] - a["memory"]["peak_mib"]
        for a, b in trials.pairs(round_, (), after)
        if a["memory"].get("peak_mib") is not None and b["memory"].get("peak_mib") is not None
    ]
    return statistics.median(changes) if changes else None


def quality_change(trials: Trials, names: Names) -> dict[str, Any] | None:
    """Return what `names` did to the primary metric, both trained with the same seeds; None where that was not done.

    `delta` is the mean of the differences by seed, `ci` Student's interval of it (null from one seed), `plain` and
    `changed` the means. `outcome`: `worse` where the interval is on that side of 0, by more than 0.5 % of the plain
    value; `undecided` where it holds 0 and a loss of more than 5 %; else `unchanged`, or `better`.
    """
    pairs = [(a["quality"], b["quality"]) for a, b in trials.pairs(LEARN, (), names)]
    if not pairs:
        return None
    metric = _metric(pairs)
    plain, other = ([pair[i]["values"][metric] for pair in pairs] for i in (0, 1))
    higher = pairs[0][0]["direction"].get(metric) != "lower"
    changes = [b - a for a, b in zip(plain, other, strict=True)]
    out: dict[str, Any] = {"metric": metric, "delta": statistics.fmean(changes), "ci": None, "seeds": len(pairs)}
    out |= {"plain": statistics.fmean(plain), "changed": statistics.fmean(other)}
    if len(changes) > 1:
        half = stats.t_quantile((1 + LEVEL) / 2, len(changes) - 1) * statistics.stdev(changes) / math.sqrt(len(changes))
        out["ci"] = [out["delta"] - half, out["delta"] + half]
    elif not changes[0]:
        out["ci"] = [0.0, 0.0]
    return out | {"outcome": _outcome(out, higher)}


def _metric(pairs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Return the primary metric; where a model is scored by another (a masked one), the first that all have."""
    shared = [name for name in pairs[0][0]["values"] if all(name in q["values"] for pair in pairs for q in pair)]
    primary = pairs[0][0]["primary"]
    return primary if primary in shared else shared[0]


def _outcome(change: Mapping[str, Any], higher: bool) -> str:
    if change["ci"] is None:
        return UNDECIDED
    low, high = change["ci"] if higher else [-end for end in reversed(change["ci"])]
    scale = abs(change["plain"]) or 1.0
    if low > 0:
        return BETTER
    if low >= -EQUAL * scale:
        return UNCHANGED
    if high < 0:
        return WORSE
    return UNCHANGED if low >= -TOLERATED * scale else UNDECIDED
