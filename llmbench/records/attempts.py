"""The attempts at a cell: which of them count, and which other processes disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from llmbench.contract.record import CellFields, Record

T = TypeVar("T")

#: A process that lost more than this share of its time to other processes, or to the host, does not count where there
#: are others.
OTHERS = 0.15


def by_cell(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return cell id -> its records, in the order of first appearance; trials of remedies are no cells of their own.

    Records that know their `groups` are not grouped again.
    """
    known: dict[str, list[Record]] | None = getattr(records, "groups", None)
    if known is not None:
        return known
    groups: dict[str, list[Record]] = {}
    for record in records:
        cell = cast("CellFields | None", record.get("cell"))  # an old record may have none
        if cell is None or cell.get("remedy_of") is None:
            groups.setdefault(record["cell_id"], []).append(record)
    return groups


def latest_attempts(records: Sequence[Record]) -> dict[int, Record]:
    """Return repeat -> the record that counts, of one cell: the latest ok attempt, else the latest."""
    best: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: (r["repeat"], r["status"] == "ok", r["attempt"])):
        best[record["repeat"]] = record
    return best


def good(by_repeat: Mapping[int, Record]) -> list[Record]:
    """Return the records that are ok, in the order of repeats."""
    return [record for record in by_repeat.values() if record["status"] == "ok"]


def is_disturbed(record: Record) -> bool:
    """Return whether others kept a process from its cores while it was timed: by what the kernel says, not by speed.

    That is time that the hypervisor gave to others, and time in which others ran while a thread of the process waited
    for a core. Where it is not known how long threads waited, whatever others ran counts.
    """
    health = record.get("health") or {}
    wall_s, cores = health.get("wall_s") or 0.0, health.get("cores") or 1
    others_s, stolen_s = health.get("other_cpu_s") or 0.0, (health.get("steal_s") or 0.0) / cores
    waited_s = health.get("run_wait_longest_s")
    lost_s = others_s / cores if waited_s is None else min(others_s, waited_s)
    return lost_s + stolen_s > OTHERS * wall_s


def prefer_undisturbed(processes: Sequence[T], at_least: int, decide: Callable[[T], bool] | None = None) -> Sequence[T]:
    """Return the processes that others did not disturb; all of them where these are fewer than `at_least`.

    `decide` says whether one of `processes`, which may be pairs, was disturbed; by default they are records.
    """
    test: Callable[[Any], bool] = decide or is_disturbed
    quiet = [one for one in processes if not test(one)]
    return quiet if len(quiet) >= at_least else processes


def step_times(records: Sequence[Record]) -> list[list[float]]:
    """Return the clean step times (s) of each record, in their order."""
    return [record["samples"].get("step_s") or [] for record in records]
