"""A new plugin as a distribution of its own, as `llmbench plugins new` writes it.

The plugin in it is the complete plugin of its kind, `examples/KIND.py`, under the new name. The files around it are
made from `templates/`.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.resources
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from llmbench.contract.errors import PluginError
from llmbench.contract.hookspecs import PROJECT
from llmbench.plugins.registry import KINDS, Registry

PREFIX = "llmbench-"
EXAMPLES = "llmbench.plugins.examples"
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_LONGEST_NAME = 60
#: Commands that run the suite of a scaffold and show its plugin, where `llmbench run suite.yaml` is not enough.
_COMMANDS = {
    "remedy": ("llmbench run suite.yaml --remedy {name}",),
    "reporter": ("llmbench run suite.yaml -o run", "llmbench report run --format {name}"),
}
#: file -> its template
_FILES = {
    "pyproject.toml": "pyproject.toml.jinja",
    "README.md": "README.md.jinja",
    "suite.yaml": "suite.yaml.jinja",
    "tests/test_{module}.py": "test_plugin.py.jinja",
    ".github/workflows/test.yml": "ci.yml.jinja",
}


class Example(NamedTuple):
    """A complete plugin to copy."""

    name: str
    summary: str  # in a few words
    source: str


def read_example(kind: str) -> Example:
    """Return the complete plugin of a kind. The docstring of its file is `SUMMARY: the KIND `NAME` of llmbench.`"""
    source = importlib.resources.files(EXAMPLES).joinpath(f"{kind}.py").read_text(encoding="utf-8")
    summary, _, rest = (ast.get_docstring(ast.parse(source)) or "").partition(f": the {kind} `")
    return Example(rest.partition("`")[0], summary, source)


def plugin_source(name: str, kind: str) -> str:
    """Return the module of a new plugin: the complete plugin of its kind, called `name`."""
    example = read_example(kind)
    source = example.source
    for before, after in (("`", "`"), ('"', '"'), ('"', "@")):  # in the docstring, as a name, in an identity
        source = source.replace(f"{before}{example.name}{after}", f"{before}{name}{after}")
    return source


def files(name: str, kind: str) -> dict[str, str]:
    """Return path -> text of everything in a new distribution.

    Raises PluginError for what is no name. `llmbench-` in front of it is the distribution's, not the plugin's.
    """
    name = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise PluginError(f"plugins new {name!r}: write small letters, digits and hyphens, such as my-{kind}")
    module = (PREFIX + name).replace("-", "_")
    values = {
        "name": name,
        "kind": kind,
        "kinds": [k for k, (hook, _) in KINDS.items() if f"def {hook}(" in plugin_source(name, kind)],
        "module": module,
        "distribution": PREFIX + name,
        "summary": read_example(kind).summary,
        "oldest": ".".join(importlib.metadata.version(PROJECT).split(".")[:2]),
        "commands": [c.format(name=name) for c in _COMMANDS.get(kind, ("llmbench run suite.yaml",))],
    }
    others = {path.format(module=module): _render(template, values) for path, template in _FILES.items()}
    return {f"{module}.py": plugin_source(name, kind), **others}


def write(name: str, kind: str, folder: Path, registry: Registry) -> Path:
    """Write a new distribution into a folder of its own below `folder`; return it.

    Raises PluginError when the name is no name or taken, or the folder is there already or cannot be written.
    """
    texts = files(name, kind)
    name = name.removeprefix(PREFIX)
    taken = registry.by_kind[kind].get(name)
    if taken is not None:
        raise PluginError(f"plugins new {name!r}: {taken.owner} brings a {kind} of that name; choose another")
    target = folder / (PREFIX + name)
    if target.exists():
        raise PluginError(f"{target}: is there already; choose another name, or another folder with -o DIR")
    try:
        for path, text in texts.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise PluginError(f"{target}: cannot be written ({error.strerror}); choose a folder with -o DIR") from None
    return target


def _render(template: str, values: Mapping[str, object]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # plain text for the author's own files, nothing of anybody else's
        loader=PackageLoader("llmbench.plugins"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(template).render(values)
