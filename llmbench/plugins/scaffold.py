"""A new plugin as a distribution of its own: what `llmbench plugins new` writes.

The plugin in it is the one that its hook's docstring shows, under the new name; the files around it are `templates/`.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmbench.contract import hookspecs
from llmbench.contract.errors import PluginError
from llmbench.contract.hookspecs import PROJECT
from llmbench.plugins.registry import KINDS, Registry

PREFIX = "llmbench-"
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_LONGEST_NAME = 60
#: What runs the suite of a scaffold, and then shows what is in it, where that is more than `llmbench run suite.yaml`.
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


def example(kind: str) -> tuple[str, str, str]:
    """Return the plugin that the hook of `kind` shows: its name, what it is in a few words, and its source."""
    text = inspect.getdoc(getattr(hookspecs, KINDS[kind][0])) or ""
    found = re.search(r"A complete plugin, (.*?)::\n\n(.*)", text, re.DOTALL)
    if found is None:
        raise PluginError("the hooks have no docstrings here; run Python without -OO")
    source = textwrap.dedent(found[2]).strip() + "\n"
    name = re.search(rf'{KINDS[kind][1].__name__}\(\s*(?:name=)?"([^"]+)"', source)
    assert name is not None, f"the plugin that the hook of {kind} shows names itself"
    return name[1], " ".join(found[1].split()), source


def plugin_source(name: str, kind: str) -> str:
    """Return the module of a new plugin: the one that its hook shows, named `name`."""
    shown, summary, source = example(kind)
    source = re.sub(rf'"{re.escape(shown)}(?=["@])', f'"{name}', source)
    source = re.sub(r"\n\n(?=def |class |@)", "\n\n\n", source)
    return f'"""{_sentence(summary)}: the {kind} `{name}` of llmbench."""\n\n{source}'


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
        "summary": _sentence(example(kind)[1]),
        "oldest": ".".join(importlib.metadata.version(PROJECT).split(".")[:2]),
        "commands": [c.format(name=name) for c in _COMMANDS.get(kind, ("llmbench run suite.yaml",))],
    }
    made = {path.format(module=module): _rendered(template, values) for path, template in _FILES.items()}
    return {f"{module}.py": plugin_source(name, kind), **made}


def write(name: str, kind: str, folder: Path, registry: Registry) -> Path:
    """Write a new distribution into a folder of its own below `folder`; return it.

    Raises PluginError when the name is no name or taken, or the folder is there already or cannot be written.
    """
    made = files(name, kind)
    name = name.removeprefix(PREFIX)
    taken = registry.by_kind[kind].get(name)
    if taken is not None:
        raise PluginError(f"plugins new {name!r}: {taken.owner} brings a {kind} of that name; choose another")
    target = folder / (PREFIX + name)
    if target.exists():
        raise PluginError(f"{target}: is there already; choose another name, or another folder with -o DIR")
    try:
        for path, text in made.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise PluginError(f"{target}: cannot be written ({error.strerror}); choose a folder with -o DIR") from None
    return target


def _rendered(template: str, values: Mapping[str, Any]) -> str:
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


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
