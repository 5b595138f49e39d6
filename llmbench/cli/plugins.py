"""`llmbench plugins`: list, describe, check and write plugins."""

from __future__ import annotations

from pathlib import Path

import click

from llmbench.cli.options import json_option, plugin_option
from llmbench.contract.kinds import KIND_NAMES


@click.group("plugins")
def plugins_group() -> None:
    """What is installed, who owns it, and what can be added."""


@plugins_group.command("list")
@plugin_option
@json_option
def plugins_list(plugin_files: tuple[str, ...], as_json: bool) -> int:
    """Print every plugin: name, kind, owner, version and what it supports. Broken ones come with their error."""
    import json

    from llmbench.plugins.discovery import discover
    from llmbench.report.formats import terminal
    from llmbench.report.tables import inventory

    registry = discover(plugin_files, Path.cwd())
    if as_json:
        click.echo(json.dumps(inventory.plugin_document(registry), indent=1))
    else:
        terminal.render(inventory.plugin_tables(registry))
    return 0


@plugins_group.command("info")
@click.argument("name")
@plugin_option
def plugins_info(name: str, plugin_files: tuple[str, ...]) -> int:
    """Print everything the plugin NAME says about itself."""
    from llmbench.contract.errors import PluginError, did_you_mean
    from llmbench.plugins.discovery import discover
    from llmbench.report.formats import terminal
    from llmbench.report.tables import inventory

    registry = discover(plugin_files, Path.cwd())
    kinds = [kind for kind, by_name in registry.by_kind.items() if name in by_name]
    if not kinds:
        names = [known for by_name in registry.by_kind.values() for known in by_name]
        raise PluginError(f"unknown plugin {name!r}{did_you_mean(name, names)}")
    terminal.render([inventory.plugin_details(registry, kind, name) for kind in kinds])
    return 0


@plugins_group.command("hooks")
def plugins_hooks() -> int:
    """Print the hooks, each with a complete plugin to copy."""
    import inspect
    import textwrap

    from llmbench.contract import hookspecs
    from llmbench.plugins.registry import KINDS
    from llmbench.plugins.scaffold import read_example

    for kind, (hook, spec_type) in KINDS.items():
        click.echo(f"{hook}() -> Iterable[{spec_type.__name__}]    # {kind}\n")
        click.echo(f"{inspect.getdoc(getattr(hookspecs, hook))}\n")
        click.echo(textwrap.indent(read_example(kind).source, "    ") + "\n")
    return 0


@plugins_group.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(KIND_NAMES), required=True, help="What it brings.")
@click.option("-o", "folder", type=click.Path(path_type=Path, file_okay=False), default=".", help="Where (here).")
def plugins_new(name: str, kind: str, folder: Path) -> int:
    """Write a distribution with a small working plugin NAME in it: package, plugin, suite, tests, CI file, README."""
    from llmbench.plugins.discovery import discover
    from llmbench.plugins.scaffold import write

    target = write(name, kind, folder, discover())
    click.echo(f"{target}: written; next:")
    click.echo(f"  cd {target} && pip install -e '.[test]' && llmbench plugins check {target.name.partition('-')[2]}")
    return 0


@plugins_group.command("check")
@click.argument("target", metavar="NAME")
@click.option("--kind", type=click.Choice(KIND_NAMES), help="The kind of NAME, where several kinds have one.")
@click.option("--only", multiple=True, metavar="CHECK", help="Run this check only; several may be given.")
@click.option(
    "--limit",
    "limit_s",
    type=click.FloatRange(min=0, min_open=True),
    default=120,
    show_default=True,
    help="Seconds per check.",
)
@plugin_option
@json_option
def plugins_check(
    target: str, kind: str | None, only: tuple[str, ...], limit_s: float, plugin_files: tuple[str, ...], as_json: bool
) -> int:
    """Check whether NAME keeps the contract of its hook, a line per check. Exit 1 when it does not.

    NAME is a plugin, a FILE.py, a distribution (all its plugins), or hf:FOLDER.
    """
    import dataclasses
    import json

    from llmbench import conformance

    def show(verdict: conformance.Verdict) -> None:
        if not as_json:
            click.echo(str(verdict))

    verdicts = conformance.check(target, kind=kind, only=only, files=plugin_files, limit_s=limit_s, on_verdict=show)
    counts = {status: sum(one.status == status for one in verdicts) for status in conformance.STATUSES}
    if as_json:
        checks = [dataclasses.asdict(one) for one in verdicts]
        click.echo(json.dumps({"schema_version": 1, "target": target, "counts": counts, "checks": checks}, indent=1))
    else:
        click.echo(", ".join(f"{count} {status}" for status, count in counts.items()), err=True)
    return int(counts[conformance.FAILED] > 0)
