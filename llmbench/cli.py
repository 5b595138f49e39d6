"""The command line. Everything that is not needed for `--help` is imported where it is used."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from llmbench import running
from llmbench.authoring import plugins
from llmbench.comparing import compare
from llmbench.contract.errors import UserError
from llmbench.diagnosing import diagnose
from llmbench.exporting import export
from llmbench.planted.command import planted
from llmbench.report import write

if TYPE_CHECKING:
    from llmbench.plugins.registry import Registry
    from llmbench.records.read import Run
    from llmbench.suite.plan import Plan

_plugin = click.option("--plugin", "plugin_files", multiple=True, metavar="FILE", help="Load a plugin file too.")
_set = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a value of the suite.")
_keep = click.option("-k", "expression", metavar="EXPR", help="Only cells that match, such as 'gpt and not eval'.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 a cell failed, 2 the input is wrong, 130 interrupted."""
    try:
        code = cli.main(args=None if argv is None else list(argv), prog_name="llmbench", standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = f" (see '{context.command_path} --help')" if context else ""
        click.echo(f"error: {' '.join(error.format_message().split())}{where}", err=True)
        code = 2
    except UserError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:  # the reader of standard output has gone, as in `llmbench report ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        import llmbench

        click.echo(f"llmbench {llmbench.__version__}")
        ctx.exit(0)


@click.group(invoke_without_command=True)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Measure language models, and find what their time goes into."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


cli.add_command(diagnose)
cli.add_command(compare)
cli.add_command(export)
cli.add_command(planted)
cli.add_command(plugins)


@cli.command()
@click.argument("suites", nargs=-1, metavar="[SUITE]...")
@click.option("-o", "output", type=click.Path(path_type=Path), help="Run directory (default results/local/SUITE).")
@_set
@_keep
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--fresh", is_flag=True, help="Put away what is recorded, and start again.")
@click.option("--retry-failed", is_flag=True, help="Try cells again that failed before.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), help="Seconds per cell.")
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--start-method", type=click.Choice(["forkserver", "spawn"]), default="forkserver", show_default=True)
@_plugin
@_json
@click.option("--remedies", is_flag=True, help="Then try changes that answer each verdict, and recommend some.")
@click.option("--remedy", "only", multiple=True, metavar="NAME", help="Try this one whatever the verdict is.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def run(suites: tuple[str, ...], output: Path | None, **options: Any) -> int:
    """Plan and run SUITE (a shipped suite or a YAML file; default quick), and print where the time goes.

    An existing run directory is resumed: what is recorded is not run again.
    """
    as_json = options.pop("as_json")
    dry_run = options.pop("dry_run")
    options["quiet"] |= as_json
    go_on = "llmbench " + shlex.join(word for word in sys.argv[1:] if word != "--fresh")
    chosen = running.RunOptions(**options, again=go_on)
    running.check_executor(chosen.executor)
    registry = running.discover_noting(chosen.plugin_files)
    names = suites or ("quick",)
    plans = [running.plan_suite(name, registry, chosen.settings, chosen.expression) for name in names]
    if dry_run:
        _print_plans(plans, registry, as_json=as_json)
        return 0
    folders, runs, failed = running.run_suites(names, plans, output, registry, chosen)
    _print_runs(runs, "json" if as_json else "brief", registry)
    if not as_json:
        for folder in folders:
            click.echo(f"{folder}: records.jsonl, report.md, report.html", err=True)
    return int(failed)


@cli.command()
@click.argument("suite", default="quick", metavar="[SUITE]")
@_set
@_keep
@_plugin
@_json
def plan(
    suite: str, settings: tuple[str, ...], expression: str | None, plugin_files: tuple[str, ...], as_json: bool
) -> int:
    """Print the cells of SUITE in order, what each starts from, the least time and memory, and why one cannot run.

    Times are predicted from the machine's ceilings, where `llmbench calibrate` or a run has measured them before.
    """
    registry = running.discover_noting(plugin_files)
    _print_plans([running.plan_suite(suite, registry, settings, expression)], registry, as_json=as_json)
    return 0


@cli.command()
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
@click.option("--baseline", metavar="RUN", help="Of several runs, the one that others are held against (the first).")
@_plugin
def report(
    runs: tuple[str, ...], form: str, output: Path | None, baseline: str | None, plugin_files: tuple[str, ...]
) -> int:
    """Print the tables of one or many runs: run directories, bundles, or folders of them such as results/.

    Several runs are put side by side.
    """
    with _no_collector():
        return _report(runs, form, output, baseline, running.discover_noting(plugin_files))


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the garbage collector from going through a hundred thousand records again and again: they have no cycles."""
    import gc

    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _report(runs: Sequence[str], form: str, output: Path | None, baseline: str | None, registry: Registry) -> int:
    from llmbench.records.read import guarded, read_all

    registry.get("reporter", form)  # an unknown name is told before anything is read
    found = read_all([Path(name) for name in runs], stored=True)
    if output is None:
        with guarded(found):
            _print_runs(found, form, registry, baseline)
        return 0
    with guarded(found):
        document = write.rendered(found, form, registry, baseline)
    try:
        output.write_bytes(document)
    except OSError as error:
        raise UserError(f"-o {output}: cannot be written ({error.strerror}); give another file") from None
    click.echo(f"{output}: written", err=True)
    return 0


def _print_runs(runs: Sequence[Run], form: str, registry: Registry, baseline: str | None = None) -> None:
    """Print the report of `runs`. Raises UserError rather than send what is no text to a terminal."""
    document = write.rendered(runs, form, registry, baseline)
    sys.stdout.flush()
    if b"\0" in document and sys.stdout.isatty():
        raise UserError(f"--format {form} is no text; write it to a file with -o FILE")
    click.echo(document, nl=False)


def _print_plans(plans: Sequence[Plan], registry: Registry, *, as_json: bool) -> None:
    from llmbench.report.formats import terminal
    from llmbench.report.tables.inventory import plan_document, plan_table

    predicted = running.predicted(plans, registry)
    if as_json:
        import json

        click.echo(json.dumps(plan_document(plans, predicted), indent=1))
        return
    terminal.render([plan_table(one, predicted) for one in plans])


@cli.command()
@click.argument("name", type=click.Choice(["suite", "record"]))
def schema(name: str) -> int:
    """Print the JSON Schema of a suite file (for editors) or of a record."""
    from importlib.resources import files

    click.echo(files("llmbench").joinpath("schemas", f"{name}.schema.json").read_text(encoding="utf-8"), nl=False)
    return 0


@cli.command()
@_json
def doctor(as_json: bool) -> int:
    """Print what of this machine can be used, and what is missing. Exit 1 when nothing could run."""
    import json

    from llmbench.machine import examine
    from llmbench.report.formats import terminal
    from llmbench.report.tables import inventory

    environment, problems = examine()
    if as_json:
        click.echo(json.dumps({"environment": environment, "problems": problems}, indent=1))
    else:
        terminal.render([inventory.machine_table(environment, problems or ["nothing is missing"])])
    return 0 if environment else 1


@cli.command()
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps, or auto: the best there is.")
@click.option("--fresh", is_flag=True, help="Measure again, whatever is kept.")
@_json
def calibrate(device: str, fresh: bool, as_json: bool) -> int:
    """Measure what this machine can do at best: its ceilings, which are kept for the runs that follow."""
    from llmbench.machine import ceilings_of
    from llmbench.records.json_lines import dump_json
    from llmbench.report.formats import terminal
    from llmbench.report.tables.ceilings import ceilings_tables

    doc = ceilings_of(device, fresh=fresh, say=running.note)
    if as_json:
        click.echo(dump_json(doc, indent=1))
    else:
        terminal.render(ceilings_tables(doc))
    return 0
