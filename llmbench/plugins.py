"""Finding plugins: entry points, `--plugin FILE` and `./plugins/*.py`. A broken one stops nobody else.

A third party's plugin is loaded under a watch (`llmbench.guard`): one that hangs, raises, replaces parts of torch or
needs another version of the interface is left out, with its owner and one line that says why. Its claim to a name that
a built-in plugin has is not heard; a name that two others claim is nobody's.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pluggy

from llmbench.contract import hookspecs
from llmbench.contract.engines import EngineSpec
from llmbench.contract.errors import PluginError, did_you_mean
from llmbench.contract.hookspecs import API_VERSION, OLDEST_API, PROJECT
from llmbench.contract.specs import (
    CauseSpec,
    DatasetSpec,
    MetricSpec,
    ModelSpec,
    PrecisionSpec,
    RemedySpec,
    ReporterSpec,
    TaskSpec,
)
from llmbench.guard import watching

#: kind -> (hook that returns it, type of what it returns)
KINDS: Mapping[str, tuple[str, type]] = MappingProxyType(
    {
        "model": ("llmbench_models", ModelSpec),
        "task": ("llmbench_tasks", TaskSpec),
        "dataset": ("llmbench_datasets", DatasetSpec),
        "metric": ("llmbench_metrics", MetricSpec),
        "precision": ("llmbench_precisions", PrecisionSpec),
        "cause": ("llmbench_causes", CauseSpec),
        "remedy": ("llmbench_remedies", RemedySpec),
        "reporter": ("llmbench_reporters", ReporterSpec),
        "engine": ("llmbench_engines", EngineSpec),
    }
)


@dataclass(frozen=True)
class Owner:
    """Who brings a plugin: a distribution and its version, or a file."""

    name: str
    version: str
    origin: str  # entry point or path

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()

    @property
    def key(self) -> str:
        """Name the plugin for other processes, which leave it out by that."""
        return f"{self.name}|{self.origin}"


@dataclass(frozen=True)
class Broken:
    """A plugin that is left out, and why (one line); or what is to be said of one that is not."""

    owner: Owner
    error: str


@dataclass(frozen=True)
class Provided:
    """One spec and who owns it."""

    spec: Any
    owner: Owner


@dataclass(frozen=True)
class Registry:
    """All plugins found, by kind and name."""

    by_kind: Mapping[str, Mapping[str, Provided]]
    broken: tuple[Broken, ...] = ()
    files: tuple[str, ...] = ()  # what a worker process has to load again
    clashes: Mapping[tuple[str, str], tuple[Owner, ...]] = field(default_factory=dict)
    remarks: tuple[Broken, ...] = ()  # of plugins that are loaded

    def get(self, kind: str, name: str) -> Any:
        """Return the spec of `kind` called `name`.

        Raises PluginError when there is none (with a suggestion) or when two owners claim the name.
        """
        found = self.by_kind[kind].get(name)
        if found is None and (kind, name) in self.clashes:
            raise PluginError(self.clash_message(kind, name))
        if found is None:
            raise PluginError(f"unknown {kind} {name!r}{did_you_mean(name, self.by_kind[kind])}")
        return found.spec

    def model(self, name: str, folders: Mapping[str, str]) -> ModelSpec:
        """Return the spec of a cell's model: `NAME`, or `NAME:IDENTITY` with the folder of its weights in `folders`."""
        kind, _, identity = name.partition(":")
        spec: ModelSpec = self.get("model", kind)
        return spec.of_weights(folders[identity]) if spec.of_weights else spec

    def metrics(self, task: TaskSpec) -> list[MetricSpec]:
        """Return the metrics that score `task`: those that it names, and those that name it.

        Raises PluginError when it names one that nobody brings.
        """
        named: list[MetricSpec] = [self.get("metric", name) for name in task.metrics]
        others = [p.spec for name, p in sorted(self.by_kind["metric"].items()) if name not in task.metrics]
        return [*named, *(spec for spec in others if task.name in spec.tasks)]

    def names(self, kind: str) -> list[str]:
        """Return the names of all plugins of `kind`, sorted."""
        return sorted(self.by_kind[kind])

    def clash_message(self, kind: str, name: str) -> str:
        """Return the one line that names everybody who claims `name`."""
        owners = [f"{o} ({o.origin})" for o in self.clashes[(kind, name)]]
        if name in self.by_kind[kind]:
            return f"{kind} {name!r} belongs to {owners[0]}; that of {' and '.join(owners[1:])} is left out: rename it"
        return f"{kind} {name!r} is claimed by {' and '.join(owners)}; uninstall one or rename it"

    def notes(self) -> list[str]:
        """Return a line for everything that is left out, and for what else is to be said."""
        lines = [f"plugin {b.owner} ({b.owner.origin}) is left out: {b.error}" for b in self.broken]
        lines += [self.clash_message(kind, name) for kind, name in self.clashes]
        return [*lines, *(f"plugin {r.owner} ({r.owner.origin}) {r.error}" for r in self.remarks)]

    @property
    def left_out(self) -> tuple[str, ...]:
        """Return the keys of plugins that are not loaded, so that another process need not try."""
        return tuple(broken.owner.key for broken in self.broken)


def discover(files: Iterable[str | Path] = (), cwd: Path | None = None, *, left_out: Collection[str] = ()) -> Registry:
    """Find and load every plugin.

    `files` are plugin files given by the user: one that does not exist raises PluginError, one that fails to
    import is reported in `broken` like any other. `cwd` is where a `plugins/` folder is looked for. `left_out` are the
    keys of owners that another process found to be broken.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    loaded: dict[ModuleType, tuple[Owner, list[tuple[str, Any]]]] = {}
    broken: list[Broken] = []
    remarks: list[Broken] = []
    given = _given_files(files)
    for owner, load, source in [*_entry_points(), *_file_loaders(given), *_folder_loaders(cwd)]:
        if owner.key in left_out:
            continue
        try:
            module, provided, remark = _loaded(manager, owner, load, source)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, and what test frameworks skip with
            broken.append(Broken(owner, _one_line(error)))
            continue
        loaded.setdefault(module, (owner, provided))
        remarks += [Broken(owner, remark)] if remark else []
    by_kind, clashes = _by_kind(loaded.values())
    return Registry(by_kind, tuple(broken), tuple(str(p) for p in given), clashes, tuple(remarks))


Loader = Callable[[], ModuleType]
Source = Callable[[], tuple[str, Path | None]]  # of a plugin: its module's name and its file, without importing it


def _loaded(
    manager: pluggy.PluginManager, owner: Owner, load: Loader, source: Source
) -> tuple[ModuleType, list[tuple[str, Any]], str]:
    """Return a plugin's module, the specs that it provides by kind, and what is to be said of it.

    Raises whatever goes wrong in it, TooLong where it hangs, and PluginError where it breaks the rules.
    """
    if owner.name == PROJECT:
        module = load()
        return module, _register(manager, module, owner), ""
    root = source()[0].partition(".")[0]
    with watching(root) as seen:
        _check_api(source()[1])
        module = load()
        provided = _register(manager, module, owner)
    if seen.patched:
        more = f" and {len(seen.patched) - 1} more" if len(seen.patched) > 1 else ""
        manager.unregister(module)
        sys.modules.pop(module.__name__, None)  # so that it is looked at again by whoever asks again
        raise PluginError(f"it replaces {seen.patched[0]}{more}, which changes what is measured for everybody")
    return module, provided, f"prints to standard output when it is loaded: {seen.printed!r}" if seen.printed else ""


def _check_api(path: Path | None) -> None:
    """Read which interface a plugin was written for, and raise PluginError where that is not this one's."""
    if path is None or path.suffix != ".py":
        return
    found = re.search(rb"^LLMBENCH_API\s*=\s*(\d+)", path.read_bytes(), re.MULTILINE)
    needed = int(found[1]) if found else API_VERSION
    if needed > API_VERSION:
        raise PluginError(f"it needs plugin API {needed}, and this llmbench has {API_VERSION}: upgrade llmbench")
    if needed < OLDEST_API:
        raise PluginError(
            f"it was made for plugin API {needed}, and this llmbench has {OLDEST_API} and later: upgrade it"
        )


def _by_kind(
    loaded: Iterable[tuple[Owner, list[tuple[str, Any]]]],
) -> tuple[dict[str, dict[str, Provided]], dict[tuple[str, str], tuple[Owner, ...]]]:
    """Return the specs by kind and name, and who claims the names that more than one claims."""
    claims: dict[tuple[str, str], list[Provided]] = {}
    for owner, provided in loaded:
        for kind, spec in provided:
            claims.setdefault((kind, spec.name), []).append(Provided(spec, owner))
    by_kind: dict[str, dict[str, Provided]] = {kind: {} for kind in KINDS}
    for (kind, name), claimed in claims.items():
        built_in = [one for one in claimed if one.owner.name == PROJECT]
        if len(claimed) == 1 or len(built_in) == 1:
            by_kind[kind][name] = (built_in or claimed)[0]
    clashes = {key: tuple(one.owner for one in claimed) for key, claimed in claims.items() if len(claimed) > 1}
    return by_kind, clashes


def load_own() -> None:
    """Import the built-in plugins, so that processes forked from this one need not; others may do anything."""
    for owner, load, _ in _entry_points():
        if owner.name == PROJECT:
            load()


def _register(manager: pluggy.PluginManager, module: ModuleType, owner: Owner) -> list[tuple[str, Any]]:
    """Register `module` once and return what it provides, by kind; one that implements an unknown hook is taken out
    again before the error goes up."""
    if not manager.is_registered(module):
        manager.register(module, name=f"{owner.name}:{owner.origin}")
    try:
        manager.check_pending()
    except pluggy.PluginValidationError:
        manager.unregister(module)
        raise
    return [(kind, spec) for kind in KINDS for spec in _specs_of(module, kind)]


def _specs_of(module: ModuleType, kind: str) -> list[Any]:
    hook, spec_type = KINDS[kind]
    implementation = getattr(module, hook, None)
    if implementation is None:
        return []
    specs = list(implementation())
    for spec in specs:
        if not isinstance(spec, spec_type):
            raise PluginError(f"{hook} must return {spec_type.__name__} objects, not {type(spec).__name__}")
    return specs


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@functools.cache
def _entry_points() -> list[tuple[Owner, Loader, Source]]:
    """Return owner, loader and source of every plugin that a distribution brings, the built-in ones first."""
    built_in: list[tuple[Owner, Loader, Source]] = []
    others: list[tuple[Owner, Loader, Source]] = []
    called: dict[importlib.metadata.Distribution, tuple[str, str]] = {}  # to read its metadata once
    for point in importlib.metadata.entry_points(group=PROJECT):
        dist = point.dist
        if dist is not None and dist not in called:
            called[dist] = (dist.name, dist.version)
        name, version = ("unknown", "") if dist is None else called[dist]
        if name == PROJECT:
            built_in += _built_in(point.module, version)
        else:
            owner = Owner(name, version, f"entry point {point.name}")
            others.append((owner, point.load, functools.partial(_module_file, point.module)))
    return [*built_in, *sorted(others, key=lambda one: (one[0].name, one[0].origin))]


def _built_in(package: str, version: str) -> list[tuple[Owner, Loader, Source]]:
    """Return an entry for each module that `package.MODULES` names, so that a broken one stops no other."""
    names = [f"{package}.{module}" for module in sorted(importlib.import_module(package).MODULES)]
    return [
        (
            Owner(PROJECT, version, f"module {name}"),
            functools.partial(importlib.import_module, name),
            functools.partial(_module_file, name),
        )
        for name in names
    ]


def _module_file(name: str) -> tuple[str, Path | None]:
    """Return `name` and the file of that module, which is not imported (the packages that it lies in are)."""
    spec = importlib.util.find_spec(name)
    return name, Path(spec.origin) if spec is not None and spec.origin is not None else None


def _given_files(files: Iterable[str | Path]) -> list[Path]:
    paths = []
    for file in files:
        path = Path(file).resolve()
        if not path.is_file():
            raise PluginError(f"--plugin {file}: no such file")
        paths.append(path)
    return paths


def _file_loaders(paths: Sequence[Path]) -> list[tuple[Owner, Loader, Source]]:
    return [
        (
            Owner(path.name, "", str(path)),
            functools.partial(load_file, path),
            functools.partial(lambda path: (_module_name(path), path), path),
        )
        for path in paths
    ]


def _folder_loaders(cwd: Path | None) -> list[tuple[Owner, Loader, Source]]:
    """Return a loader per `cwd/plugins/*.py`; a folder that is a package (has `__init__.py`) is no plugin folder."""
    if cwd is None:
        return []
    folder = cwd / "plugins"
    if not folder.is_dir() or (folder / "__init__.py").exists():
        return []
    return _file_loaders(sorted(p.resolve() for p in folder.glob("*.py") if not p.name.startswith("_")))


def load_file(path: Path) -> ModuleType:
    """Import a plugin file under a name of its own; the same file is imported once."""
    name = _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_name(path: Path) -> str:
    return "llmbench_file_plugin_" + "".join(c if c.isalnum() else "_" for c in str(path))
