"""Finding plugins: entry points, `--plugin FILE` and `./plugins/*.py`. A broken one stops nobody else.

A third party's plugin is loaded under a watch (`llmbench.plugins.guard`): one that hangs, raises, replaces parts of
torch or needs another version of the interface is left out, with its owner and one line that says why.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from llmbench.contract import hookspecs
from llmbench.contract.errors import PluginError
from llmbench.contract.hookspecs import API_VERSION, OLDEST_API, PROJECT
from llmbench.plugins.guard import watching
from llmbench.plugins.registry import KINDS, Broken, Owner, Provided, Registry


def discover(files: Iterable[str | Path] = (), cwd: Path | None = None, *, left_out: Collection[str] = ()) -> Registry:
    """Find and load every plugin.

    `files` are plugin files of the user: one that does not exist raises PluginError, one that fails to import is in
    `failures` like any other. A folder `plugins/` is looked for in `cwd`. `left_out` are the keys of owners whose
    plugins did not load in another process.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    loaded: dict[ModuleType, tuple[Owner, list[tuple[str, Any]]]] = {}
    failures: list[Broken] = []
    remarks: list[Broken] = []
    given = _resolve_files(files)
    for owner, load, source in [*_entry_points(), *_file_loaders(given), *_folder_loaders(cwd)]:
        if owner.key in left_out:
            continue
        try:
            module, provided, remark = _load(manager, owner, load, source)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, and what test frameworks skip with
            failures.append(Broken(owner, _one_line(error)))
            continue
        loaded.setdefault(module, (owner, provided))
        remarks += [Broken(owner, remark)] if remark else []
    by_kind, clashes = _by_kind(loaded.values())
    return Registry(by_kind, tuple(failures), tuple(str(p) for p in given), clashes, tuple(remarks))


Loader = Callable[[], ModuleType]

Source = Callable[[], tuple[str, Path | None]]  # of a plugin: its module's name and its file, without importing it


def _load(
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
    if seen.patches:
        more = f" and {len(seen.patches) - 1} more" if len(seen.patches) > 1 else ""
        manager.unregister(module)
        sys.modules.pop(module.__name__, None)  # so that the next attempt to load it is checked again
        raise PluginError(f"it replaces {seen.patches[0]}{more}, which changes what is measured for everybody")
    return module, provided, f"prints to standard output when it is loaded: {seen.output!r}" if seen.output else ""


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
            built_in += _list_built_in(point.module, version)
        else:
            owner = Owner(name, version, f"entry point {point.name}")
            others.append((owner, point.load, functools.partial(_module_file, point.module)))
    return [*built_in, *sorted(others, key=lambda one: (one[0].name, one[0].origin))]


def _list_built_in(package: str, version: str) -> list[tuple[Owner, Loader, Source]]:
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


def _resolve_files(files: Iterable[str | Path]) -> list[Path]:
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
