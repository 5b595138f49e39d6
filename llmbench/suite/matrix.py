"""The points of a suite's matrix: every combination of field values, each value known for every stage.

A field's value may differ between the stages of one point (`steps: {pretrain: 600, finetune: 400}`), so a point
maps each field to a choice: stage -> value.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from llmbench.contract.cell import SETTABLE_FIELDS, STAGES, Cell
from llmbench.contract.errors import PluginError, SuiteError, did_you_mean
from llmbench.contract.hookspecs import PROJECT
from llmbench.contract.sizes import parse_size
from llmbench.contract.specs import TaskSpec
from llmbench.plugins.registry import Registry
from llmbench.suite import studies
from llmbench.suite.fields import Choice, Expression, Key, Point, Section, Value
from llmbench.suite.file import Suite
from llmbench.suite.selection import word_of

#: Names a suite may use although no plugin of this version brings them; their cells cannot run.
RESERVED_PRECISIONS = ("fp8", "int8")
DEFAULT_DATASET = "synthetic"
REQUIRED = ("model", "size", "task", "stage")
#: Fields whose values are names of plugins, and their kind.
PLUGIN_FIELDS = {
    "task": "task",
    "model": "model",
    "precision": "precision",
    "dataset": "dataset",
    "pretrain_dataset": "dataset",
}
#: In this order a mapping's keys are looked for among the values of other fields.
KEY_FIELDS = ("task", "stage", "model", "size", "dataset", "precision", "device")
DEVICE_ORDER = ("cuda", "mps", "cpu")  # what `auto` prefers

#: A place in the suite, and the expression of a field that is there.
Layer = tuple[Key, Expression]
#: Field -> its layers; the first that says something counts.
Layers = Mapping[str, list[Layer]]


class Matrix:
    """The points of a suite: resolves lists and mappings, field by field, for each stage."""

    def __init__(self, suite: Suite, registry: Registry) -> None:
        self.suite, self.registry = suite, registry
        self.pretraining = _pretraining_task(registry)
        self.sections: list[tuple[Key, Section]] = [
            (("matrix",), suite.axes),
            (("defaults",), suite.defaults),
        ]
        self.entries: list[tuple[Key, Section]] = [(("include", i), e) for i, e in enumerate(suite.include)]
        excluded = [(("exclude", i), e) for i, e in enumerate(suite.exclude)]
        self.known = self._words_by_field()
        for path, entry in [*self.sections, *self.entries, *excluded]:
            for name, value in entry.items():
                self._check_names(name, (*path, name), value)
        self._keyed_by: dict[Key, str] = {}

    def fail(self, path: Key, message: str) -> SuiteError:
        """Return the error, with the place of `path` in the suite."""
        return SuiteError(f"{self.suite.where(*path)}: {message}")

    def all_points(self) -> list[tuple[Point, tuple[str, ...]]]:
        """Return every point and its stages, before stages are excluded."""
        found: list[tuple[Point, tuple[str, ...]]] = []
        for extra in [None, *self.entries]:
            layers: dict[str, list[Layer]] = {}
            for path, section in [extra, *self.sections] if extra else self.sections:
                for name, value in section.items():
                    layers.setdefault(name, []).append(((*path, name), value))
            found += self._points(layers)
        return self._study_points(found)

    def _study_points(self, found: list[tuple[Point, tuple[str, ...]]]) -> list[tuple[Point, tuple[str, ...]]]:
        """Return the points of the suite's studies of each point, or the points themselves where nothing is studied."""
        suite, out = self.suite, []
        if suite.learning is None and suite.scaling is None:
            return found
        for point, stages in found:
            if suite.learning is not None:
                out += [
                    (p, stages) for p in studies.learning(point, stages, suite.learning, self._ample(point, stages))
                ]
            if suite.scaling is not None:
                model = self.registry.get("model", value_at(point, "model", stages[0]).partition(":")[0])
                try:
                    out += [(p, stages) for p in studies.scaling(point, suite.scaling, model)]
                except PluginError as error:
                    raise self.fail(("scaling",), str(error)) from None
        return out

    def _ample(self, point: Point, stages: Sequence[str]) -> dict[str, Value]:
        """Return the fields of `learning: ample` at `point` and the stage of the study."""
        stage = studies.stage_of_study(stages)
        values = {name: choice[stage] for name, choice in point.items()} | {"stage": stage}
        fields = {} if self.suite.learning is None else self.suite.learning["ample"]
        layers: Layers = {name: [(("learning", "ample", name), value)] for name, value in fields.items()}
        return {name: self._leaf(name, layer, values)[1][0] for name, layer in layers.items()}

    def excludes(self, point: Point, stage: str) -> bool:
        """Return whether an exclude entry matches `point` at `stage` in all its keys."""
        return any(
            all(
                stage in _as_list(wanted) if name == "stage" else self._matches(point, name, stage, wanted)
                for name, wanted in entry.items()
            )
            for entry in self.suite.exclude
        )

    def _matches(self, point: Point, name: str, stage: str, wanted: Expression) -> bool:
        default = Cell.__dataclass_fields__[name].default
        choice = point.get(name, {})
        actual = {choice.get(stage, default), choice.get("finetune", default) if name in ("task", "dataset") else None}
        return any(value in actual for value in _as_list(wanted) if value is not None)

    def _points(self, layers: Layers) -> Iterator[tuple[Point, tuple[str, ...]]]:
        for name in REQUIRED:
            if name not in layers:
                raise self.fail(("matrix",), f"the matrix says nothing about {name!r}")
        points: list[Point] = [{}]
        for name in self._order(layers):
            points = [{**p, name: choice} for p in points for choice in self._choices(name, layers[name], p)]
        for point in points:
            values = {name: choice["finetune"] for name, choice in point.items()}
            stages = self._leaf("stage", layers["stage"], values)[1]
            yield point, tuple(stage for stage in STAGES if stage in stages)

    def _order(self, layers: Layers) -> list[str]:
        """Return the fields but `stage`, in the suite's order, each after those that its mappings are keyed by."""
        needs = {name: self._needs(name, found) & layers.keys() - {"stage", name} for name, found in layers.items()}
        if "pretrain_dataset" in layers and "dataset" in needs:
            needs["dataset"].add("pretrain_dataset")  # at the stage pretrain it is the data set
        order: list[str] = []
        waiting = [name for name in layers if name != "stage"]
        while waiting:
            ready = next((name for name in waiting if needs[name] <= set(order)), None)
            if ready is None:
                raise self.fail(layers[waiting[0]][0][0], f"{' and '.join(waiting)} depend on each other")
            order.append(ready)
            waiting.remove(ready)
        return order

    def _needs(self, name: str, layers: list[Layer]) -> set[str]:
        needs: set[str] = set()
        for path, expression in layers:
            if isinstance(expression, Mapping):
                needs.add(self._key_field(name, path, expression))
                needs |= self._needs(name, [((*path, key), inner) for key, inner in expression.items()])
        return needs

    def _choices(self, name: str, layers: list[Layer], point: Point) -> list[Choice]:
        """Return the choices of `name` at `point`; stages that read the same place of the suite go together."""
        groups: dict[Key, tuple[list[Value], list[str]]] = {}
        for stage in STAGES:
            values = {field: choice[stage] for field, choice in point.items()}
            if stage == "pretrain" and values.get("pretrain_dataset"):
                values["dataset"] = values["pretrain_dataset"]
            path, leaf = self._leaf(name, layers, {**values, "stage": stage})
            groups.setdefault(path, (leaf, []))[1].append(stage)
        choices: list[Choice] = []
        for combination in itertools.product(*(leaf for leaf, _ in groups.values())):
            pairs = zip(combination, groups.values(), strict=True)
            choice = {stage: value for value, (_, stages) in pairs for stage in stages}
            if name == "task" and self.pretraining:
                choice["pretrain"] = self.pretraining.name
            choices.append(choice)
        return choices

    def _leaf(self, name: str, layers: list[Layer], values: Mapping[str, Value]) -> tuple[Key, list[Value]]:
        """Return where the value is and the value as a list; the field's own default where nothing says."""
        for path, expression in layers:
            at, value = path, expression
            while isinstance(value, Mapping):
                by = self._key_field(name, at, value)
                labels = _labels(by, values.get(by, Cell.__dataclass_fields__[by].default))
                key = next((label for label in [*labels, "default"] if label in value), None)
                if key is None:
                    break
                at, value = (*at, key), value[key]
            else:
                return at, _as_list(value)
        if name in REQUIRED:
            raise self.fail(layers[0][0], f"{name} has no value for some points; add 'default'")
        return ("default", name), [DEFAULT_DATASET if name == "dataset" else Cell.__dataclass_fields__[name].default]

    # --- names ---

    def _key_field(self, name: str, path: Key, mapping: Section) -> str:
        """Return the field whose values the keys of `mapping` are."""
        if path not in self._keyed_by:
            keys = [key for key in mapping if key != "default"]
            fields = [f for f in dict.fromkeys((*KEY_FIELDS, *SETTABLE_FIELDS)) if f != name]
            hits = {f: sum(key in self.known[f] for key in keys) for f in fields}
            best = max(fields, key=lambda f: hits[f])
            known = self.known[best] if hits[best] else set().union(*(self.known[f] for f in KEY_FIELDS if f != name))
            for key in keys:
                if key not in known:
                    suggestion = did_you_mean(key, {*known, "default"})
                    raise self.fail((*path, key), f"unknown key {key!r} of {name}{suggestion}")
            self._keyed_by[path] = best
        return self._keyed_by[path]

    def _words_by_field(self) -> dict[str, set[str]]:
        known: dict[str, set[str]] = {name: set() for name in SETTABLE_FIELDS}
        for _, section in [*self.sections, *self.entries]:
            for name, value in section.items():
                for _, leaf in leaves(value):
                    known[name].update(_labels(name, leaf))
        for name, kind in PLUGIN_FIELDS.items():
            known[name].update(self.registry.names(kind))
        known["precision"].update(RESERVED_PRECISIONS)
        known["stage"].update(STAGES)
        known["device"].update(DEVICE_ORDER)
        known["size"].update(s for m in self.registry.names("model") for s in self.registry.get("model", m).sizes)
        return known

    def _check_names(self, name: str, path: Key, value: Expression) -> None:
        kind = PLUGIN_FIELDS.get(name)
        for at, leaf in leaves(value, path):
            plugin = str(leaf).partition(":")[0] if kind in ("dataset", "model") else leaf
            if kind and leaf is not None and not (name == "precision" and leaf in RESERVED_PRECISIONS):
                try:
                    self.registry.get(kind, plugin)
                except PluginError as error:
                    raise self.fail(at, str(error)) from None
            if kind == "model":
                self._check_model(str(leaf), at)
        if name == "size":
            sizes = {s for m in self.registry.names("model") for s in self.registry.get("model", m).sizes}
            for at, leaf in leaves(value, path):
                try:
                    known = parse_size(leaf).name
                except PluginError as error:
                    raise self.fail(at, str(error)) from None
                if known not in sizes:
                    raise self.fail(at, f"unknown size {known!r}{did_you_mean(known, sizes)}")

    def _check_model(self, name: str, path: Key) -> None:
        """Refuse a model that needs weights and has none, and the other way round."""
        kind, _, weights = name.partition(":")
        named = self.registry.get("model", kind).of_weights is not None
        if named and not weights:
            raise self.fail(path, f"model {name!r} needs weights; write {kind}:NAME_OR_PATH")
        if weights and not named:
            raise self.fail(
                path, f"model {kind!r} takes no name behind a colon; write model: {kind}, weights: {weights}"
            )


def _pretraining_task(registry: Registry) -> TaskSpec | None:
    """Return the task of the stage pretrain; a built-in one first."""
    specs = [(p.owner.name != PROJECT, name, p.spec) for name, p in registry.by_kind["task"].items()]
    found = [spec for *_, spec in sorted(specs, key=lambda s: s[:2]) if spec.stages == ("pretrain",)]
    return next((spec for spec in found if spec.head == "pretrain"), None)


def _as_list(value: Expression) -> list[Value]:
    return value if isinstance(value, list) else [value]


def leaves(value: Expression, path: Key = ()) -> Iterator[tuple[Key, Value]]:
    """Yield every value within lists and mappings, with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield (*path, i), inner
    else:
        yield path, value


def _labels(name: str, value: Value) -> list[str]:
    """Return the words that stand for `value`: of a data set or model also folder and scheme, of a device its
    kind, of a size also the one that it is made from."""
    text = word_of(value)
    if name in ("dataset", "pretrain_dataset", "model"):
        return [text, text.rstrip("/").rpartition("/")[2], text.partition(":")[0]]
    if name == "size":
        return [text, text.partition("*")[0], text.partition("*")[0].partition(":")[0]]
    return [text, text.partition(":")[0]] if name == "device" else [text]


def value_at(point: Point, name: str, stage: str) -> Value:
    """Return a field of `point` at `stage`, the field's default where the suite says nothing."""
    default = None if name in REQUIRED else Cell.__dataclass_fields__[name].default
    value = point[name][stage] if name in point else default
    if name in ("dataset", "pretrain_dataset") and not isinstance(value, str):
        return DEFAULT_DATASET
    return value
