"""Whether code has replaced functions of torch or of llmbench, which would change what is measured for everybody."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

#: Modules whose functions, classes and methods are looked at, where they are loaded.
_WATCHED = re.compile(
    r"torch|torch\.(_tensor|nn|nn\.(functional|init|parameter|modules\.\w+)|optim|optim\.\w+|autograd(\.\w+)?|amp|cuda"
    r"|cuda\.amp|utils\.data(\.\w+)?)|llmbench(\..+)?|llmbench_plugins(\..+)?"
)
#: Libraries that add to torch or wrap parts of it when they are imported; that is not a plugin's doing.
_LIBRARIES = frozenset({"transformers", "peft", "accelerate", "datasets", "evaluate", "safetensors", "dill"})
_MISSING = object()


@dataclass(frozen=True)
class Patch:
    """One attribute that was replaced. `before` is its old value, _MISSING where there was none."""

    owner: Any  # module or class
    name: str
    before: Any

    def __str__(self) -> str:
        where = self.owner.__name__
        if inspect.isclass(self.owner):
            where = f"{self.owner.__module__}.{self.owner.__qualname__}"
        return f"{where}.{self.name}"

    def undo(self) -> None:
        """Put the old value back."""
        if self.before is _MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.before)


class Snapshot:
    """The callables of torch and llmbench as they are now. Costs some milliseconds where torch is loaded."""

    def __init__(self) -> None:
        self.torch = "torch" in sys.modules
        self._compiler = "torch._dynamo" in sys.modules
        self._kept = [(owner, dict(attributes)) for owner, attributes in _namespaces()]

    def find_patches(self) -> list[Patch]:
        """Return the attributes that other code has replaced since, or added to a class."""
        excused = _LIBRARIES
        if not self._compiler and "torch._dynamo" in sys.modules:
            excused |= {"torch"}  # the compiler wraps parts of torch when it is loaded
        found = []
        for owner, before in self._kept:
            now = dict(vars(owner))
            for name, value in before.items():
                if now.get(name) is not value and _root_of(now.get(name)) not in excused:
                    found.append(Patch(owner, name, value))
            if inspect.isclass(owner):
                own = {*excused, "torch", "llmbench", "llmbench_plugins"}
                added = [
                    n for n, v in now.items() if n not in before and inspect.isfunction(v) and _root_of(v) not in own
                ]
                found += [Patch(owner, name, _MISSING) for name in added]
        return found


def patches_of(root: str) -> list[Patch]:
    """Return the attributes of torch and llmbench that are functions or classes of the module or package `root`.

    For code that ran before anybody looked: the original is not known, so that it cannot be put back.
    """
    found = []
    for owner, attributes in _namespaces():
        ours = [name for name, value in attributes.items() if _root_of(value) == root]
        found += [Patch(owner, name, _MISSING) for name in ours]
    return found


def _namespaces() -> Iterator[tuple[Any, dict[str, object]]]:
    """Yield the watched modules and their classes, each with its callables by name."""
    seen: set[int] = set()
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or not _WATCHED.fullmatch(name):
            continue
        values = {key: value for key, value in list(vars(module).items()) if callable(value)}
        yield module, values
        for value in values.values():
            if inspect.isclass(value) and id(value) not in seen and value.__module__.startswith(("torch", "llmbench")):
                seen.add(id(value))
                yield value, {key: v for key, v in vars(value).items() if callable(v) or isinstance(v, property)}


def _root_of(value: object) -> str:
    """Return the package or top-level module whose code `value` is; a wrapper's own, not that of what it wraps."""
    namespace = getattr(value, "__globals__", None)
    module = namespace.get("__name__") if isinstance(namespace, dict) else getattr(value, "__module__", None)
    return str(module or "").partition(".")[0]
