"""Ask the points of a learning study that a doubling leaves open again, with more than twice as much of each.

Which ones, and what is run for them, follows from the records: a run that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from llmbench.analysis.studies import learning
from llmbench.contract import sizes
from llmbench.contract.cell import Cell
from llmbench.contract.errors import PluginError
from llmbench.execution.scheduler import Repeat, Schedule
from llmbench.plugins.registry import Registry
from llmbench.records.run_dir import RunDir
from llmbench.suite.plan import Plan, PlannedCell

if TYPE_CHECKING:
    from llmbench.contract.record import Record


def run(schedule: Schedule) -> None:
    """Run what follows from the records of the plan's cells."""
    context = schedule.context
    plan = context.plan
    cells = next_cells(plan, context.run_dir.records(), context.registry)
    left = _repeats(cells, plan) - schedule.settled
    context.listener.expect(len(left), count_first(left))
    planned = [PlannedCell(cell) for cell in cells]
    schedule.add_cells(planned)
    for repeat in range(plan.suite.repeats):
        schedule.run_round(planned, repeat)


def repeats_left(plan: Plan, run_dir: RunDir, registry: Registry, retry_failed: bool = False) -> set[Repeat]:
    """Return the repeats that follow from what is recorded and are left to run."""
    return _repeats(next_cells(plan, run_dir.records(), registry), plan) - run_dir.list_settled(retry_failed)


def count_first(repeats: Iterable[Repeat]) -> int:
    """Return how many of the repeats are the first of their cell."""
    return sum(repeat == 0 for _, repeat in repeats)


def next_cells(plan: Plan, records: Iterable[Record], registry: Registry) -> list[Cell]:
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


def _repeats(cells: Iterable[Cell], plan: Plan) -> set[Repeat]:
    return {(cell.cell_id, repeat) for cell in cells for repeat in range(plan.suite.repeats)}
