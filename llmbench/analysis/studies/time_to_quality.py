"""Time and energy to a target quality: models, precisions and options compared at equal quality. Pure functions.

A *ladder* is a set of runs that are alike in all but the number of steps and the seed. Each rung is a training of its
own with its own learning rate schedule, since a run that is stopped early has not the quality of one that was meant to
be short. The steps to the target are interpolated between the two rungs around it, linear in the logarithm of the
steps, seed by seed; seconds and joules are those steps at the measured step.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from llmbench import stats
from llmbench.analysis import costs
from llmbench.analysis.studies.learning import TAIL, Point, Scale, ScoredRun, group_by_setup, parameters, scale_of

Record = Mapping[str, Any]
Row = dict[str, Any]

SHARE = 0.9  # of the way from the best trivial baseline to the oracle: the target where both are known


def ladder_rows(records: Iterable[Record]) -> list[Row]:
    """Return one row per ladder of at least two rungs, of tasks with a target."""
    return rows_of(group_by_setup(records))


def rows_of(groups: Mapping[tuple[Any, ...], Mapping[Point, Mapping[int, ScoredRun]]]) -> list[Row]:
    """Return the rows of `reach` from what `llmbench.analysis.studies.learning.group_by_setup` returns."""
    rows: list[Row] = []
    for points in groups.values():
        ladders: dict[tuple[int, str], dict[int, Mapping[int, ScoredRun]]] = {}
        for (data, steps, size), runs in points.items():
            ladders.setdefault((data, size), {})[steps] = runs
        for (data, size), ladder in ladders.items():
            run = next(iter(next(iter(ladder.values())).values()))
            goal = target(run.evaluation)
            if len(ladder) > 1 and goal is not None:
                rows.append(_row(run, data, size, ladder, goal))
    return rows


def target(scored: Record) -> float | None:
    """Return the target on the scale of the primary metric; None without an oracle or a trivial baseline."""
    scale = scale_of(scored["quality"])
    best, trivial = scale.oracle(scored), scale.trivial(scored)
    return None if best is None or trivial is None else trivial + SHARE * (float(best.mean()) - trivial)


def _row(run: ScoredRun, data: int, size: str, ladder: Mapping[int, Mapping[int, ScoredRun]], goal: float) -> Row:
    scale, cell = scale_of(run.evaluation["quality"]), run.training["cell"]
    names = ("model", "task", "dataset", "stage", "device", "precision", "batch_size", "attention", "compile")
    out: Row = {name: cell[name] for name in names} | {"size": size, "train_examples": data}
    out |= {"parameters": parameters(next(iter(ladder.values()))), "rungs": sorted(ladder)}
    out |= {"metric": scale.metric, "target": scale.undo(goal)}
    seeds = sorted(set.intersection(*(set(runs) for runs in ladder.values())))
    found = [crossing({steps: _score(scale, runs[s]) for steps, runs in ladder.items()}, goal) for s in seeds]
    step_s, joules = _per_step(ladder)
    known = [steps for steps in found if steps is not None]
    out |= dict.fromkeys(("steps", "steps_ci", "seconds", "joules"))
    out |= {
        "seeds": len(seeds),
        "reached": len(known),
        "reason": None if known else "no seed reached it on these rungs",
    }
    if not known or len(known) < len(seeds):
        return out | {"reason": f"{len(known)} of {len(seeds)} seeds reached it on these rungs"}
    steps = stats.two_way_mean([[math.log(value)] for value in known])
    ends = steps.interval(TAIL).ends
    out |= {"steps": math.exp(steps.value), "steps_ci": ends and [math.exp(end) for end in ends]}
    out["seconds"] = out["steps"] * step_s if step_s else None
    return out | {"joules": out["steps"] * joules if joules is not None else None}


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


def _per_step(ladder: Mapping[int, Mapping[int, ScoredRun]]) -> tuple[float | None, float | None]:
    """Return seconds and joules of a step: medians over all trainings of the ladder."""
    trainings = [run.training for runs in ladder.values() for run in runs.values()]
    times = [statistics.median(t["samples"]["step_s"]) for t in trainings if t["samples"].get("step_s")]
    energies = [
        costs.joules_per_step((t.get("energy") or {}).get("joules"), len(t["samples"].get("step_s") or ()))
        for t in trainings
    ]
    joules = [energy for energy in energies if energy is not None]
    return (statistics.median(times) if times else None), (statistics.median(joules) if joules else None)
