"""Finding plugins: entry points, `--plugin FILE` and `./plugins/*.py`. A broken one stops nobody else."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pluggy

from llmbench import hookspecs
from llmbench.errors import PluginError, did_you_mean
from llmbench.hookspecs import PROJECT
from llmbench.specs import (
    CauseSpec,
    DatasetSpec,
    MetricSpec,
    ModelSpec,
    PrecisionSpec,
    RemedySpec,
    ReporterSpec,
    TaskSpec,
)

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


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be loaded, and why (one line)."""

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

    def get(self, kind: str, name: str) -> Any:
        """Return the spec of `kind` called `name`.

        Raises PluginError when there is none (with a suggestion) or when two owners claim the name.
        """
        if (kind, name) in self.clashes:
            raise PluginError(self.clash_message(kind, name))
        found = self.by_kind[kind].get(name)
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
        owners = " and ".join(f"{o} ({o.origin})" for o in self.clashes[(kind, name)])
        return f"{kind} {name!r} is claimed by {owners}; uninstall one or rename it"

    def check_clashes(self) -> None:
        """Raise PluginError if any name has two owners."""
        for kind, name in self.clashes:
            raise PluginError(self.clash_message(kind, name))


def discover(files: Iterable[str | Path] = (), cwd: Path | None = None) -> Registry:
    """Find and load every plugin.

    `files` are plugin files given by the user: one that does not exist raises PluginError, one that fails to
    import is reported in `broken` like any other. `cwd` is where a `plugins/` folder is looked for.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    owners: dict[Any, Owner] = {}
    broken: list[Broken] = []
    given = _given_files(files)
    for owner, load in [*_entry_points(), *_file_loaders(given), *_folder_loaders(cwd)]:
        try:
            module = load()
            if module in owners:
                continue
            _register(manager, module, owner)
        except (Exception, SystemExit) as error:
            broken.append(Broken(owner, _one_line(error)))
            continue
        owners[module] = owner
    by_kind: dict[str, dict[str, Provided]] = {kind: {} for kind in KINDS}
    clashes: dict[tuple[str, str], tuple[Owner, ...]] = {}
    for module, owner in owners.items():
        try:
            provided = [(kind, spec) for kind in KINDS for spec in _specs_of(module, kind)]
        except (Exception, SystemExit) as error:
            broken.append(Broken(owner, _one_line(error)))
            continue
        for kind, spec in provided:
            other = by_kind[kind].get(spec.name)
            if other is not None:
                clashes[(kind, spec.name)] = (*clashes.get((kind, spec.name), (other.owner,)), owner)
            else:
                by_kind[kind][spec.name] = Provided(spec, owner)
    return Registry(by_kind, tuple(broken), tuple(str(p) for p in given), clashes)


def load_own() -> None:
    """Import the built-in plugins, so that processes forked from this one need not; others may do anything."""
    for owner, load in _entry_points():
        if owner.name == PROJECT:
            load()


def _register(manager: pluggy.PluginManager, module: ModuleType, owner: Owner) -> None:
    """Register `module`; one that implements an unknown hook is taken out again before the error goes up."""
    manager.register(module, name=f"{owner.name}:{owner.origin}")
    try:
        manager.check_pending()
    except pluggy.PluginValidationError:
        manager.unregister(module)
        raise


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
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@functools.cache
def _entry_points() -> list[tuple[Owner, Any]]:
    found = []
    for point in importlib.metadata.entry_points(group=PROJECT):
        dist = point.dist
        owner = Owner(dist.name if dist else "unknown", dist.version if dist else "", f"entry point {point.name}")
        found.append((owner, point.load))
    return sorted(found, key=lambda pair: (pair[0].name != PROJECT, pair[0].name, pair[0].origin))


def _given_files(files: Iterable[str | Path]) -> list[Path]:
    paths = []
    for file in files:
        path = Path(file).resolve()
        if not path.is_file():
            raise PluginError(f"--plugin {file}: no such file")
        paths.append(path)
    return paths


def _file_loaders(paths: Sequence[Path]) -> list[tuple[Owner, Any]]:
    return [(Owner(path.name, "", str(path)), lambda path=path: load_file(path)) for path in paths]


def _folder_loaders(cwd: Path | None) -> list[tuple[Owner, Any]]:
    """Return a loader per `cwd/plugins/*.py`; a folder that is a package (has `__init__.py`) is no plugin folder."""
    if cwd is None:
        return []
    folder = cwd / "plugins"
    if not folder.is_dir() or (folder / "__init__.py").exists():
        return []
    return _file_loaders(sorted(p.resolve() for p in folder.glob("*.py") if not p.name.startswith("_")))


def load_file(path: Path) -> ModuleType:
    """Import a plugin file under a name of its own; the same file is imported once."""
    name = "llmbench_file_plugin_" + "".join(c if c.isalnum() else "_" for c in str(path))
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
