"""Suites: YAML files that describe a matrix of cells. Every mistake is one line, `file:line: message`.

A value of an axis or a default is one value, a list, or a mapping keyed by the values of one other field (`default`
is the fallback); mappings nest. What the keys mean is decided by the planner, which knows the plugins.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmbench.contract.cell import SETTABLE_FIELDS, Budget
from llmbench.contract.errors import SuiteError, did_you_mean
from llmbench.suite.fields import (
    AMPLE,
    BUDGET_KEYS,
    DOUBLED,
    FIELDS,
    LEARNING_KEYS,
    SCALARS,
    SPEED,
    STUDIES,
    TOP_KEYS,
    VARIABLE,
    Expression,
    Key,
    LearningStudy,
    Section,
    Value,
    is_whole,
)

if TYPE_CHECKING:
    from llmbench.contract.record import JsonObject

MAX_DEPTH, MAX_NODES = 12, 100_000  # of a suite file: an alias may contain itself, or multiply


@dataclass(frozen=True)
class Suite:
    """A suite, checked, with `extends`, settings and `${variables}` resolved.

    `axes` and `defaults` hold field -> value, list or mapping; `include` and `exclude` entries the same.
    `learning` and `scaling` are what is studied at each point (see `llmbench.suite.studies`); None: nothing.
    `document` is the resolved file, with `${variables}` as written so that no local path gets into it.
    """

    name: str
    axes: Section
    defaults: Section
    include: tuple[Section, ...]
    exclude: tuple[Section, ...]
    repeats: int
    budget: Budget
    verify: str  # none where only speed is measured
    source: str
    document: Mapping[str, object]
    measure: str = "all"
    learning: LearningStudy | None = None
    scaling: Mapping[str, list[int]] | None = None
    positions: Mapping[Key, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def speed_only(self) -> bool:
        """Whether nothing is traced, verified or scored."""
        return self.measure == SPEED

    @property
    def score(self) -> bool | None:
        """Whether all cells are scored, or none; None: those of the stages that end in a result (`is_scored`)."""
        return False if self.speed_only else True if self.learning else None

    @property
    def trace(self) -> str:
        """Which repeats of a cell are traced: first, all or none."""
        if self.speed_only:
            return "none"
        return "all" if self.scaling else "none" if self.learning else "first"

    def to_yaml(self) -> str:
        """Return the resolved suite as YAML; loading it (with the same variables) gives the same suite."""
        import yaml

        return yaml.safe_dump(dict(self.document), sort_keys=False, allow_unicode=True)

    def where(self, *path: str | int) -> str:
        """Return `file:line` (or the `--set`) of the value at `path`, such as `("matrix", "model", 0)`."""
        return _where(self.positions, path)


def load_suite(name_or_path: str, settings: Sequence[str] = ()) -> Suite:
    """Return the shipped suite of that name, or the suite file at that path, with `KEY=VALUE` settings applied.

    Raises SuiteError, one line, for anything that is wrong in the file or in a setting.
    """
    doc = _load(name_or_path, ())
    used = {name for _, value in _strings(doc.data) for name in VARIABLE.findall(value)}
    variables: dict[str, str] = {}
    for setting in settings:
        _apply(doc, setting, used, variables)
    data: JsonObject = {key: doc.data.get(key, default) for key, default in _empty().items()}
    data["budget"] = {**asdict(Budget()), **data["budget"]}
    _check_repeats(doc, data["repeats"], data["budget"]["max_repeats"])
    if data["measure"] == SPEED and data["learning"]:
        raise doc.fail(("measure",), f"measure: {SPEED} scores nothing, which a study of learning needs; leave it out")
    positions = {tuple(_fill(p, variables) for p in path): where for path, where in doc.where.items()}
    filled = {key: _substitute(doc, data[key], (key,), variables) for key in ("matrix", "defaults")}
    entries = {key: _substitute(doc, data[key], (key,), variables) for key in ("include", "exclude")}
    studied = {key: data[key] and _substitute(doc, data[key], (key,), variables) for key in STUDIES}
    return Suite(
        name=data["name"],
        axes=filled["matrix"],
        defaults=filled["defaults"],
        include=tuple(entries["include"]),
        exclude=tuple(entries["exclude"]),
        repeats=data["repeats"],
        budget=Budget(**data["budget"]),
        verify="none" if data["measure"] == SPEED else data["verify"],
        measure=data["measure"],
        source=doc.source,
        document=copy.deepcopy({key: value for key, value in data.items() if value is not None}),
        **studied,
        positions=positions,
    )


def suite_names() -> list[str]:
    """Return the names of the suites that come with the package, sorted."""
    from importlib.resources import files

    return sorted(p.name[: -len(".yaml")] for p in files("llmbench_suites").iterdir() if p.name.endswith(".yaml"))


# --- reading --------------------------------------------------------------------------------------------


@dataclass
class _Doc:
    """A suite file while it is being read: plain values, and `file:line` of each path to them."""

    source: str
    data: JsonObject
    where: dict[Key, str]

    def fail(self, path: Key, message: str) -> SuiteError:
        return SuiteError(f"{_where(self.where, path)}: {message}")


def _empty() -> JsonObject:
    return {
        "name": "",
        "matrix": {},
        "include": [],
        "exclude": [],
        "defaults": {},
        "repeats": 3,
        "budget": {},
        "verify": "verdict",
        "measure": "all",
        **dict.fromkeys(STUDIES),
    }


def _where(positions: Mapping[Key, str], path: Key) -> str:
    for size in range(len(path), -1, -1):
        if path[:size] in positions:
            return positions[path[:size]]
    return "suite"


def _load(name: str, chain: tuple[str, ...], folder: Path | None = None) -> _Doc:
    from importlib.resources import files

    looks_like_path = name.endswith((".yaml", ".yml")) or "/" in name
    if not looks_like_path and name in suite_names():
        source, identity = f"{name}.yaml", name
        text = files("llmbench_suites").joinpath(source).read_text(encoding="utf-8")
    else:
        path = folder / name if folder is not None else Path(name)
        if not looks_like_path and not path.is_file():
            raise SuiteError(f"unknown suite {name!r}{did_you_mean(name, suite_names())}; or give a .yaml file")
        text, source, identity = _read(path), str(path), str(path.resolve())
    if identity in chain:
        raise SuiteError(f"extends: suite {name!r} extends itself")
    doc = _parse(text, source)
    _check(doc)
    doc.data.setdefault("name", Path(source).stem)
    parent = doc.data.pop("extends", None)
    if parent is None:
        return doc
    try:
        base = _load(parent, (*chain, identity), Path(source).parent if looks_like_path else None)
    except SuiteError as error:
        if str(error).startswith(("extends:", "unknown suite", "no such suite file")):
            raise doc.fail(("extends",), str(error).removeprefix("extends: ")) from None
        raise
    return _merge(base, doc)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SuiteError(f"no such suite file: {path}{_close_shipped(path)}") from None
    except IsADirectoryError:
        raise SuiteError(f"{path}: is a folder; give a .yaml file in it") from None
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise SuiteError(f"{path}: {error.strerror or error}") from None


def _close_shipped(path: Path) -> str:
    return f" (shipped: '{path.stem}')" if path.stem in suite_names() else ""


def _parse(text: str, source: str) -> _Doc:
    import yaml

    loader = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        doc = _Doc(source, {}, {(): f"{source}:1"})
        if not isinstance(root, yaml.MappingNode):
            raise doc.fail((), "a suite is a mapping with the keys " + ", ".join(TOP_KEYS))
        doc.data = _plain(doc, loader, root, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", None) or 0) + 1
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise SuiteError(f"{source}:{line}: not valid YAML: {' '.join(str(what).split())}") from None
    except (ValueError, RecursionError) as error:  # an impossible date, say
        raise SuiteError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        if loader is not None:
            loader.dispose()
    return doc


def _plain(doc: _Doc, loader: Any, node: Any, path: Key) -> Expression:
    """Return `node` as plain values; keys are strings. Notes the line of every key and item."""
    import yaml

    if path:
        doc.where.setdefault(path, f"{doc.source}:{node.start_mark.line + 1}")
    if len(path) > MAX_DEPTH or len(doc.where) > MAX_NODES:
        raise doc.fail(path[:1], "nested too deeply (does an alias contain itself?)")
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_object(node)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(doc, loader, item, (*path, i)) for i, item in enumerate(node.value)]
    out: dict[str, Expression] = {}
    for key, value in node.value:
        line = f"{doc.source}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise SuiteError(f"{line}: a key must be one word")
        if key.value in out:
            raise SuiteError(f"{line}: {key.value!r} is given twice; remove one")
        doc.where[(*path, key.value)] = line
        out[key.value] = _plain(doc, loader, value, (*path, key.value))
    return out


# --- checking -------------------------------------------------------------------------------------------


def _check(doc: _Doc) -> None:
    """Check and normalise one file in place."""
    data = doc.data
    for key in data:
        if key not in TOP_KEYS:
            raise doc.fail((key,), f"unknown key {key!r}{did_you_mean(key, TOP_KEYS)}")
    name = data.get("name", "suite")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise doc.fail(("name",), f"name must be one word of letters, digits, '.', '_' and '-', not {name!r}")
    if not isinstance(data.get("extends", ""), str):
        raise doc.fail(("extends",), "extends must be the name of a suite or a path")
    for section in {"matrix", "defaults"} & data.keys():
        data[section] = _fields(doc, data[section], (section,))
    for section in ("include", "exclude"):
        entries = data.get(section, [])
        if not isinstance(entries, list):
            raise doc.fail((section,), f"{section} must be a list of mappings, such as [{{model: NAME}}]")
        if section in data:
            data[section] = [_fields(doc, e, (section, i), section) for i, e in enumerate(entries)]
    for key in SCALARS:
        if key in data:
            data[key] = _scalar(doc, key, data[key], (key,))
    _check_budget(doc)
    _check_studies(doc)


def _check_studies(doc: _Doc) -> None:
    for key, check in (("learning", _learning), ("scaling", _scaling)):
        if doc.data.get(key) is not None:
            doc.data[key] = check(doc, doc.data[key])


def _check_budget(doc: _Doc) -> None:
    budget = doc.data.get("budget", {})
    if not isinstance(budget, dict):
        raise doc.fail(("budget",), f"budget must be a mapping with {', '.join(BUDGET_KEYS)}")
    for key, value in budget.items():
        if key not in BUDGET_KEYS:
            raise doc.fail(("budget", key), f"unknown key {key!r} in budget{did_you_mean(key, BUDGET_KEYS)}")
        check = _expression if key == "steps" else _scalar
        budget[key] = check(doc, key, value, ("budget", key))
    if "steps" in budget:  # the default of the field
        steps = budget.pop("steps")
        if "steps" not in doc.data.get("matrix", {}) and "steps" not in doc.data.get("defaults", {}):
            _set(doc, "defaults", ("steps",), steps, _take(doc.where, ("budget", "steps")))


def _learning(doc: _Doc, study: object) -> LearningStudy:
    """Return the checked study of what limits learning."""
    if not isinstance(study, dict):
        raise doc.fail(("learning",), f"learning must be a mapping with {', '.join(LEARNING_KEYS)}")
    for key in study:
        if key not in LEARNING_KEYS:
            raise doc.fail(("learning", key), f"unknown key {key!r} in learning{did_you_mean(key, LEARNING_KEYS)}")
    out: JsonObject = {"double": list(DOUBLED), "seeds": 5, "follow": None, "ample": {}, **study}
    out["seeds"] = _scalar(doc, "seeds", out["seeds"], ("learning", "seeds"))
    out["follow"] = _scalar(doc, "follow", out["follow"], ("learning", "follow"))
    out["double"] = [out["double"]] if isinstance(out["double"], str) else out["double"]
    for i, name in enumerate(out["double"] or [""]):
        if name not in DOUBLED:
            raise doc.fail(("learning", "double", i), f"cannot double {name!r}{did_you_mean(str(name), DOUBLED)}")
    out["ample"] = _fields(doc, out["ample"], ("learning", "ample"))
    for key in out["ample"]:
        if key not in AMPLE:
            raise doc.fail(("learning", "ample", key), f"ample takes no {key!r}{did_you_mean(key, AMPLE)}")
    return cast("LearningStudy", out)


def _scaling(doc: _Doc, study: object) -> dict[str, list[int]]:
    """Return the checked study of cost: an axis (a field, or a key of the size's configuration) -> its values."""
    if not isinstance(study, dict) or not study:
        raise doc.fail(("scaling",), "scaling must be a mapping from axes to values, such as {seq_len: [64, 128, 256]}")
    for axis, values in study.items():
        if axis in SETTABLE_FIELDS and not is_whole(axis):
            raise doc.fail(("scaling", axis), f"scaling needs an axis of whole numbers, not {axis!r}")
        if not isinstance(values, list) or len(values) < 2:
            raise doc.fail(("scaling", axis), f"{axis} must be a list of at least two values")
        for i, value in enumerate(values):
            _whole(doc, axis, value, FIELDS[axis].least if is_whole(axis) else 1, ("scaling", axis, i))
            _check_only(doc, axis, value, ("scaling", axis, i))
    return study


def _whole(doc: _Doc, name: str, value: object, least: int, path: Key) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise doc.fail(path, f"{name} must be an integer of at least {least}, not {value!r}")


def _check_repeats(doc: _Doc, repeats: int, most: int | None) -> None:
    if most is None:
        return
    if repeats < 2:
        raise doc.fail(("budget", "max_repeats"), "max_repeats needs repeats of at least 2: it plans from their spread")
    if most < repeats:
        raise doc.fail(("budget", "max_repeats"), f"max_repeats must be at least repeats ({repeats}), not {most}")


def _fields(doc: _Doc, values: object, path: Key, section: str = "") -> dict[str, Expression]:
    if not isinstance(values, dict) or (section == "exclude" and not values):
        raise doc.fail(path, f"{section or path[-1]} must be a mapping from fields to values")
    for key in values:
        if key not in SETTABLE_FIELDS:
            raise doc.fail((*path, key), f"unknown field {key!r} in {path[0]}{did_you_mean(key, SETTABLE_FIELDS)}")
        if section == "exclude" and isinstance(values[key], dict):
            raise doc.fail((*path, key), "exclude takes a value or a list, not a mapping")
    return {key: _expression(doc, key, value, (*path, key)) for key, value in values.items()}


def _expression(doc: _Doc, name: str, value: Expression, path: Key) -> Expression:
    """Return a checked value, list, or mapping of such."""
    if isinstance(value, dict):
        if not value:
            raise doc.fail(path, f"{name} is an empty mapping; give it at least 'default'")
        return {key: _expression(doc, name, inner, (*path, key)) for key, inner in value.items()}
    if isinstance(value, list):
        if not value:
            raise doc.fail(path, f"{name} is an empty list; give it at least one value")
        return [_scalar(doc, name, item, (*path, i)) for i, item in enumerate(value)]
    return _scalar(doc, name, value, path)


def _scalar(doc: _Doc, name: str, value: object, path: Key) -> Value:
    """Return one checked value of a field, of the budget, or of one of SCALARS."""
    value = _check_scalar(doc, name, value, path)
    _check_only(doc, name, value, path)
    return value


def _check_only(doc: _Doc, name: str, value: Any, path: Key) -> None:
    """Raise SuiteError where a field asks to split a cell over processes: one would be measured under their name."""
    only = FIELDS[name].only if name in FIELDS else None
    if only is not None and value != only:
        raise doc.fail(path, f"{name} {value!r}: a cell cannot be split over processes yet; write {name}: {only}")


def _check_scalar(doc: _Doc, name: str, value: Any, path: Key) -> Any:
    field = FIELDS[name]
    if value is None and field.nullable:
        return None
    if field.type is int:
        return _whole(doc, name, value, field.least, path)
    if field.type is float:
        number = _number(value)
        if number is None or not math.isfinite(number) or number <= 0:
            raise doc.fail(path, f"{name} must be a number above 0, not {value!r}")
        return number
    if field.type is bool:
        if isinstance(value, bool):
            return value
        raise doc.fail(path, f"{name} must be true or false, not {value!r}")
    if not isinstance(value, str) or not value.strip():
        raise doc.fail(path, f"{name} must be a name, not {value!r}")
    if not field.allows(value):
        raise doc.fail(path, f"unknown {name} {value!r}{did_you_mean(value, field.choices)}")
    return value


def _number(value: object) -> float | None:
    """Return a float, also of text such as `1e-3`, which YAML 1.1 does not take for a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


# --- merging and settings -------------------------------------------------------------------------------


def _take(where: dict[Key, str], prefix: Key) -> dict[Key, str]:
    """Remove the positions under `prefix` and return them, relative to it."""
    found = [path for path in where if path[: len(prefix)] == prefix]
    return {path[len(prefix) :]: where.pop(path) for path in found}


def _set(doc: _Doc, section: str, path: Key, value: Expression, where: Mapping[Key, str]) -> None:
    """Set `value` (and its positions) at `path` of a section; a field leaves its other section."""
    other = {"matrix": "defaults", "defaults": "matrix"}.get(section)
    if other is not None and len(path) == 1:
        doc.data.get(other, {}).pop(path[0], None)
        _take(doc.where, (other, *path))
    _take(doc.where, (section, *path))
    target = doc.data.setdefault(section, {})
    for key in path[:-1]:
        if not isinstance(target[key], dict):
            target[key] = {"default": target[key]}
        target[key] = dict(target[key])
        target = target[key]
    target[path[-1]] = value
    doc.where.update({(section, *path, *tail): line for tail, line in where.items()})


def _merge(base: _Doc, child: _Doc) -> _Doc:
    """Return `base` with what `child` says: per field and budget key; include and exclude lists as a whole."""
    for section in ("defaults", "matrix", "budget"):
        for key, value in child.data.get(section, {}).items():
            _set(base, section, (key,), value, _take(child.where, (section, key)))
    for key in ("name", "include", "exclude", *SCALARS, *STUDIES):
        if key in child.data:
            _take(base.where, (key,))
            base.data[key] = child.data[key]
            base.where.update({(key, *tail): line for tail, line in _take(child.where, (key,)).items()})
    base.source = child.source
    base.where[()] = f"{child.source}:1"
    return base


def _apply(doc: _Doc, setting: str, used: set[str], variables: dict[str, str]) -> None:
    """Apply one `KEY=VALUE`."""
    here = f"--set {setting}"
    key, equals, text = setting.partition("=")
    key, text = key.strip(), text.strip()
    if not equals or not text or not all(key.split(".")):
        raise SuiteError(f"{here}: write --set KEY=VALUE")
    path = key.split(".")
    section = path.pop(0) if path[0] in ("matrix", "defaults", "budget") and len(path) > 1 else None
    name, message = path[0], _Doc(here, {}, {(): here})
    if name == "steps" and section == "budget":
        section = None
    if name in SETTABLE_FIELDS and section != "budget":
        if len(path) > 1 and name not in doc.data.get("matrix", {}) and name not in doc.data.get("defaults", {}):
            raise SuiteError(f"{here}: the suite does not set {name!r}; write --set {name}=VALUE")
        value = _expression(message, name, _value(here, text), ())
        in_matrix = name in doc.data.get("matrix", {})
        if len(path) == 1:
            _drop_from_entries(doc, name)
        _set(doc, "matrix" if in_matrix or section == "matrix" else "defaults", tuple(path), value, {(): here})
    elif len(path) == 1 and name in BUDGET_KEYS and section in (None, "budget"):
        _set(doc, "budget", (name,), _scalar(message, name, _value(here, text), ()), {(): here})
    elif name == "learning" and len(path) == 2 and path[1] in ("seeds", "follow") and doc.data.get("learning"):
        value = _value(here, text)
        doc.data["learning"][path[1]] = _scalar(message, "seeds", value, ()) if path[1] == "seeds" else value
        doc.where[("learning", path[1])] = here
    elif key in SCALARS:
        doc.data[key], doc.where[(key,)] = _scalar(message, key, _value(here, text), ()), here
    elif key in used:
        variables[key] = str(Path(text).expanduser()) if text.startswith("~") else text
    else:
        known = [*SETTABLE_FIELDS, *BUDGET_KEYS, *SCALARS, *used]
        raise SuiteError(f"{here}: unknown key {key!r}{did_you_mean(name, known)}")


def _drop_from_entries(doc: _Doc, name: str) -> None:
    """Let a setting reach the points of `include` too."""
    for i, entry in enumerate(doc.data.get("include", [])):
        if entry.pop(name, None) is not None:
            _take(doc.where, ("include", i, name))


def _value(here: str, text: str) -> Expression:
    """Parse the value of a setting: YAML, or several values with commas between."""
    import yaml

    try:
        value = yaml.safe_load(text)
        if isinstance(value, str) and "," in value and value == text:
            value = [yaml.safe_load(part) for part in text.split(",") if part.strip()]
        return _string_keys(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise SuiteError(f"{here}: the value is not valid YAML; quote it") from None


def _string_keys(value: Expression) -> Expression:
    if isinstance(value, dict):
        return {str(key): _string_keys(inner) for key, inner in value.items()}
    return value


# --- variables ------------------------------------------------------------------------------------------


def _strings(value: Expression, path: Key = ()) -> Iterator[tuple[Key, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield path, key
            yield from _strings(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _strings(inner, (*path, i))


def _fill(value: Value, variables: Mapping[str, str]) -> Value:
    """Replace the variables that are set."""
    if not isinstance(value, str):
        return value
    return VARIABLE.sub(lambda found: variables.get(found[1], found[0]), value)


def _substitute(doc: _Doc, value: Expression, path: Key, variables: Mapping[str, str]) -> Expression:
    """Return `value` with every `${NAME}` replaced; one that is not set is an error."""
    for at, text in _strings(value, path):
        for name in VARIABLE.findall(text):
            if name not in variables:
                raise doc.fail(at, f"${{{name}}} is not set; add --set {name}=DIR")
    return _replace(value, variables)


def _replace(value: Expression, variables: Mapping[str, str]) -> Expression:
    if isinstance(value, dict):
        return {_fill(key, variables): _replace(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replace(inner, variables) for inner in value]
    return _fill(value, variables)
