"""The contract of a metric: the values that it names, right where they are known, and within their bounds."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.conformance.subject import Failed, NotHere, Subject, check

EXACT = 1e-6  # relative, and absolute near 0
TRIES = 20  # orders of the answers


def compute(subject: Subject, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Return the values of the metric. Raises Failed where they are none of those that it names."""
    metric = subject.spec.load(str(subject.folder))
    answer = metric.compute(predictions=list(predictions), references=list(references), **subject.spec.options({}))
    subject.require(isinstance(answer, Mapping), f"compute returns {answer!r:.40}; return a dict of values")
    values = {name: value for name, value in answer.items() if name in subject.spec.values}
    strange = sorted(set(answer) - set(values))
    subject.require(not strange, f"compute returns {', '.join(strange)}, which `values` does not name")
    for name, value in values.items():
        good = isinstance(value, int | float) or hasattr(value, "item")
        subject.require(good and math.isfinite(value), f"{name} is {value!r} for {list(predictions)!r:.60}")
    return {name: float(value) for name, value in values.items()}


def cases_of(subject: Subject) -> Sequence[tuple[Sequence[Any], Sequence[Any], Mapping[str, float]]]:
    """Return the cases whose values are known. Raises Failed where there is none."""
    if not subject.spec.known:
        raise Failed("give `known`: predictions, references, and the values that they have, worked out by hand")
    cases: Sequence[tuple[Sequence[Any], Sequence[Any], Mapping[str, float]]] = subject.spec.known
    return cases


@check("metric", says="each value says which way is better")
def spec(subject: Subject) -> None:
    """Look at what the fields say together."""
    one, require = subject.spec, subject.require
    require(bool(one.values), "it names no value")
    wrong = [f"{n}: {w!r}" for n, w in one.values.items() if w not in ("higher", "lower")]
    require(not wrong, f"values {', '.join(wrong)}: write higher or lower")
    strange = sorted(set(one.bounds) - set(one.values))
    require(not strange, f"bounds of {', '.join(strange)}, which `values` does not name")
    tasks = [name for name in one.tasks if name not in subject.registry.names("task")]
    require(not tasks, f"tasks: no plugin brings {', '.join(tasks)}")


@check("metric", says="its values are those that are known")
def values(subject: Subject) -> None:
    """Compute what was worked out by hand."""
    for predictions, references, wanted in cases_of(subject):
        actual = compute(subject, predictions, references)
        for name, value in wanted.items():
            subject.require(name in actual, f"compute({list(predictions)!r:.60}) returns no {name}")
            close = math.isclose(actual[name], value, rel_tol=EXACT, abs_tol=EXACT)
            subject.require(
                close, f"{name} of {list(predictions)!r:.60} is {actual[name]:.6g}, and {value:.6g} is known"
            )


@check("metric", says="its values stay within their bounds, and no answer beats the right ones")
def bounds(subject: Subject) -> None:
    """Compute with the answers exchanged at random, and with all of them right."""
    if not subject.spec.bounds:
        raise NotHere("it names no bounds")
    rng = random.Random(0)
    for predictions, references, _ in cases_of(subject):
        for attempt in range(TRIES):
            shown = list(predictions)
            rng.shuffle(shown)
            rows = list(range(len(shown))) if attempt == 0 else [rng.randrange(len(shown)) for _ in shown]
            answers = compute(subject, [shown[i] for i in rows], [references[i] for i in rows])
            for name, value in answers.items():
                low, high = subject.spec.bounds.get(name, (None, None))
                inside = (low is None or value >= low - EXACT) and (high is None or value <= high + EXACT)
                subject.require(inside, f"{name} is {value:.6g}, out of its bounds {low} to {high}")
        _best(subject, predictions, references)


def _best(subject: Subject, predictions: Sequence[Any], references: Sequence[Any]) -> None:
    right = [
        r[0] if isinstance(r, list | tuple) and r and isinstance(predictions[0], type(r[0])) else r for r in references
    ]
    if not all(isinstance(r, type(predictions[0])) for r in right):
        return
    best, other = compute(subject, right, references), compute(subject, predictions, references)
    for name, way in subject.spec.values.items():
        if name in best and name in other:
            good = best[name] >= other[name] - EXACT if way == "higher" else best[name] <= other[name] + EXACT
            subject.require(
                good,
                f"{name} ({way} is better) is {best[name]:.6g} for the right answers and {other[name]:.6g} for others",
            )


@check("metric", says="it gives the same again, whatever the order, and changes nothing that it is given")
def repeats(subject: Subject) -> None:
    """Compute twice, and with the examples in another order."""
    for predictions, references, _ in cases_of(subject):
        given = copy.deepcopy((list(predictions), list(references)))
        first = compute(subject, *given)
        subject.require(given == (list(predictions), list(references)), "compute changes the lists that it is given")
        backwards = compute(subject, given[0][::-1], given[1][::-1])
        for name, value in compute(subject, *given).items():
            subject.require(
                value == first[name], f"{name} is {first[name]:.6g} and then {value:.6g} of the same answers"
            )
            close = math.isclose(value, backwards[name], rel_tol=1e-9, abs_tol=1e-9)
            subject.require(
                close, f"{name} depends on the order of the examples: {value:.6g} and {backwards[name]:.6g}"
            )


@check("metric", says="the scores of single examples have its values as their means")
def each(subject: Subject) -> None:
    """Hold `each` against `compute`."""
    if subject.spec.each is None:
        raise NotHere("it gives no scores of single examples (MetricSpec.each)")
    for predictions, references, _ in cases_of(subject):
        means = compute(subject, predictions, references)
        for name, scores in subject.spec.each(list(predictions), list(references)).items():
            count = len(scores)
            subject.require(
                count == len(predictions), f"each gives {count} scores of {name} for {len(predictions)} answers"
            )
            mean = sum(scores) / count
            close = math.isclose(mean, means[name], rel_tol=EXACT, abs_tol=EXACT)
            subject.require(close, f"the mean of each's {name} is {mean:.6g}, and compute says {means[name]:.6g}")


@check("metric", says="it takes what its tasks decode")
def tasks(subject: Subject) -> None:
    """Score the perfect answers of a task that it scores."""
    from llmbench.conformance import tasks as kit

    named = [t for t in subject.registry.names("task") if subject.name in subject.registry.get("task", t).metrics]
    named += list(subject.spec.tasks)
    if not named:
        raise NotHere("no task names it, and it names none (MetricSpec.tasks)")
    for name in named:
        provided = subject.registry.by_kind["task"][name]
        task = Subject("task", name, provided.spec, provided.owner, subject.registry, subject.files, subject.folder)
        data = kit.data_of(task)
        references = [provided.spec.reference(example) for example in data.test]
        if provided.spec.head in ("classify", "generate"):
            answers = [r[0] if isinstance(r, list) else r for r in references]
            metric = subject.spec.load(str(subject.folder))
            metric.compute(predictions=answers, references=references, **subject.spec.options(data.info))
