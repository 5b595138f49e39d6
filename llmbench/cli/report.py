"""`llmbench report`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmbench.api.runs import discover_noting
from llmbench.cli.options import plugin_option
from llmbench.contract.errors import UserError

if TYPE_CHECKING:
    from llmbench.plugins.registry import Registry
    from llmbench.records.read import Run


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--format",
    "form",
    default="terminal",
    show_default=True,
    metavar="NAME",
    help="terminal, brief, markdown, summary, html, latex, csv, json, parquet, or what a plugin brings.",
)
@click.option("-o", "output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@click.option("--baseline", metavar="RUN", help="The run that the others are compared with (default: the first).")
@plugin_option
def report_command(
    runs: tuple[str, ...], form: str, output: Path | None, baseline: str | None, plugin_files: tuple[str, ...]
) -> int:
    """Print the tables of one or many runs: run directories, bundles, or folders of them such as results/.

    Several runs are put side by side.
    """
    with _no_collector():
        return _report(runs, form, output, baseline, discover_noting(plugin_files))


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Switch the garbage collector off: it would go through all records again and again, and they have no cycles."""
    import gc

    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _report(runs: Sequence[str], form: str, output: Path | None, baseline: str | None, registry: Registry) -> int:
    from llmbench.records.read import guard_bundles, read_all
    from llmbench.report.write import render_runs

    registry.get("reporter", form)  # an unknown name is an error before anything is read
    recorded = read_all([Path(name) for name in runs], stored=True)
    if output is None:
        with guard_bundles(recorded):
            print_runs(recorded, form, registry, baseline)
        return 0
    with guard_bundles(recorded):
        document = render_runs(recorded, form, registry, baseline)
    try:
        output.write_bytes(document)
    except OSError as error:
        raise UserError(f"-o {output}: cannot be written ({error.strerror}); give another file") from None
    click.echo(f"{output}: written", err=True)
    return 0


def print_runs(runs: Sequence[Run], form: str, registry: Registry, baseline: str | None = None) -> None:
    """Print the report of `runs`. Raises UserError where a terminal would get a document that is no text."""
    from llmbench.report.write import render_runs

    document = render_runs(runs, form, registry, baseline)
    sys.stdout.flush()
    if b"\0" in document and sys.stdout.isatty():
        raise UserError(f"--format {form} is no text; write it to a file with -o FILE")
    click.echo(document, nl=False)
