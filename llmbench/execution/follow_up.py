"""Ask the points of a learning study that a doubling leaves open again, with more than twice as much of each.

Which ones, and what is run for them, follows from the records: a run that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmbench.analysis.studies import learning
from llmbench.contract import sizes
from llmbench.contract.cell import Cell
from llmbench.contract.errors import PluginError
from llmbench.execution.scheduler import Rounds
from llmbench.plugins.registry import Registry
from llmbench.suite.plan import Plan, PlannedCell


def to_run(plan: Plan, records: Iterable[Mapping[str, Any]], registry: Registry) -> list[Cell]:
    """Return the cells that follow from `records`, recorded ones too; none where the suite does not follow."""
    study = plan.suite.learning
    if study is None or study["follow"] is None:
        return []
    cells = {one.cell.cell_id: one.cell for one in plan.cells}
    return [cell for cell in learning.cells_to_follow(records, cells, study["follow"]) if _exists(cell, plan, registry)]


def _exists(cell: Cell, plan: Plan, registry: Registry) -> bool:
    try:
        sizes.configuration(registry.model(cell.model, plan.weights), cell.size, cell.vocab_size)
    except PluginError:
        return False  # a model cannot be as large as that
    return True


def left(cells: Iterable[Cell], plan: Plan, settled: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return the (cell id, repeat) of `cells` that are left to run."""
    return {(cell.cell_id, repeat) for cell in cells for repeat in range(plan.suite.repeats)} - settled


def first(left: Iterable[tuple[str, int]]) -> int:
    """Return how many of the (cell id, repeat) are the first of their cell."""
    return sum(repeat == 0 for _, repeat in left)


def follow(rounds: Rounds, plan: Plan, registry: Registry) -> None:
    """Run what follows from the records of the plan's cells."""
    cells = [PlannedCell(cell) for cell in to_run(plan, rounds.run_dir.records(), registry)]
    rounds.planned |= {one.cell.cell_id: one for one in cells}
    rounds.counts |= {one.cell.cell_id: plan.suite.repeats for one in cells}
    for repeat in range(plan.suite.repeats):
        rounds.round(cells, repeat, rounds.settled)
