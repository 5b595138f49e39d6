"""A trial of remedies: one process that times a configuration, or trains and scores it.

See `llmbench.analysis.remedy_choice`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llmbench.contract.job import learns
from llmbench.worker.cell_run import TIMED_ORDER_STEPS, CellRun
from llmbench.worker.machine import monitor
from llmbench.worker.measuring import loops
from llmbench.worker.measuring.passes import Watch, run_clean_pass

if TYPE_CHECKING:
    from llmbench.contract.record import Health, Record

SCORED_BATCH = 64  # rows of a batch that is scored, whatever the batch size in training was
CI_PCT = 1.0  # of one process: so narrow that it takes all the time that `remedy_seconds` allows


def try_remedy(run: CellRun) -> Record:
    """Run the job's trial and return its record: `samples` and `memory`, or `training` and `quality`."""
    return learn(run) if learns(run.job.cell.role) else measure(run)


def measure(run: CellRun) -> Record:
    """Time whole steps from the cell's first state; nothing else is done in the process."""
    job = run.job
    engine, _ = run.start()
    if run.trains:
        run.prepare_training(engine)
    feed, kind = run.feed(engine, train=run.trains), run.step_kind()
    run.emit({"event": "measure"})
    order = run.order(TIMED_ORDER_STEPS, train=run.trains)
    watches: dict[str, Watch] = {"health": monitor.Monitor(job.cell.device)}
    clean = run_clean_pass(
        engine, feed(order), kind.step, seconds=job.budget.remedy_seconds, ci_pct=CI_PCT, watches=watches
    )
    health = cast("Health", clean.readings["health"])
    return run.record(
        samples=clean.samples,
        counts={"timing": clean.how},
        memory={"peak_mib": engine.peak_memory_mib(), "capacity_mib": engine.capacity_mib()},
        health=health,
        warnings=monitor.warnings(health),
    )


def learn(run: CellRun) -> Record:
    """Train from the cell's first state and score; a cell of the stage eval is only scored.

    After training, batches of one size are scored: a layout may draw masks batch by batch, so that another batch size
    would ask other questions.
    """
    cell = run.job.cell
    engine, _ = run.start()
    training = None
    if run.trains:
        run.prepare_training(engine)
        batches = run.feed(engine, train=True)(run.order(cell.steps, train=True))
        training = loops.train(engine, batches, cell.steps, run.emit)
        run = run.with_cell(batch_size=SCORED_BATCH, bucketing=True)
    quality = run.score(engine, only_model=True)["quality"]
    return run.record(training=training, quality=quality)
