"""Putting other functions in the place of a module's or an object's, for a while."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Function = Callable[..., Any]
Place = tuple[Any, str]  # an object and the name of its attribute

_ABSENT = object()


@contextlib.contextmanager
def substitute(places: Sequence[Place], new: Callable[[Function], Function]) -> Iterator[None]:
    """Put `new(function)` in the place of each function; an attribute that is only inherited is hidden."""
    before = [(owner, name, vars(owner).get(name, _ABSENT)) for owner, name in places]
    try:
        for owner, name in places:
            setattr(owner, name, new(getattr(owner, name)))
        yield
    finally:
        for owner, name, old in reversed(before):
            if old is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, old)


def places_of(module: Any, name: str) -> list[Place]:
    """Return the places of the function `module.name`: there, and wherever code outside of torch imported it."""
    function = getattr(module, name)
    places = [(module, name)]
    for other in list(sys.modules.values()):
        package = getattr(other, "__name__", "").partition(".")[0]
        if other is None or other is module or package in ("torch", "builtins", "numpy", ""):
            continue
        places += [(other, key) for key, value in list(vars(other).items()) if value is function]
    return places


def forwards(modules: Sequence[Any]) -> list[Place]:
    """Return the places of the modules' forward passes."""
    return [(module, "forward") for module in modules]
