"""Write the reference pages that are made from the code: `python docs/generate.py`. A test says when they are old."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

HERE = Path(__file__).parent


def cli_page() -> str:
    """Return the help of every command."""
    from llmbench.cli import cli

    parts = ["# Command line", "", "Made from the code by `python docs/generate.py`.", ""]
    for path, command in _commands(cli, ("llmbench",)):
        context = click.Context(command, info_name=" ".join(path), max_content_width=100, terminal_width=100)
        parts += [f"## `{' '.join(path)}`", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(parts)


def _commands(command: click.Command, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            found += _commands(command.commands[name], (*path, name))
    return found


def hooks_page() -> str:
    """Return every hook with its complete plugin to copy."""
    from llmbench import hookspecs
    from llmbench.plugins import KINDS

    parts = ["# Hooks", "", "Made from the code by `python docs/generate.py`.", "", inspect.getdoc(hookspecs) or "", ""]
    for kind, (hook, spec_type) in KINDS.items():
        parts += [f"## `{hook}() -> Iterable[{spec_type.__name__}]`", "", f"Kind: {kind}.", ""]
        parts += [inspect.getdoc(getattr(hookspecs, hook)) or "", ""]
    return "\n".join(parts)


def columns_page() -> str:
    """Return what each column of each table means."""
    from llmbench.report import columns

    parts = ["# Columns", "", "Made from the code by `python docs/generate.py`.", "", inspect.getdoc(columns) or "", ""]
    for table, known in columns.COLUMNS.items():
        parts += [f"## `{table}`", "", "| column | meaning |", "|---|---|"]
        parts += [f"| `{name}` | {text} |" for name, text in known.items()] + [""]
    return "\n".join(parts)


PAGES = {"cli.md": cli_page, "hooks.md": hooks_page, "columns.md": columns_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
