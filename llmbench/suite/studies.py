"""The points of a study: what is changed at a point of the matrix to learn what limits it. Pure functions.

`learning` asks which of more data, more steps and more parameters moves quality most, `scaling` how cost grows along
an axis. Both make ordinary points; `llmbench.analysis.studies.learning` and `llmbench.analysis.studies.scaling`
recognise the cells by their content.

A point maps a field to a choice (stage -> value), see `llmbench.suite.matrix`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from llmbench.contract import sizes
from llmbench.contract.cell import SETTABLE_FIELDS, STAGES, Cell
from llmbench.contract.specs import ModelSpec
from llmbench.suite.fields import LearningStudy, Point, Value


def stage_of_study(stages: Sequence[str]) -> str:
    """Return the stage whose data and steps are varied: the fine-tuning, where there is one, else the pretraining."""
    return "finetune" if "finetune" in stages else "pretrain"


def learning(point: Point, stages: Sequence[str], study: LearningStudy, ample: Mapping[str, Value]) -> Iterator[Point]:
    """Yield the points of a learning study of `point`: itself, each of `double` doubled, and every mixture of the
    point's own values with `ample` ones; all of them with each seed. The seed and the data of a pretraining that comes
    before the studied stage stay. What has no number (all of the data) cannot be doubled and is left out.
    """
    stage = stage_of_study(stages)
    variants: list[dict[str, Value]] = [{}]
    for what in study["double"]:
        changed = _double(point, stage, what)
        variants += [changed] if changed else []
    for count in range(1, len(ample) + 1):
        for names in itertools.combinations(ample, count):
            variants.append({name: ample[name] for name in names})
    seed = _value(point, "seed", stage)
    for number in range(study["seeds"]):
        for variant in variants:
            yield _change(point, stage, {**variant, "seed": seed + number})


def _double(point: Point, stage: str, what: str) -> dict[str, Value]:
    if what == "parameters":
        return {"size": sizes.times(_value(point, "size", stage), 2)}
    name = {"data": "train_examples", "steps": "steps"}[what]
    value = _value(point, name, stage)
    return {} if value is None else {name: 2 * value}


def _change(point: Point, stage: str, fields: Mapping[str, Value]) -> Point:
    """Return `point` with other values at the studied stage and after it; a size changes at every stage."""
    first = STAGES.index(stage)
    out = dict(point)
    for name, value in fields.items():
        places = STAGES if name == "size" else STAGES[first:]
        out[name] = {s: value if s in places else _value(point, name, s) for s in STAGES}
    return out


def _value(point: Point, name: str, stage: str) -> Value:
    if name in point:
        return point[name][stage]
    return Cell.__dataclass_fields__[name].default


def scaling(point: Point, axes: Mapping[str, Sequence[int]], model: ModelSpec) -> Iterator[Point]:
    """Yield `point`, and it with each value of each axis: a field, or a key of the configuration of the model's size.

    Every size names all keys that are axes, so that the cells along one axis are alike in all else. Raises PluginError
    for a key that the model's configuration has not.
    """
    keys = [axis for axis in axes if axis not in SETTABLE_FIELDS]
    out = dict(point)
    if keys:
        named = {s: _name_keys(model, _value(point, "size", s), keys) for s in STAGES}
        out["size"] = named
    yield out
    for axis, values in axes.items():
        for value in values:
            if axis in SETTABLE_FIELDS:
                yield {**out, axis: dict.fromkeys(STAGES, value)}
            else:
                yield {**out, "size": {s: sizes.with_settings(out["size"][s], {axis: value}) for s in STAGES}}


def _name_keys(model: ModelSpec, size: str, keys: Sequence[str]) -> str:
    config = sizes.configuration(model, sizes.parse_size(size).name, 1)
    given = dict(sizes.parse_size(size).settings)
    return sizes.with_settings(size, {key: given.get(key, config.get(key, 1)) for key in keys})
