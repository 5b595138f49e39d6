"""Time and energy to a target quality: models, precisions and options compared at equal quality. Pure functions.

A *ladder* is a set of runs that are alike in all but the number of steps and the seed. Each rung is a training of its
own with its own learning rate schedule: a run that is stopped early does not have the quality of one that was meant to
be short. The steps to the target are interpolated between the two rungs around it, linear in the logarithm of the
steps, seed by seed; seconds and joules are those steps at the measured step.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from llmbench import stats
from llmbench.analysis import costs
from llmbench.analysis.studies.learning import (
    TAIL,
    Points,
    Runs,
    Scale,
    ScoredRun,
    Setup,
    group_by_setup,
    parameters,
    scale_of,
)

if TYPE_CHECKING:
    from llmbench.contract.record import Record, TimeToQualityRow

SHARE = 0.9  # of the way from the best trivial baseline to the oracle: the target where both are known

Ladder = Mapping[int, Runs]  # steps -> the runs of that rung


def ladder_rows(records: Iterable[Record]) -> list[TimeToQualityRow]:
    """Return one row per ladder of at least two rungs, of tasks with a target."""
    return rows_of(group_by_setup(records))


def rows_of(groups: Mapping[Setup, Points]) -> list[TimeToQualityRow]:
    """Return the rows of `ladder_rows` from the groups of `llmbench.analysis.studies.learning.group_by_setup`."""
    rows = []
    for points in groups.values():
        ladders: dict[tuple[int, str], dict[int, Runs]] = {}
        for (data, steps, size), runs in points.items():
            ladders.setdefault((data, size), {})[steps] = runs
        for (data, size), ladder in ladders.items():
            run = next(iter(next(iter(ladder.values())).values()))
            goal = target(run.evaluation)
            if len(ladder) > 1 and goal is not None:
                rows.append(_row(run, data, size, ladder, goal))
    return rows


def target(evaluation: Record) -> float | None:
    """Return the target on the scale of the primary metric; None without an oracle or a trivial baseline."""
    scale = scale_of(evaluation["quality"])
    best, trivial = scale.oracle(evaluation), scale.trivial(evaluation)
    return None if best is None or trivial is None else trivial + SHARE * (float(best.mean()) - trivial)


def _row(run: ScoredRun, data: int, size: str, ladder: Ladder, goal: float) -> TimeToQualityRow:
    scale, cell = scale_of(run.evaluation["quality"]), run.training["cell"]
    seeds = sorted(set.intersection(*(set(runs) for runs in ladder.values())))
    crossings = [crossing({steps: _score(scale, runs[s]) for steps, runs in ladder.items()}, goal) for s in seeds]
    known = [steps for steps in crossings if steps is not None]
    row: TimeToQualityRow = {
        "model": cell["model"],
        "task": cell["task"],
        "dataset": cell["dataset"],
        "stage": cell["stage"],
        "device": cell["device"],
        "precision": cell["precision"],
        "batch_size": cell["batch_size"],
        "attention": cell["attention"],
        "compile": cell["compile"],
        "size": size,
        "train_examples": data,
        "parameters": parameters(next(iter(ladder.values()))),
        "rungs": sorted(ladder),
        "metric": scale.metric,
        "target": scale.undo(goal),
        "steps": None,
        "steps_ci": None,
        "seconds": None,
        "joules": None,
        "seeds": len(seeds),
        "reached": len(known),
        "reason": None,
    }
    if not known or len(known) < len(seeds):
        row["reason"] = f"{len(known)} of {len(seeds)} seeds reached it on these rungs"
        return row
    mean = stats.two_way_mean([[math.log(value)] for value in known])
    steps, ends, cost = math.exp(mean.value), mean.interval(TAIL).ends, _cost_of_step(ladder)
    row["steps"], row["steps_ci"] = steps, ends and [math.exp(end) for end in ends]
    row["seconds"] = steps * cost.seconds if cost.seconds else None
    row["joules"] = steps * cost.joules if cost.joules is not None else None
    return row


def _score(scale: Scale, run: ScoredRun) -> float:
    return scale.of(run.evaluation["quality"]["values"][scale.metric])


def crossing(scores: Mapping[int, float], goal: float) -> float | None:
    """Return the steps at which `scores` (steps -> score) first reach `goal`; None where no rung reaches it, or where
    the shortest one does already, so that less may be enough.

    >>> crossing({100: 0.5, 400: 0.9}, 0.7)
    200.0
    """
    rungs = sorted(scores)
    for low, high in zip(rungs, rungs[1:], strict=False):
        if scores[low] < goal <= scores[high]:
            share = (goal - scores[low]) / (scores[high] - scores[low])
            return round(math.exp(math.log(low) + share * math.log(high / low)), 6)
    return None


class _StepCost(NamedTuple):
    """Medians over all trainings of a ladder."""

    seconds: float | None
    joules: float | None


def _cost_of_step(ladder: Ladder) -> _StepCost:
    trainings = [run.training for runs in ladder.values() for run in runs.values()]
    times = [statistics.median(t["samples"]["step_s"]) for t in trainings if t["samples"].get("step_s")]
    energies = [
        costs.joules_per_step((t.get("energy") or {}).get("joules"), len(t["samples"].get("step_s") or ()))
        for t in trainings
    ]
    joules = [energy for energy in energies if energy is not None]
    return _StepCost(statistics.median(times) if times else None, statistics.median(joules) if joules else None)
