"""The command line. Everything that is not needed for `--help` is imported where it is used."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from llmbench.errors import UserError

if TYPE_CHECKING:
    from llmbench.executors.local import LocalExecutor
    from llmbench.plan import Plan
    from llmbench.plugins import Registry
    from llmbench.report.cells import Run
    from llmbench.store import RunDir

RESULTS = Path("results") / "local"
FORMATS = ("terminal", "markdown", "csv", "json")

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
@click.option("--quiet", is_flag=True, help="Show no progress.")
def run(suites: tuple[str, ...], output: Path | None, **options: Any) -> int:
    """Plan and run SUITE (a shipped suite or a YAML file; default quick), and print where the time goes.

    An existing run directory is resumed: what is recorded is not run again.
    """
    if options["executor"] == "ray":
        raise UserError("--executor ray is not available yet; write --executor local")
    registry = _discover(options["plugin_files"])
    plans = [_plan(name, registry, options["settings"], options["expression"]) for name in suites or ("quick",)]
    if options["dry_run"]:
        _print_plans(plans, as_json=options["as_json"])
        return 0
    folders = _folders(plans, output)
    any_failed, runs = False, []
    for name, one, folder in zip(suites or ("quick",), plans, folders, strict=True):
        failed, done = _run_one(one, folder, registry, options, _command(name, options))
        any_failed |= failed
        runs.append(done)
    _print_runs(runs, "json" if options["as_json"] else "terminal")
    if not options["as_json"]:
        for folder in folders:
            click.echo(f"{folder}: records.jsonl, report.md", err=True)
    return int(any_failed)


def _folders(plans: Sequence[Plan], output: Path | None) -> list[Path]:
    """Return a run directory per plan: `output`, or a folder in it where there are several plans."""
    names = [one.suite.name for one in plans]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"suite {min(twice)!r} is given twice; give it once, or run them apart, each with its own -o")
    if output is not None:
        return [output] if len(plans) == 1 else [output / name for name in names]
    return [RESULTS / name for name in names]


def _run_one(plan: Plan, folder: Path, registry: Registry, options: dict[str, Any], command: str) -> tuple[bool, Run]:
    """Run one plan into `folder`; return whether a cell failed, and what is recorded. Ctrl-C says how to go on."""
    from llmbench.report.markdown import document
    from llmbench.store import RunDir

    with RunDir.open(folder, write=True) as run_dir:
        if options["fresh"]:
            run_dir.archive()
        run_dir.write_text("suite.yaml", plan.suite.to_yaml())
        known = _read_json(folder / "commands.json")
        run_dir.write_json("commands.json", known | {p.cell.cell_id: command for p in plan.cells})
        try:
            failed = _execute(plan, run_dir, registry, options)
        except KeyboardInterrupt:
            go_on = "llmbench " + shlex.join(word for word in sys.argv[1:] if word != "--fresh")
            click.echo(f"interrupted; what was measured is kept in {folder}; go on with: {go_on}", err=True)
            raise
        finally:
            if (folder / "records.jsonl").exists():
                done = read_run(folder)
                run_dir.write_text("report.md", document([done]))
    return failed, done


def _execute(plan: Plan, run_dir: RunDir, registry: Registry, options: dict[str, Any]) -> bool:
    """Run the cells with progress on standard error; return whether one failed."""
    from llmbench.executors.local import LocalExecutor
    from llmbench.executors.runner import pairs_left, run_plan
    from llmbench.progress import Progress

    left = pairs_left(plan, run_dir, options["retry_failed"])
    quiet = options["quiet"] or options["as_json"]
    with Progress(len(left), quiet=quiet) as progress:
        executor = LocalExecutor(
            log_dir=run_dir.path / "logs",
            start_method=options["start_method"],
            preload=_preload(plan, registry),
            timeout_s=options["timeout_s"],
            on_event=progress.event,
        )
        identity, ceilings_ids = None, {}
        with executor if left else contextlib.nullcontext():  # nothing left: nothing of torch is needed
            if left:
                environment = dict(executor.call("llmbench.worker.environment:capture"))
                identity = environment["environment_id"]
                known = _read_json(run_dir.path / "environment.json")
                run_dir.write_json("environment.json", {**known, identity: environment})
                ceilings_ids = _ceilings(plan, run_dir, registry, executor, environment, quiet=quiet)
            outcome = run_plan(
                plan,
                run_dir,
                executor,
                retry_failed=options["retry_failed"],
                plugin_files=registry.files,
                cwd_plugins=str(Path.cwd()),
                environment_id=identity,
                ceilings_ids=ceilings_ids,
                on_record=progress.record,
                on_start=progress.start,
                on_left=progress.left,
            )
    return outcome.failed


def _ceilings(
    plan: Plan,
    run_dir: RunDir,
    registry: Registry,
    executor: LocalExecutor,
    environment: dict[str, Any],
    *,
    quiet: bool,
) -> dict[str, str]:
    """Return device -> id of its ceilings, measured where this machine is new; the run directory keeps a copy."""
    from llmbench.calibration import ensure
    from llmbench.errors import Unsupported

    def note(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    precisions = [provided.spec for provided in registry.by_kind["precision"].values()]
    found: dict[str, str] = {}
    for device in sorted({one.cell.device for one in plan.cells if one.blocked is None}):
        try:
            doc = ensure(executor, environment, device, note, precisions=precisions)
        except Unsupported:
            continue  # its cells say so
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["unknown"])[0]
            click.echo(
                f"note: the ceilings of {device} could not be measured, so nothing is held against them: {reason}",
                err=True,
            )
            continue
        known = _read_json(run_dir.path / "ceilings.json")
        run_dir.write_json("ceilings.json", {**known, doc["ceilings_id"]: doc})
        found[device] = doc["ceilings_id"]
    return found


def _preload(plan: Plan, registry: Registry) -> tuple[str, ...]:
    models = sorted({planned.cell.model for planned in plan.cells if planned.blocked is None})
    return tuple(dict.fromkeys(name for model in models for name in registry.get("model", model).preload))


def _command(suite: str, options: dict[str, Any]) -> str:
    """Return the command line that plans the same cells; absolute paths, which would tell about this machine, become
    variables of the shell (`--set data="$data"`) or paths relative to the current folder."""
    words = ["llmbench", "run", shlex.quote(_portable(suite))]
    for setting in options["settings"]:
        key, _, value = setting.partition("=")
        words += ["--set", f'{key}="${key}"' if Path(value).is_absolute() else shlex.quote(setting)]
    for file in options["plugin_files"]:
        words += ["--plugin", shlex.quote(_portable(file))]
    return " ".join(words)


def _portable(name: str) -> str:
    path = Path(name)
    if not path.is_absolute():
        return name
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


@cli.command()
@click.argument("suite", default="quick", metavar="[SUITE]")
@_set
@_keep
@_plugin
@_json
def plan(
    suite: str, settings: tuple[str, ...], expression: str | None, plugin_files: tuple[str, ...], as_json: bool
) -> int:
    """Print the cells of SUITE in order, what each starts from, and why one cannot run."""
    _print_plans([_plan(suite, _discover(plugin_files), settings, expression)], as_json=as_json)
    return 0


@cli.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--format", "form", type=click.Choice(FORMATS), default="terminal", show_default=True)
@click.option("-o", "output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
def report(runs: tuple[str, ...], form: str, output: Path | None) -> int:
    """Print the tables of one or many run directories."""
    found = [read_run(Path(name)) for name in runs]
    if output is None:
        _print_runs(found, form)
        return 0
    try:
        with output.open("w", encoding="utf-8") as stream:
            _print_runs(found, form, stream)
    except OSError as error:
        raise UserError(f"-o {output}: cannot be written ({error.strerror}); give another file") from None
    click.echo(f"{output}: written", err=True)
    return 0


def read_run(folder: Path) -> Run:
    """Read a run directory for a report. Raises RunDirError when it is not one."""
    from llmbench.report.cells import Run
    from llmbench.store import RunDir

    with RunDir.open(folder, write=False) as run_dir:
        records = run_dir.records()
    environments, ceilings = _read_json(folder / "environment.json"), _read_json(folder / "ceilings.json")
    commands = _read_json(folder / "commands.json")
    return Run(folder.resolve().name, records, environments, ceilings, commands)


def _read_json(path: Path) -> dict[str, Any]:
    import json

    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); remove it, or restore it") from None
    return value if isinstance(value, dict) else {}


def _print_runs(runs: Sequence[Run], form: str, stream: TextIO | None = None) -> None:
    from llmbench.report import csv, json, markdown, tables, terminal

    stream = stream or sys.stdout
    if form == "terminal":
        for one in runs:
            terminal.render(tables.run_tables(one), stream)
        return
    render = {"markdown": markdown.document, "csv": csv.document, "json": json.render}[form]
    stream.write(render(runs).rstrip("\n") + "\n")


def _print_plans(plans: Sequence[Plan], *, as_json: bool) -> None:
    from llmbench.report import terminal
    from llmbench.report.inventory import plan_document, plan_table

    if as_json:
        import json

        click.echo(json.dumps(plan_document(plans), indent=1))
        return
    terminal.render([plan_table(one) for one in plans])


@cli.group()
def plugins() -> None:
    """What is installed, who owns it, and what can be added."""


@plugins.command("list")
@_plugin
@_json
def plugins_list(plugin_files: tuple[str, ...], as_json: bool) -> int:
    """Print every plugin: name, kind, owner, version and what it supports. Broken ones come with their error."""
    import json

    from llmbench.plugins import discover
    from llmbench.report import inventory, terminal

    registry = discover(plugin_files, Path.cwd())
    if as_json:
        click.echo(json.dumps(inventory.plugin_document(registry), indent=1))
    else:
        terminal.render(inventory.plugin_tables(registry))
    return 0


@plugins.command("info")
@click.argument("name")
@_plugin
def plugins_info(name: str, plugin_files: tuple[str, ...]) -> int:
    """Print everything the plugin NAME says about itself."""
    from llmbench.errors import PluginError, did_you_mean
    from llmbench.plugins import discover
    from llmbench.report import inventory, terminal

    registry = discover(plugin_files, Path.cwd())
    kinds = [kind for kind, by_name in registry.by_kind.items() if name in by_name]
    if not kinds:
        names = [known for by_name in registry.by_kind.values() for known in by_name]
        raise PluginError(f"unknown plugin {name!r}{did_you_mean(name, names)}")
    terminal.render([inventory.plugin_details(registry, kind, name) for kind in kinds])
    return 0


@plugins.command("hooks")
def plugins_hooks() -> int:
    """Print the hooks, each with a complete plugin to copy."""
    import inspect

    from llmbench import hookspecs
    from llmbench.plugins import KINDS

    for kind, (hook, spec_type) in KINDS.items():
        click.echo(f"{hook}() -> Iterable[{spec_type.__name__}]    # {kind}\n")
        click.echo(f"{inspect.getdoc(getattr(hookspecs, hook))}\n\n")
    return 0


@cli.command()
@_json
def doctor(as_json: bool) -> int:
    """Print what of this machine can be used, and what is missing. Exit 1 when nothing could run."""
    import json
    import tempfile

    from llmbench.executors.local import LocalExecutor
    from llmbench.plugins import discover
    from llmbench.report import inventory, terminal

    registry = discover((), Path.cwd())
    problems = [f"plugin {broken.owner} does not load: {broken.error}" for broken in registry.broken]
    problems += [registry.clash_message(kind, name) for kind, name in registry.clashes]
    environment: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="llmbench-") as folder:
        try:
            with LocalExecutor(log_dir=Path(folder) / "logs", start_method="spawn") as executor:
                environment = dict(executor.call("llmbench.worker.environment:capture"))
        except (RuntimeError, UserError) as error:
            problems.append(f"no process can look at this machine: {(str(error).splitlines() or ['unknown'])[-1]}")
    packages = environment.get("packages", {})
    problems += [
        f"{name} is missing; install it with: pip install {name}" for name, found in packages.items() if not found
    ]
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
    import tempfile

    from llmbench.calibration import ensure
    from llmbench.ceilings import best_device
    from llmbench.errors import Unsupported
    from llmbench.executors.local import LocalExecutor
    from llmbench.report import terminal
    from llmbench.report.ceilings import ceilings_tables
    from llmbench.store import dump_json

    def note(text: str) -> None:
        click.echo(text, err=True)

    precisions = [provided.spec for provided in _discover(()).by_kind["precision"].values()]
    with (
        tempfile.TemporaryDirectory(prefix="llmbench-") as folder,
        LocalExecutor(log_dir=Path(folder) / "logs", start_method="spawn") as executor,
    ):
        environment = dict(executor.call("llmbench.worker.environment:capture"))
        chosen = best_device(environment) if device == "auto" else device
        try:
            doc = ensure(executor, environment, chosen, note, precisions=precisions, fresh=fresh)
        except Unsupported as error:
            raise UserError(f"--device {device}: {error}") from None
    if as_json:
        click.echo(dump_json(doc, indent=1))
    else:
        terminal.render(ceilings_tables(doc))
    return 0


def _discover(plugin_files: Sequence[str]) -> Registry:
    """Find the plugins; say on standard error which could not be loaded, and go on with the others."""
    from llmbench.plugins import discover

    registry = discover(plugin_files, Path.cwd())
    for broken in registry.broken:
        click.echo(f"note: plugin {broken.owner} ({broken.owner.origin}) is left out: {broken.error}", err=True)
    registry.check_clashes()
    return registry


def _plan(suite: str, registry: Registry, settings: Sequence[str], expression: str | None) -> Plan:
    from llmbench.plan import plan_cells
    from llmbench.suite import load_suite

    loaded = load_suite(suite, settings)
    planned = plan_cells(loaded, registry, keep=expression)
    if any(one.cell.device == "auto" for one in planned.cells):
        planned = plan_cells(loaded, registry, keep=expression, devices=_devices())
    if not planned.cells:
        raise UserError(f"suite {loaded.name!r} has no cells; remove an exclude, or give it an axis")
    return planned


def _devices() -> list[str]:
    """Return the devices of this machine, asked in a process of its own: looking loads torch."""
    import tempfile

    from llmbench.executors.local import LocalExecutor

    with (
        tempfile.TemporaryDirectory(prefix="llmbench-") as folder,
        LocalExecutor(log_dir=Path(folder) / "logs", start_method="spawn") as executor,
    ):
        return [device["device"] for device in executor.call("llmbench.worker.environment:devices")]
