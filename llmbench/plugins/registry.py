"""All plugins that were found, by kind and name, with their owners.

A plugin that claims the name of a built-in one is left out; a name that two other plugins claim belongs to neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from llmbench.contract.engines import EngineSpec
from llmbench.contract.errors import PluginError, did_you_mean
from llmbench.contract.kinds import PLURALS
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

_SPEC_TYPES: Mapping[str, type] = {
    "model": ModelSpec,
    "task": TaskSpec,
    "dataset": DatasetSpec,
    "metric": MetricSpec,
    "precision": PrecisionSpec,
    "cause": CauseSpec,
    "remedy": RemedySpec,
    "reporter": ReporterSpec,
    "engine": EngineSpec,
}
#: kind -> (hook that returns it, type of what it returns)
KINDS: Mapping[str, tuple[str, type]] = MappingProxyType(
    {kind: (f"llmbench_{plural}", _SPEC_TYPES[kind]) for kind, plural in PLURALS.items()}
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
        """Name of the plugin for other processes, which leave it out by that."""
        return f"{self.name}|{self.origin}"


@dataclass(frozen=True)
class Broken:
    """A plugin that is left out, and why (one line); or a remark about a plugin that is loaded."""

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
    failures: tuple[Broken, ...] = ()  # plugins that are left out
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
        """Return a line for every plugin that is left out, for every clash of names, and for every remark."""
        lines = [f"plugin {b.owner} ({b.owner.origin}) is left out: {b.error}" for b in self.failures]
        lines += [self.clash_message(kind, name) for kind, name in self.clashes]
        return [*lines, *(f"plugin {r.owner} ({r.owner.origin}) {r.error}" for r in self.remarks)]

    @property
    def keys_left_out(self) -> tuple[str, ...]:
        """Keys of the plugins that did not load, so that another process need not try."""
        return tuple(one.owner.key for one in self.failures)
