"""What limits learning: which of more data, more steps and more parameters moves quality most. Pure functions.

Cells are compared by their content. A *point* is a number of training examples, of optimizer steps and a size; runs
that are alike in all else but the seed belong together, and a point whose doublings were run, too, is asked about.
Everything is a contrast of scores (S seeds, N test examples), paired by seed and by example, so that its interval holds
for other seeds and other test examples; `docs/learning.md` says for what it does not hold.

Doubling is local: a lack that is twenty times deep may not show in it. So a point that it leaves undecided can be asked
again with more than twice as much of each (`learning: follow`), for what was kept of the 5 % for that.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmbench import stats
from llmbench.analysis.studies.alike import DERIVED, key_of
from llmbench.contract.cell import DEFAULTS, Cell
from llmbench.contract.sizes import times
from llmbench.records import attempts

Record = Mapping[str, Any]
Row = dict[str, Any]
Point = tuple[int, int, str]  # training examples, steps, size
Runs = Mapping[int, "ScoredRun"]  # by seed

AXES = ("data", "steps", "parameters")
NAMES = {"data": "data", "steps": "training", "parameters": "capacity"}  # what is short where an axis moves quality
NONE, UNDECIDED = "none", "undecided"
LEVEL = 0.95
TAIL = (1 - LEVEL) / 2  # outside of an interval, at each end
#: With what probability a verdict may name a wrong axis: of doublings alone; of doublings and of the larger factor, in
#: a study that follows. A study in which no point was followed left none open at the second, so it has the first.
WRONG, WRONG_DOUBLED, WRONG_FURTHER = 1 - LEVEL, 0.04, 0.01
#: A doubling is worth having when it closes so much of what lies between the best trivial baseline and the oracle;
#: where no oracle is known, when it moves quality by so much of itself.
MATERIAL = 0.05

MUCH = 3.0  # times as much: more than what a doubling is, rounded as it may be

#: What may differ between the runs of one table row, or follows from what differs.
_OPEN = (*DERIVED, "seed", "train_examples", "steps", "size", "stage")


@dataclass(frozen=True)
class ScoredRun:
    """A training and its score on the test split."""

    point: Point
    seed: int
    training: Record
    evaluation: Record


def learning_rows(records: Iterable[Record]) -> list[Row]:
    """Return one row per point with doublings, in the order of the records."""
    return rows_of(group_by_setup(records))


def rows_of(groups: Mapping[tuple[Any, ...], dict[Point, dict[int, ScoredRun]]]) -> list[Row]:
    """Return the rows of `learning` from what `grouped` returns."""
    rows = []
    for points in groups.values():
        counts = {point: len(partners(points, point)) for point in points}
        fewest = min(2, max(counts.values()))  # two points of a box may be a doubling by chance
        rows += [row(points, point) for point, count in counts.items() if count >= max(1, fewest)]
    return rows


def group_by_setup(records: Iterable[Record]) -> dict[tuple[Any, ...], dict[Point, dict[int, ScoredRun]]]:
    """Return setup -> point -> seed -> run, of all that was trained and scored, where a setup has several points."""
    found: dict[tuple[Any, ...], dict[Point, dict[int, ScoredRun]]] = {}
    first = {name: attempts.latest_attempts(group).get(0) for name, group in attempts.by_cell(records).items()}
    for setup, training, scored in _several(first):
        if not (scored.get("quality") or {}).get("values") or not training.get("training"):
            continue
        cell = training["cell"]
        examples = training["training"].get("examples") or cell.get("train_examples")
        if examples is None:
            continue
        point = (examples, cell.get("steps", DEFAULTS["steps"]), cell["size"])
        run = ScoredRun(point, cell.get("seed", DEFAULTS["seed"]), training, scored)
        found.setdefault(setup, {}).setdefault(point, {})[run.seed] = run
    return found


def _several(first: Mapping[str, Record | None]) -> list[tuple[tuple[Any, ...], Record, Record]]:
    """Return setup, training and scored record of cells whose setup was run at several points: by what cells are alone.

    Most runs have one point, and their scores need not be read.
    """
    found = []
    points: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    for scored in first.values():
        if scored is None or scored["status"] != "ok":
            continue
        training = scored if scored["cell"]["stage"] != "eval" else first.get(scored["cell"].get("parent") or "")
        if training is not None:
            cell = training["cell"]
            setup = key_of(cell, _OPEN), scored["cell"].get("test_examples")
            points.setdefault(setup, set()).add(tuple(cell.get(name) for name in ("train_examples", "steps", "size")))
            found.append((setup, training, scored))
    return [one for one in found if len(points[one[0]]) > 1]


def partners(points: Mapping[Point, Runs], point: Point, times_x: int = 2) -> dict[str, Point]:
    """Return axis -> the point with `times_x` as much of that, where it was run."""
    data, steps, size = point
    more = {"data": (times_x * data, steps, size), "steps": (data, times_x * steps, size)}
    more["parameters"] = (data, steps, times(size, times_x))
    return {axis: other for axis, other in more.items() if other in points}


def largest_factor(points: Mapping[Point, Runs], point: Point) -> int | None:
    """Return the largest factor beyond 2 by which a point's axes were multiplied; None where it was not followed.

    Of two axes at least: a single one may be another point of a matrix.
    """
    steps = {other[1] // point[1] for other in points if other[1] % point[1] == 0}
    data = {other[0] // point[0] for other in points if other[0] % point[0] == 0}
    found = [n for n in steps | data if n > 2 and len(partners(points, point, n)) > 1]
    return max(found, default=None)


def row(points: Mapping[Point, Runs], point: Point) -> Row:
    """Return the row of one point: its quality, what more of each gains, the verdict, and what is missing and why."""
    run = next(iter(points[point].values()))
    quality, cell = run.evaluation["quality"], run.training["cell"]
    scale = scale_of(quality)
    names = ("model", "size", "task", "dataset", "stage", "device", "precision", "batch_size")
    out: Row = {"cell_id": run.training["cell_id"], **{name: cell[name] for name in names}}
    out |= {"train_examples": point[0], "steps": point[1], "parameters": parameters(points[point])}
    out |= {"epochs": point[1] * cell["batch_size"] / point[0], "metric": scale.metric}
    own = scale.matrix(points[point], sorted(points[point]))
    best, trivial = scale.oracle(run.evaluation), scale.trivial(run.evaluation)
    floor = MATERIAL * spread(own, best, trivial)
    out |= {"oracle": _value(run.evaluation.get("oracle"), scale.metric)}
    out |= {"oracle_kind": (run.evaluation["oracle"] or {}).get("kind"), "test_examples": quality["examples"]}
    out |= {"baseline": scale.undo(trivial), "scale": scale.name, "material": floor}
    follows = any(largest_factor(points, other) for other in points)
    doubled = try_more(points, point, 2, scale, best, floor, WRONG_DOUBLED if follows else WRONG)
    more = largest_factor(points, point) if doubled["verdict"] == UNDECIDED else None
    followed = None if more is None else try_more(points, point, more, scale, best, floor, WRONG_FURTHER)
    out |= followed or doubled
    out["doubled"] = None if followed is None else doubled["gains"]
    out["missing"] = missing(points, point, scale)
    absent = {axis: "not run with more, or there is no more of it" for axis in AXES if axis not in out["gains"]}
    by_example = scale.by_example(points[point], sorted(points[point]))
    out["reasons"] = absent | ({} if by_example else {"test": NOT_BY_EXAMPLE})
    return out


def try_more(
    points: Mapping[Point, Runs],
    point: Point,
    times_x: int,
    scale: Scale,
    best: np.ndarray | None,
    floor: float,
    wrong: float,
) -> Row:
    """Return what `times_x` as much of each axis gains, and the verdict of that: the same factor for all of them.

    `best` are the oracle's scores, `floor` is what a gain must exceed, `wrong` how probable a wrong name may be. Seeds
    are those that all of the points have.
    """
    to = partners(points, point, times_x)
    seeds = sorted(set(points[point]).intersection(*(points[other] for other in to.values())))
    own = scale.matrix(points[point], seeds)
    scores = {axis: scale.matrix(points[other], seeds) for axis, other in to.items()}
    gains = {axis: stats.two_way_mean(found - own) for axis, found in scores.items()}
    versus = {(a, b): stats.two_way_mean(scores[a] - scores[b]) for a, b in itertools.permutations(scores, 2)}
    gap = None if best is None else stats.two_way_mean(best - own)
    named, because = verdict(gains, versus, gap, floor, wrong)
    shown = {
        axis: {**_gain(points, point, to[axis]), "gain": gain.value, "ci": gain.interval(TAIL).ends}
        for axis, gain in gains.items()
    }
    out: Row = {
        "seeds": len(seeds),
        "quality": scale.mean(own),
        "gap": gap and gap.value,
        "gap_ci": gap and gap.interval(TAIL).ends,
    }
    return out | {"times": times_x, "gains": shown, "verdict": named, "because": because}


NOT_BY_EXAMPLE = "the metric is no mean over examples: intervals hold for other seeds, not for another test split"


def _gain(points: Mapping[Point, Runs], point: Point, other: Point) -> Row:
    before, after = parameters(points[point]), parameters(points[other])
    return {"parameters_x": after / before if before and after else None, "size": other[2]}


def parameters(runs: Runs) -> int | None:
    """Return the number of parameters of a point."""
    return next((run.training["counts"].get("parameters") for run in runs.values()), None)


# --- asking again ---------------------------------------------------------------------------------------


def cells_to_follow(records: Iterable[Record], cells: Mapping[str, Cell], times_x: int) -> list[Cell]:
    """Return the trainings of `times_x` as much of each axis, for every point of `cells` that doubling leaves open.

    `cells` are those that are planned, by id. With every seed of the point, on the axes that were doubled; a larger
    model that begins with a pretraining comes behind a pretraining of its own. Points with one seed are left as they
    are. What is recorded already is in it, too: a run leaves it out.
    """
    found: dict[str, Cell] = {}
    for points in group_by_setup(records).values():
        for point, runs in points.items():
            doubled = partners(points, point)
            ids = [run.training["cell_id"] for run in runs.values()]
            if len(doubled) < 2 or len(ids) < 2 or not all(name in cells for name in ids):
                continue
            if _is_open(points, point):
                for axis, name in itertools.product(doubled, ids):
                    found |= {cell.cell_id: cell for cell in multiply(cells[name], cells, axis, times_x)}
    return list(found.values())


def _is_open(points: Mapping[Point, Runs], point: Point) -> bool:
    run = next(iter(points[point].values()))
    scale = scale_of(run.evaluation["quality"])
    best = scale.oracle(run.evaluation)
    own = scale.matrix(points[point], sorted(points[point]))
    floor = MATERIAL * spread(own, best, scale.trivial(run.evaluation))
    return bool(try_more(points, point, 2, scale, best, floor, WRONG_DOUBLED)["verdict"] == UNDECIDED)


def multiply(cell: Cell, cells: Mapping[str, Cell], axis: str, times_x: int) -> list[Cell]:
    """Return `cell` with `times_x` as much of an axis, behind the cells that it then begins with."""
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
    """How quality is counted: more is better. What is better when lower, such as a perplexity, is minus its log."""

    metric: str
    direction: str

    @property
    def name(self) -> str:
        """What a difference on this scale is of."""
        return self.metric if self.direction == "higher" else f"-log {self.metric}"

    def of(self, value: float) -> float:
        """Return a value of the metric on this scale."""
        return value if self.direction == "higher" else -math.log(value)

    def undo(self, value: float | None) -> float | None:
        """Return the metric's value."""
        return value if value is None or self.direction == "higher" else math.exp(-value)

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

    def mean(self, scores: np.ndarray) -> float | None:
        """Return the metric's mean over seeds (a geometric one, where the scale is a logarithm)."""
        return self.undo(float(scores.mean()))

    def oracle(self, scored: Record) -> np.ndarray | None:
        """Return the oracle's scores (1, N or 1)."""
        oracle = scored.get("oracle") or {}
        if _value(oracle, self.metric) is None:
            return None
        each = (oracle.get("each") or {}).get(self.metric)
        own = (scored["quality"].get("each") or {}).get(self.metric)
        known = each and own and self.direction == "higher"
        return np.array([each if known else [self.of(oracle["values"][self.metric])]])

    def trivial(self, scored: Record) -> float | None:
        """Return the best that a trivial baseline reaches."""
        values = [_value({"values": v}, self.metric) for v in (scored.get("baselines") or {}).values()]
        return max((self.of(v) for v in values if v is not None), default=None)


def scale_of(quality: Mapping[str, Any]) -> Scale:
    """Return the scale of the primary metric; of the first that is scored, where that is not (a masked perplexity)."""
    metric = quality["primary"] if quality["primary"] in quality["values"] else next(iter(quality["values"]))
    return Scale(metric, quality["direction"][metric])


def _value(scores: Mapping[str, Any] | None, metric: str) -> float | None:
    return ((scores or {}).get("values") or {}).get(metric)


def spread(own: np.ndarray, best: np.ndarray | None, trivial: float | None) -> float:
    """Return what a gain is held against: from the best trivial baseline to the oracle, else the quality itself."""
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


def _bounds(found: stats.TwoWayMean, tail: float) -> tuple[float, float]:
    return found.bounds(tail) or (-math.inf, math.inf)


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


def missing(points: Mapping[Point, Runs], point: Point, scale: Scale) -> Row | None:
    """Return the distance to the oracle, split into what is missing for lack of each axis, and the rest.

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
    out: Row = {"ample": dict(zip(AXES, box, strict=True)), "ample_quality": scale.mean(scores[tuple(lifted)])}
    out |= {"distance": float((oracle - scores[()]).mean()), "seeds": len(seeds)}
    out["parts"] = {NAMES[axis]: {"value": part.value, "ci": part.interval(TAIL).ends} for axis, part in parts.items()}
    out["parts"]["rest"] = {"value": rest.value, "ci": rest.interval(TAIL).ends}
    return out


def ample(points: Mapping[Point, Runs], point: Point) -> Point | None:
    """Return the furthest point whose box with `point` was run at all corners.

    It has more on two axes at least, or much more than twice as much on one: a doubling alone is no ample amount.
    """
    sizes = {size: parameters(runs) or 0 for (_, _, size), runs in points.items()}
    found = []
    for other in points:
        more = [other[0] > point[0], other[1] > point[1], sizes[other[2]] > sizes[point[2]]]
        same = [a == b for a, b in zip(other, point, strict=True)]
        whole = all(m or s for m, s in zip(more, same, strict=True))
        corners = itertools.product(*zip(point, other, strict=True))
        much = (other[0] / point[0], other[1] / point[1], sizes[other[2]] / max(1, sizes[point[2]]))
        if whole and (sum(more) > 1 or max(much) > MUCH) and all(corner in points for corner in corners):
            found.append((sum(more), math.prod(much), other))
    return max(found)[2] if found else None


def _corner(point: Point, box: Point, which: Sequence[int]) -> Any:
    return tuple(box[i] if i in which else point[i] for i in range(3))


def _shapley(scores: Mapping[tuple[int, ...], np.ndarray], axis: int, lifted: Sequence[int]) -> np.ndarray:
    others = [i for i in lifted if i != axis]
    total = np.zeros_like(scores[()])
    for count in range(len(others) + 1):
        weight = math.factorial(count) * math.factorial(len(others) - count) / math.factorial(len(lifted))
        for before in itertools.combinations(others, count):
            after = tuple(sorted((*before, axis)))
            total = total + weight * (scores[after] - scores[before])
    return total
