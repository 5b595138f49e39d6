"""What limits learning: which of more data, more steps and more parameters moves quality most. Pure functions.

A *point* is a number of training examples, of optimizer steps and a size. Cells are compared by their content: runs
that are alike in all but the seed belong together, and a point is examined if its doublings were run, too. Every number
is a contrast of scores (S seeds, N test examples), paired by seed and by example, so that its interval holds for other
seeds and other test examples; `docs/learning.md` says for what it does not hold.

Doubling is local: a lack that is twenty times deep may not show in it. A point that doubling leaves undecided can be
examined again with more than twice as much of each (`learning: follow`); a part of the 5 % is reserved for that.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench import stats
from llmbench.analysis.studies.alike import DERIVED, Key, key_of
from llmbench.contract.cell import DEFAULTS, Cell
from llmbench.contract.sizes import times
from llmbench.records import attempts

if TYPE_CHECKING:
    from llmbench.contract.record import Ends, Gain, LearningRow, MissingQuality, Oracle, Quality, Record

Point = tuple[int, int, str]  # training examples, steps, size
Setup = tuple[Key, int | None]  # what all points of a study have in common, and the number of test examples
Runs = Mapping[int, "ScoredRun"]  # of one point, by seed
Points = Mapping[Point, Runs]  # of one setup

AXES = ("data", "steps", "parameters")
NAMES = {"data": "data", "steps": "training", "parameters": "capacity"}  # what is short where an axis moves quality
NONE = "none"  # the verdict where nothing gains enough
UNDECIDED = "undecided"  # the verdict where that is not known
LEVEL = 0.95  # of intervals
TAIL = (1 - LEVEL) / 2  # outside of an interval, at each end
WRONG = 1 - LEVEL  # probability that a verdict names a wrong axis, at most
#: The same in a study that follows: of doublings, and of the larger factor. A study that follows and leaves no point
#: open after doubling has `WRONG_DOUBLED` only.
WRONG_DOUBLED = 0.04
WRONG_FURTHER = 0.01
#: A gain is worth having when it closes so much of the distance between the best trivial baseline and the oracle; where
#: no oracle is known, when it moves quality by so much of itself.
MATERIAL = 0.05
MUCH = 3.0  # times as much: more than a doubling, however it was rounded
NOT_BY_EXAMPLE = "the metric is no mean over examples: intervals hold for other seeds, not for another test split"

#: Fields that may differ between the runs of one table row, or follow from those that do.
_OPEN = (*DERIVED, "seed", "train_examples", "steps", "size", "stage")


@dataclass(frozen=True)
class ScoredRun:
    """A training and its score on the test split."""

    point: Point
    seed: int
    training: Record
    evaluation: Record  # with the quality; of a cell that is scored where it is trained, the same record


def learning_rows(records: Iterable[Record]) -> list[LearningRow]:
    """Return one row per point with doublings, in the order of the records."""
    return rows_of(group_by_setup(records))


def rows_of(groups: Mapping[Setup, Points]) -> list[LearningRow]:
    """Return the rows of `learning_rows` from the groups of `group_by_setup`."""
    rows = []
    for points in groups.values():
        counts = {point: len(partners(points, point)) for point in points}
        fewest = min(2, max(counts.values()))  # two points of a box may be a doubling by chance
        rows += [row(points, point) for point, count in counts.items() if count >= max(1, fewest)]
    return rows


def group_by_setup(records: Iterable[Record]) -> dict[Setup, dict[Point, dict[int, ScoredRun]]]:
    """Return setup -> point -> seed -> run, of all that was trained and scored, where a setup has several points."""
    groups: dict[Setup, dict[Point, dict[int, ScoredRun]]] = {}
    first = {name: attempts.latest_attempts(group).get(0) for name, group in attempts.by_cell(records).items()}
    for setup, training, evaluation in _with_several_points(first):
        trained = training.get("training")
        if not (evaluation.get("quality") or {}).get("values") or not trained:
            continue
        cell = training["cell"]
        examples = trained.get("examples") or cell.get("train_examples")
        if examples is None:
            continue
        point = (examples, cell.get("steps", DEFAULTS["steps"]), cell["size"])
        run = ScoredRun(point, cell.get("seed", DEFAULTS["seed"]), training, evaluation)
        groups.setdefault(setup, {}).setdefault(point, {})[run.seed] = run
    return groups


class _Candidate(NamedTuple):
    """Records of a training and of its evaluation, whose other fields are not read yet."""

    setup: Setup
    training: Record
    evaluation: Record


def _with_several_points(first: Mapping[str, Record | None]) -> list[_Candidate]:
    """Return the records of cells whose setup was run at several points. `first`: cell id -> record of repeat 0.

    The cells alone decide: most runs have one point, and their scores need not be read.
    """
    candidates = []
    points: dict[Setup, set[tuple[object, ...]]] = {}
    for evaluation in first.values():
        if evaluation is None or evaluation["status"] != "ok":
            continue
        own = evaluation["cell"]
        training = evaluation if own["stage"] != "eval" else first.get(own.get("parent") or "")
        if training is not None:
            cell = training["cell"]
            setup = key_of(cell, _OPEN), own.get("test_examples")
            points.setdefault(setup, set()).add((cell.get("train_examples"), cell.get("steps"), cell["size"]))
            candidates.append(_Candidate(setup, training, evaluation))
    return [one for one in candidates if len(points[one.setup]) > 1]


def partners(points: Points, point: Point, times_x: int = 2) -> dict[str, Point]:
    """Return axis -> the point with `times_x` as much of it, where that was run."""
    data, steps, size = point
    more = {"data": (times_x * data, steps, size), "steps": (data, times_x * steps, size)}
    more["parameters"] = (data, steps, times(size, times_x))
    return {axis: other for axis, other in more.items() if other in points}


def largest_factor(points: Points, point: Point) -> int | None:
    """Return the largest factor beyond 2 by which a point's axes were multiplied; None where it was not followed.

    Of two axes at least: a single one may be another point of a matrix.
    """
    steps = {other[1] // point[1] for other in points if other[1] % point[1] == 0}
    data = {other[0] // point[0] for other in points if other[0] % point[0] == 0}
    factors = [n for n in steps | data if n > 2 and len(partners(points, point, n)) > 1]
    return max(factors, default=None)


def row(points: Points, point: Point) -> LearningRow:
    """Return the row of one point: its quality, the gain of more of each axis, the verdict, and what is missing."""
    run = next(iter(points[point].values()))
    quality, cell = run.evaluation["quality"], run.training["cell"]
    scale = scale_of(quality)
    own = scale.matrix(points[point], sorted(points[point]))
    best, trivial = scale.oracle(run.evaluation), scale.trivial(run.evaluation)
    floor = MATERIAL * spread(own, best, trivial)
    follows = any(largest_factor(points, other) for other in points)
    doubling = try_more(points, point, 2, scale, best, floor, WRONG_DOUBLED if follows else WRONG)
    more = largest_factor(points, point) if doubling.verdict == UNDECIDED else None
    further = None if more is None else try_more(points, point, more, scale, best, floor, WRONG_FURTHER)
    answer = further or doubling
    reasons = {axis: "not run with more, or there is no more of it" for axis in AXES if axis not in answer.gains}
    if not scale.by_example(points[point], sorted(points[point])):
        reasons["test"] = NOT_BY_EXAMPLE
    return {
        "cell_id": run.training["cell_id"],
        "model": cell["model"],
        "size": cell["size"],
        "task": cell["task"],
        "dataset": cell["dataset"],
        "stage": cell["stage"],
        "device": cell["device"],
        "precision": cell["precision"],
        "batch_size": cell["batch_size"],
        "train_examples": point[0],
        "steps": point[1],
        "parameters": parameters(points[point]),
        "epochs": point[1] * cell["batch_size"] / point[0],
        "metric": scale.metric,
        "oracle": _value(run.evaluation.get("oracle"), scale.metric),
        "oracle_kind": (run.evaluation["oracle"] or {}).get("kind"),
        "test_examples": quality["examples"],
        "baseline": None if trivial is None else scale.undo(trivial),
        "scale": scale.name,
        "material": floor,
        "seeds": answer.seeds,
        "quality": answer.quality,
        "gap": answer.gap,
        "gap_ci": answer.gap_ci,
        "times": answer.times,
        "gains": answer.gains,
        "verdict": answer.verdict,
        "because": answer.because,
        "doubled": None if further is None else doubling.gains,
        "missing": missing(points, point, scale),
        "reasons": reasons,
    }


class Answer(NamedTuple):
    """The gains of `times` as much of each axis, and the verdict of that."""

    seeds: int
    quality: float
    gap: float | None  # to the oracle
    gap_ci: Ends | None
    times: int
    gains: dict[str, Gain]
    verdict: str
    because: str | None


def try_more(
    points: Points,
    point: Point,
    times_x: int,
    scale: Scale,
    best: np.ndarray | None,
    floor: float,
    wrong: float,
) -> Answer:
    """Return the gain of `times_x` as much of each axis, the same factor for all, and the verdict of that.

    `best` are the oracle's scores, `floor` is what a gain must exceed, `wrong` is the probability of a wrong name, at
    most. Seeds are those that all of the points have.
    """
    to = partners(points, point, times_x)
    seeds = sorted(set(points[point]).intersection(*(points[other] for other in to.values())))
    own = scale.matrix(points[point], seeds)
    scores = {axis: scale.matrix(points[other], seeds) for axis, other in to.items()}
    gains = {axis: stats.two_way_mean(after - own) for axis, after in scores.items()}
    versus = {(a, b): stats.two_way_mean(scores[a] - scores[b]) for a, b in itertools.permutations(scores, 2)}
    gap = None if best is None else stats.two_way_mean(best - own)
    name, because = verdict(gains, versus, gap, floor, wrong)
    return Answer(
        len(seeds),
        scale.mean(own),
        None if gap is None else gap.value,
        None if gap is None else gap.interval(TAIL).ends,
        times_x,
        {axis: _gain(points, point, to[axis], gain) for axis, gain in gains.items()},
        name,
        because,
    )


def _gain(points: Points, point: Point, other: Point, gain: stats.TwoWayMean) -> Gain:
    before, after = parameters(points[point]), parameters(points[other])
    return {
        "parameters_x": after / before if before and after else None,
        "size": other[2],
        "gain": gain.value,
        "ci": gain.interval(TAIL).ends,
    }


def parameters(runs: Runs) -> int | None:
    """Return the number of parameters of a point."""
    return next((run.training["counts"].get("parameters") for run in runs.values()), None)


# --- following ------------------------------------------------------------------------------------------


def cells_to_follow(records: Iterable[Record], cells: Mapping[str, Cell], times_x: int) -> list[Cell]:
    """Return the trainings of `times_x` as much of each axis, for every point of `cells` that doubling leaves open.

    `cells` are those that are planned, by id. There is a training for every seed of the point, on the axes that were
    doubled; a larger model that begins with a pretraining comes after a pretraining of its own. Points with one seed
    are left as they are. Trainings that are recorded already are returned, too: a run skips them.
    """
    more: dict[str, Cell] = {}
    for points in group_by_setup(records).values():
        for point, runs in points.items():
            axes = partners(points, point)
            ids = [run.training["cell_id"] for run in runs.values()]
            if len(axes) < 2 or len(ids) < 2 or not all(name in cells for name in ids):
                continue
            if _is_open(points, point):
                for axis, name in itertools.product(axes, ids):
                    more |= {cell.cell_id: cell for cell in multiply(cells[name], cells, axis, times_x)}
    return list(more.values())


def _is_open(points: Points, point: Point) -> bool:
    """Return whether doubling leaves a point undecided."""
    run = next(iter(points[point].values()))
    scale = scale_of(run.evaluation["quality"])
    best = scale.oracle(run.evaluation)
    own = scale.matrix(points[point], sorted(points[point]))
    floor = MATERIAL * spread(own, best, scale.trivial(run.evaluation))
    return try_more(points, point, 2, scale, best, floor, WRONG_DOUBLED).verdict == UNDECIDED


def multiply(cell: Cell, cells: Mapping[str, Cell], axis: str, times_x: int) -> list[Cell]:
    """Return `cell` with `times_x` as much of an axis, after the cells that it then begins with."""
    if axis == "data":
        return [dataclasses.replace(cell, train_examples=times_x * (cell.train_examples or 0))]
    if axis == "steps":
        return [dataclasses.replace(cell, steps=times_x * cell.steps)]
    before = [] if cell.parent is None else multiply(cells[cell.parent], cells, axis, times_x)
    parent = before[-1].cell_id if before else None
    return [*before, dataclasses.replace(cell, size=times(cell.size, times_x), parent=parent)]


# --- the scale ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """The scale of quality, on which more is better: a metric that is better when lower becomes minus its log."""

    metric: str
    direction: str

    @property
    def name(self) -> str:
        """The name of a value on this scale."""
        return self.metric if self.direction == "higher" else f"-log {self.metric}"

    def of(self, value: float) -> float:
        """Return a value of the metric on this scale."""
        return value if self.direction == "higher" else -math.log(value)

    def undo(self, value: float) -> float:
        """Return the metric's value from a value on this scale."""
        return value if self.direction == "higher" else math.exp(-value)

    def by_example(self, runs: Runs, seeds: Iterable[int]) -> bool:
        """Return whether the scores of single examples are known."""
        return self.direction == "higher" and all(
            (runs[s].evaluation["quality"].get("each") or {}).get(self.metric) for s in seeds
        )

    def matrix(self, runs: Runs, seeds: Sequence[int]) -> np.ndarray:
        """Return the scores (S, N) of the seeds; N is 1 where only totals are known."""
        if self.by_example(runs, seeds):
            return np.array([runs[s].evaluation["quality"]["each"][self.metric] for s in seeds], dtype=float)
        return np.array([[self.of(runs[s].evaluation["quality"]["values"][self.metric])] for s in seeds])

    def mean(self, scores: np.ndarray) -> float:
        """Return the metric's mean over seeds (a geometric one, where the scale is a logarithm)."""
        return self.undo(float(scores.mean()))

    def oracle(self, evaluation: Record) -> np.ndarray | None:
        """Return the oracle's scores (1, N or 1)."""
        oracle = evaluation.get("oracle")
        value = _value(oracle, self.metric)
        if oracle is None or value is None:
            return None
        each = (oracle.get("each") or {}).get(self.metric)
        own = (evaluation["quality"].get("each") or {}).get(self.metric)
        by_example = each and own and self.direction == "higher"
        return np.array([each if by_example else [self.of(value)]])

    def trivial(self, evaluation: Record) -> float | None:
        """Return the best score of a trivial baseline."""
        values = [scores.get(self.metric) for scores in (evaluation.get("baselines") or {}).values()]
        return max((self.of(v) for v in values if v is not None), default=None)


def scale_of(quality: Quality) -> Scale:
    """Return the scale of the primary metric; where that has no score (a masked perplexity), of the first that has."""
    metric = quality["primary"] if quality["primary"] in quality["values"] else next(iter(quality["values"]))
    return Scale(metric, quality["direction"][metric])


def _value(oracle: Oracle | None, metric: str) -> float | None:
    return ((oracle or {}).get("values") or {}).get(metric)


def spread(own: np.ndarray, best: np.ndarray | None, trivial: float | None) -> float:
    """Return the scale of gains: the distance from the best trivial baseline to the oracle, else the quality itself."""
    if best is not None and trivial is not None and float(best.mean()) > trivial:
        return float(best.mean()) - trivial
    return abs(float(own.mean()))


# --- the verdict ----------------------------------------------------------------------------------------


def verdict(
    gains: Mapping[str, stats.TwoWayMean],
    versus: Mapping[tuple[str, str], stats.TwoWayMean],
    gap: stats.TwoWayMean | None,
    floor: float,
    wrong: float = WRONG,
) -> tuple[str, str | None]:
    """Return `data`, `training`, `capacity`, `none` or `undecided`, and why.

    An axis is named where more of it gains more than `floor` and than more of any other. That is wrong with a
    probability of `wrong` at most: either the named axis leads the truly best one (Bonferroni over those that may, as
    in Hsu 1984, "Constrained simultaneous confidence intervals for multiple comparisons with the best"), or it is the
    best and gains less than `floor` (one test). `none`: nothing can gain `floor` (each is tested at 5 %, since all must
    pass), and the oracle is no further away than that, or not known.
    """
    if not gains or any(gain.variance is None for gain in gains.values()):
        return UNDECIDED, "one seed says nothing about another: give it more seeds"
    tail = wrong / len(gains)
    best = max(gains, key=lambda axis: gains[axis].value)
    if _bounds(gains[best], tail)[0] > floor:
        close = [other for other in gains if other != best and _bounds(versus[best, other], tail)[0] <= 0]
        if not close:
            return NAMES[best], None
        return UNDECIDED, f"more {best} gains most, but {' and '.join(close)} may gain as much"
    highest = [_bounds(gain, 1 - LEVEL)[1] for gain in gains.values()]
    return _nothing_gains(highest, None if gap is None else _bounds(gap, 1 - LEVEL), floor)


def _bounds(mean: stats.TwoWayMean, tail: float) -> tuple[float, float]:
    return mean.bounds(tail) or (-math.inf, math.inf)


def _nothing_gains(
    highest: Sequence[float], nearest: tuple[float, float] | None, floor: float
) -> tuple[str, str | None]:
    """Return the verdict where no gain is above `floor` with confidence."""
    if nearest is not None and nearest[1] < floor:
        return NONE, "the oracle is not further away than a gain that counts"
    if max(highest) < floor:
        if nearest is None or nearest[0] <= floor:
            return NONE, "nothing gains enough to count"
        return UNDECIDED, "nothing gains enough to count, and yet the oracle is further away: much more of it?"
    return UNDECIDED, "an interval holds both gains that count and gains that do not: more seeds or test examples"


# --- what is missing ------------------------------------------------------------------------------------


def missing(points: Points, point: Point, scale: Scale) -> MissingQuality | None:
    """Return the distance to the oracle, split into the lack of each axis and the rest.

    From the corners of a box: the point's own data, steps and size, and ample ones. A part is the axis's Shapley value
    (1953): what making it ample adds, averaged over the orders in which all are made ample, so that the parts add up
    to what all together give; `rest` is what is then left. None without an oracle or a box.
    """
    box = ample(points, point)
    if box is None:
        return None
    lifted = [i for i in range(3) if box[i] != point[i]]
    corners = {which: _corner(point, box, which) for n in range(4) for which in itertools.combinations(lifted, n)}
    seeds = sorted(set.intersection(*(set(points[corner]) for corner in corners.values())))
    oracle = scale.oracle(next(iter(points[point].values())).evaluation)
    if oracle is None or not seeds:
        return None
    scores = {which: scale.matrix(points[corner], seeds) for which, corner in corners.items()}
    parts = {AXES[i]: stats.two_way_mean(_shapley(scores, i, lifted)) for i in lifted}
    rest = stats.two_way_mean(oracle - scores[tuple(lifted)])
    names = {NAMES[axis]: part for axis, part in parts.items()} | {"rest": rest}
    return {
        "ample": dict(zip(AXES, box, strict=True)),
        "ample_quality": scale.mean(scores[tuple(lifted)]),
        "distance": float((oracle - scores[()]).mean()),
        "seeds": len(seeds),
        "parts": {name: {"value": part.value, "ci": part.interval(TAIL).ends} for name, part in names.items()},
    }


def ample(points: Points, point: Point) -> Point | None:
    """Return the furthest point whose box with `point` was run at all corners.

    It has more on two axes at least, or much more than twice as much on one: a doubling alone is no ample amount.
    """
    sizes = {size: parameters(runs) or 0 for (_, _, size), runs in points.items()}
    candidates = []
    for other in points:
        more = [other[0] > point[0], other[1] > point[1], sizes[other[2]] > sizes[point[2]]]
        same = [a == b for a, b in zip(other, point, strict=True)]
        whole = all(m or s for m, s in zip(more, same, strict=True))
        corners = itertools.product(*zip(point, other, strict=True))
        much = (other[0] / point[0], other[1] / point[1], sizes[other[2]] / max(1, sizes[point[2]]))
        if whole and (sum(more) > 1 or max(much) > MUCH) and all(corner in points for corner in corners):
            candidates.append((sum(more), math.prod(much), other))
    return max(candidates)[2] if candidates else None


def _corner(point: Point, box: Point, which: Sequence[int]) -> Point:
    """Return the corner of a box that has the ample amount of the axes `which`, and the point's own of the others."""
    data, steps, size = (0 in which, 1 in which, 2 in which)
    return (box[0] if data else point[0], box[1] if steps else point[1], box[2] if size else point[2])


def _shapley(scores: Mapping[tuple[int, ...], np.ndarray], axis: int, lifted: Sequence[int]) -> np.ndarray:
    others = [i for i in lifted if i != axis]
    total = np.zeros_like(scores[()])
    for count in range(len(others) + 1):
        weight = math.factorial(count) * math.factorial(len(others) - count) / math.factorial(len(lifted))
        for before in itertools.combinations(others, count):
            after = tuple(sorted((*before, axis)))
            total = total + weight * (scores[after] - scores[before])
    return total
