"""Two recorded runs side by side: which cells are slower or faster, and how sure that is. Pure; no files.

A verdict comes from an interval, never from a point: `slower` or `faster` where it excludes no change, `same` where it
lies within the margin on both sides (two one-sided tests: equivalence is shown, not presumed), else `undecided`, with
about how many processes a side would decide. All intervals of a comparison hold together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from llmbench import stats
from llmbench.analysis.machine_differences import Difference, find_differences
from llmbench.analysis.quality_changes import QualityChange, compare_quality
from llmbench.analysis.studies.alike import Key, key_of
from llmbench.contract.cell import label_of
from llmbench.records import attempts
from llmbench.records.read import Run

if TYPE_CHECKING:
    from llmbench.contract.record import CellFields, Record

LEVEL = 0.99  # of all intervals of a comparison together
MARGIN_PCT = 5.0  # a change within it is `same`
#: The common change of all cells that two runs of the same code may have: another hour, another clock.
NOISE_FLOOR_PCT = 5.0
OVERLAP = 0.5  # of the shorter run: runs that overlap for so long were measured in turns
FAILED_IN_HEAD = "failed in head"
FEWEST_QUIET = 2  # undisturbed processes of a cell: with so many, the disturbed ones are left out


@dataclass(frozen=True)
class CellChange:
    """One cell in both runs."""

    cell: CellFields
    cell_ids: tuple[str, str]  # in base, in head
    base_s: float
    head_s: float
    ratio: float  # of step times, head over base: above 1, head is slower
    change: float  # the ratio that decided
    low: float | None  # of the interval of `change`
    high: float | None
    beyond_common: bool  # `change` is beyond the common change of all cells; else the noise floor is in its interval
    verdict: str  # slower, faster, same or undecided
    repeats: tuple[int, int]  # processes of base and of head
    repeats_to_decide: int | None = None  # None for a decided cell, and where `reason` says why it is not known
    reason: str | None = None
    data_differ: bool = False

    @property
    def ends(self) -> list[float] | None:
        """Both ends of the interval; None without one."""
        return None if self.low is None or self.high is None else [self.low, self.high]


@dataclass(frozen=True)
class Comparison:
    """Two runs, cell by cell."""

    base: str
    head: str
    differences: tuple[Difference, ...]
    only: tuple[tuple[CellFields, str], ...]  # cell, and on which side it is missing or failed, and why
    common: stats.Estimate | None  # the change that all cells have in common
    common_verdict: str | None
    cells: tuple[CellChange, ...]
    quality: tuple[QualityChange, ...]
    in_turns: bool  # the runs were measured in the same stretch of time
    level: float
    margin_pct: float
    noise_floor_pct: float
    fail_on_pct: float | None = None
    disturbed_counts: tuple[int, int] = (0, 0)  # processes of base and head that others disturbed
    regressions: tuple[str, ...] = ()  # slower than `fail_on_pct` with confidence
    unsure: tuple[str, ...] = ()  # not known to be within `fail_on_pct`

    @property
    def failures(self) -> list[str]:
        """The cells that were measured in base and failed in head."""
        return [f"{label_of(cell)}: {why}" for cell, why in self.only if why.startswith(FAILED_IN_HEAD)]

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> number of cells."""
        counts = Counter(one.verdict for one in self.cells)
        return {name: counts[name] for name in ("slower", "faster", "same", "undecided")}


def compare_runs(
    base: Run,
    head: Run,
    *,
    fail_on_pct: float | None = None,
    margin_pct: float | None = None,
    noise_floor_pct: float | None = None,
    level: float = LEVEL,
) -> Comparison:
    """Return the changes from `base` to `head`, cell by cell.

    The margin of `same` is `margin_pct`, else `fail_on_pct`, else 5. `noise_floor_pct` is the common change of all
    cells that equal runs may have; None: 0 where the rounds of both runs took turns, else 5.
    """
    margin = margin_pct if margin_pct is not None else fail_on_pct if fail_on_pct else MARGIN_PCT
    in_turns = _took_turns(base.records, head.records)
    floor = noise_floor_pct if noise_floor_pct is not None else 0.0 if in_turns else NOISE_FLOOR_PCT
    pairs, only = _pairs(base.records, head.records)
    timed = [pair for pair in pairs if _times(pair[0]) and _times(pair[1])]
    only += [(pair[1][0]["cell"], _why_no_times(pair)) for pair in pairs if pair not in timed]
    changes = stats.find_changes([_by_rounds(b) for b, _ in timed], [_by_rounds(h) for _, h in timed], level)
    common_verdict = _common_verdict(changes.common, margin / 100, floor / 100) if changes.common else None
    moved = common_verdict in ("slower", "faster")
    cells = [
        _cell_change(pair, change, changes.each, margin / 100, floor / 100, moved)
        for pair, change in zip(timed, changes.cells, strict=True)
    ]
    regressed, unsure = _threshold(cells, fail_on_pct)
    return Comparison(
        base.name,
        head.name,
        tuple(find_differences(base, head)),
        tuple(only),
        changes.common,
        common_verdict,
        tuple(cells),
        tuple(compare_quality(pairs, level)),
        in_turns,
        level,
        margin,
        floor,
        fail_on_pct,
        _count_disturbed(timed),
        tuple(regressed),
        tuple(unsure),
    )


def _count_disturbed(pairs: Sequence[tuple[list[Record], list[Record]]]) -> tuple[int, int]:
    base, head = (sum(len(_with_times(pair[i])) - len(_quiet(pair[i])) for pair in pairs) for i in (0, 1))
    return base, head


def _cell_change(
    pair: tuple[list[Record], list[Record]],
    change: stats.Change,
    each: float,
    margin: float,
    floor: float,
    moved: bool,
) -> CellChange:
    base, head = pair
    times = [_times(side) for side in pair]
    beyond = change.own is not None and not moved
    deciding = change.own if change.own is not None and not moved else change.ratio
    low, high = deciding.low, deciding.high
    if deciding.method == "within":
        low = high = None  # one process says nothing about another
    elif not beyond and low is not None and high is not None:
        low, high = low / (1 + floor), high * (1 + floor)
    verdict = _verdict(low, high, margin)
    if beyond and verdict in ("slower", "faster") and (change.ratio.value > 1) != (verdict == "slower"):
        verdict = "undecided"
    needed, reason = None, None
    if verdict == "undecided":
        now = min(map(len, times))
        needed = stats.repeats_to_decide(change, each, margin, now)
        reason = _why_undecided(low, now, needed, beyond or not floor)
        needed = needed if needed is not None and needed > now and (beyond or not floor) else None
    return CellChange(
        head[0]["cell"],
        (base[0]["cell_id"], head[0]["cell_id"]),
        stats.process_interval(times[0]).value,
        stats.process_interval(times[1]).value,
        change.ratio.value,
        deciding.value,
        low,
        high,
        beyond,
        verdict,
        (len(times[0]), len(times[1])),
        needed,
        reason,
        base[0]["cell_id"] != head[0]["cell_id"],
    )


def _why_undecided(low: float | None, now: int, needed: int | None, steady: bool) -> str:
    if low is None:
        return "one process says nothing about another: measure with repeats: 3"
    if needed is None:
        return "more than 999 processes a side would be needed: the machine is too noisy for this margin"
    if not steady:
        return "the runs were measured at different times, and what a machine does meanwhile is in it: interleave them"
    if needed > now:
        return f"about {needed} processes a side would decide"
    return "the whole change and the change beyond the others point to different sides"


def _verdict(low: float | None, high: float | None, margin: float) -> str:
    """Return the verdict of the interval of a ratio."""
    if low is None or high is None:
        return "undecided"
    if low > 1 or high < 1:
        return "slower" if low > 1 else "faster"
    return "same" if low >= 1 / (1 + margin) and high <= 1 + margin else "undecided"


def _common_verdict(shared: stats.Estimate, margin: float, floor: float) -> str:
    low, high = shared.low, shared.high
    return "undecided" if low is None or high is None else _verdict(low / (1 + floor), high * (1 + floor), margin)


def _threshold(cells: Sequence[CellChange], fail_on_pct: float | None) -> tuple[list[str], list[str]]:
    """Return the cells that are slower than the threshold with confidence, and those that may be."""
    if fail_on_pct is None:
        return [], []
    limit = 1 + fail_on_pct / 100
    regressed, unsure = [], []
    for one in cells:
        low, high = one.low, one.high
        if one.verdict == "slower" and low is not None and low > limit:
            regressed.append(f"{label_of(one.cell)}: {_pct(one.change)} [{_pct(low)}, {_pct(high)}]")
        elif one.verdict in ("slower", "undecided") and (high is None or high > limit):
            unsure.append(label_of(one.cell))
    return regressed, unsure


def _pct(ratio: float | None) -> str:
    return "?" if ratio is None else f"{100 * (ratio - 1):+.1f} %"


# --- pairing ---


def _pairs(
    base: Sequence[Record], head: Sequence[Record]
) -> tuple[list[tuple[list[Record], list[Record]]], list[tuple[CellFields, str]]]:
    """Return the counted records of cells in both runs, and the cells of one run only.

    A cell is paired by its id; where only the data's fingerprints differ (another version of a data set), by its other
    fields, if that leaves no choice.
    """
    left, right = attempts.by_cell(base), attempts.by_cell(head)
    ids = {name: name for name in right if name in left}
    free = [{k: g for k, g in side.items() if k not in ids} for side in (left, right)]
    keys = [Counter(_settings(g) for g in side.values()) for side in free]
    by_settings = {_settings(g): name for name, g in free[0].items()}
    for name, group in free[1].items():
        key = _settings(group)
        if keys[0][key] == keys[1][key] == 1:
            ids[name] = by_settings[key]
    pairs = [(_latest(left[ids[name]]), _latest(right[name])) for name in right if name in ids]
    only = [(g[0]["cell"], "only in base") for name, g in left.items() if name not in ids.values()]
    only += [(g[0]["cell"], "only in head") for name, g in right.items() if name not in ids]
    return pairs, only


def _settings(group: Sequence[Record]) -> Key:
    """Return the key of a cell from its records: without what names the content of its data."""
    return key_of(group[0]["cell"], ("parent",), fingerprints=False)


def _latest(group: Sequence[Record]) -> list[Record]:
    return [record for _, record in sorted(attempts.latest_attempts(group).items())]


def _times(records: Sequence[Record]) -> list[list[float]]:
    """Return the step times (s) of the processes that count, in the order of rounds."""
    return attempts.step_times(_quiet(records))


def _by_rounds(records: Sequence[Record]) -> list[list[float]]:
    """Return the step times (s) of each round, empty for one whose process does not count."""
    times = {record["repeat"]: record["samples"]["step_s"] for record in _quiet(records)}
    return [times.get(repeat, []) for repeat in range(max(times) + 1)]


def _with_times(records: Sequence[Record]) -> list[Record]:
    """Return the records of processes that are ok and have timed steps."""
    return [r for r in records if r["status"] == "ok" and r["samples"].get("step_s")]


def _quiet(records: Sequence[Record]) -> Sequence[Record]:
    """Return the processes that were timed; the disturbed ones among them only where too few others are left.

    The kernel's counters decide who was disturbed, never how long steps took, so that it does not favour a verdict.
    """
    return attempts.prefer_undisturbed(_with_times(records), FEWEST_QUIET)


def _why_no_times(pair: tuple[list[Record], list[Record]]) -> str:
    missing = [not _times(side) for side in pair]
    states = [side[0]["status"] for side in pair]
    if all(missing):
        return f"not measured in either ({states[0]}, {states[1]})"
    if missing[1]:
        return f"{FAILED_IN_HEAD}: {states[1]}"
    return f"failed in base: {states[0]}"


def _took_turns(base: Sequence[Record], head: Sequence[Record]) -> bool:
    """Return whether the two runs were measured in the same stretch of time."""
    spans = [_span(side) for side in (base, head)]
    if None in spans:
        return False
    (a0, a1), (b0, b1) = (span for span in spans if span is not None)
    return min(a1, b1) - max(a0, b0) > OVERLAP * min(a1 - a0, b1 - b0)


def _span(records: Sequence[Record]) -> tuple[float, float] | None:
    """Return first start and last end (seconds) of the records that were timed; None where they do not say."""
    starts = [(_seconds(r.get("started_at")), r.get("wall_s") or 0.0) for r in records if r["status"] == "ok"]
    if not starts or any(math.isnan(start) for start, _ in starts):
        return None
    return min(start for start, _ in starts), max(start + wall for start, wall in starts)


def _seconds(text: str | None) -> float:
    """Return a time of day in seconds since 1970; nan for a text that is no time."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except (TypeError, ValueError):
        return math.nan
