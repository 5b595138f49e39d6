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

from llmbench.comparing import compare
from llmbench.diagnosing import diagnose
from llmbench.errors import UserError
from llmbench.exporting import export
from llmbench.planted.command import planted

if TYPE_CHECKING:
    from llmbench.executors.local import LocalExecutor
    from llmbench.executors.runner import Rounds
    from llmbench.plan import Plan
    from llmbench.plugins import Registry
    from llmbench.report.document import Report
    from llmbench.schema import Cell
    from llmbench.sources import Run
    from llmbench.store import RunDir

RESULTS = Path("results") / "local"

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
    if options["executor"] == "ray":
        raise UserError("--executor ray is not available yet; write --executor local")
    registry = _discover(options["plugin_files"])
    plans = [_plan(name, registry, options["settings"], options["expression"]) for name in suites or ("quick",)]
    if options["dry_run"]:
        _print_plans(plans, registry, as_json=options["as_json"])
        return 0
    folders = _folders(plans, output)
    any_failed, runs = False, []
    for name, one, folder in zip(suites or ("quick",), plans, folders, strict=True):
        failed, done = _run_one(one, folder, registry, options | {"suite": name}, _command(name, options))
        any_failed |= failed
        runs.append(done)
    _print_runs(runs, "json" if options["as_json"] else "terminal", registry)
    if not options["as_json"]:
        for folder in folders:
            click.echo(f"{folder}: records.jsonl, report.md, report.html", err=True)
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
    from llmbench.sources import read_json, read_runs
    from llmbench.store import RunDir

    with RunDir.open(folder, write=True) as run_dir:
        if options["fresh"]:
            run_dir.archive()
        run_dir.write_text("suite.yaml", plan.suite.to_yaml())
        known = read_json(folder / "commands.json") | {p.cell.cell_id: command for p in plan.cells}
        run_dir.write_json("commands.json", known)
        try:
            failed, better = _execute(plan, run_dir, registry, options)
            if better:
                run_dir.write_json("commands.json", known | _recommended(command, plan, better, registry, options))
        except KeyboardInterrupt:
            go_on = "llmbench " + shlex.join(word for word in sys.argv[1:] if word != "--fresh")
            click.echo(f"interrupted; what was measured is kept in {folder}; go on with: {go_on}", err=True)
            raise
        finally:
            if (folder / "records.jsonl").exists():
                (done,) = read_runs(folder)
                _write_reports(done, run_dir, registry)
    return failed, done


def _execute(plan: Plan, run_dir: RunDir, registry: Registry, options: dict[str, Any]) -> tuple[bool, dict[str, Cell]]:
    """Run the cells with progress on standard error; return whether one failed, and what `--remedies` recommends."""
    from llmbench.executors.local import LocalExecutor
    from llmbench.executors.remedies import Settings, try_remedies
    from llmbench.executors.runner import pairs_left, run_plan
    from llmbench.progress import Progress
    from llmbench.sources import read_json

    left = pairs_left(plan, run_dir, options["retry_failed"])
    remedies = bool(options["remedies"] or options["only"])
    for name in options["only"]:
        registry.get("remedy", name)
    better: dict[str, Cell] = {}
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
        some = bool(left) or remedies
        with executor if some else contextlib.nullcontext():  # nothing left: nothing of torch is needed
            if some:
                environment = dict(executor.call("llmbench.worker.environment:capture"))
                identity = environment["environment_id"]
                known = read_json(run_dir.path / "environment.json")
                run_dir.write_json("environment.json", {**known, identity: environment})
                ceilings_ids = _ceilings(plan, run_dir, registry, executor, environment, quiet=quiet)

            def then(rounds: Rounds) -> None:
                documents = read_json(run_dir.path / "ceilings.json")
                ceilings = {device: documents.get(name, {}) for device, name in ceilings_ids.items()}
                settings = Settings(ceilings, options["only"], progress.left)
                better.update(try_remedies(rounds, plan, registry, settings))

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
                then=then if remedies else None,
            )
    return outcome.failed, better


def _recommended(
    command: str, plan: Plan, better: dict[str, Cell], registry: Registry, options: dict[str, Any]
) -> dict[str, str]:
    """Return cell id -> the command line that plans it, of the recommended cells."""
    from llmbench.executors.remedies import settings_for

    def replan(more: Sequence[str]) -> Plan:
        return _plan(options["suite"], registry, [*options["settings"], *more], None)

    commands = {}
    by_id = {one.cell.cell_id: one.cell for one in plan.cells}
    for name, cell in better.items():
        settings = settings_for(by_id[name], cell, plan, replan)
        if settings is not None:
            commands[cell.cell_id] = " ".join([command, *(f"--set {shlex.quote(text)}" for text in settings)])
    return commands


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
    from llmbench.sources import read_json

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
        known = read_json(run_dir.path / "ceilings.json")
        run_dir.write_json("ceilings.json", {**known, doc["ceilings_id"]: doc})
        found[device] = doc["ceilings_id"]
    return found


def _preload(plan: Plan, registry: Registry) -> tuple[str, ...]:
    """Return the library modules that the models and the metrics of the plan's cells need."""
    cells = [planned.cell for planned in plan.cells if planned.blocked is None]
    scored = {cell.task for cell in cells if cell.stage != "finetune"}
    specs = [registry.model(name, plan.weights) for name in {cell.model for cell in cells}]
    specs += [registry.get("metric", name) for task in scored for name in registry.get("task", task).metrics]
    return tuple(sorted({name for spec in specs for name in spec.preload}))


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
    """Print the cells of SUITE in order, what each starts from, the least time and memory, and why one cannot run.

    Times are predicted from the machine's ceilings, where `llmbench calibrate` or a run has measured them before.
    """
    registry = _discover(plugin_files)
    _print_plans([_plan(suite, registry, settings, expression)], registry, as_json=as_json)
    return 0


@cli.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--format",
    "form",
    default="terminal",
    show_default=True,
    metavar="NAME",
    help="terminal, markdown, html, latex, csv, json, parquet, or what a plugin brings.",
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
        return _report(runs, form, output, baseline, _discover(plugin_files))


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
    from llmbench.sources import guarded, read_all

    registry.get("reporter", form)  # an unknown name is told before anything is read
    found = read_all([Path(name) for name in runs], compact=True)
    if output is None:
        with guarded(found):
            _print_runs(found, form, registry, baseline)
        return 0
    with guarded(found):
        document = _rendered(found, form, registry, baseline)
    try:
        output.write_bytes(document)
    except OSError as error:
        raise UserError(f"-o {output}: cannot be written ({error.strerror}); give another file") from None
    click.echo(f"{output}: written", err=True)
    return 0


def _print_runs(runs: Sequence[Run], form: str, registry: Registry, baseline: str | None = None) -> None:
    """Print the report of `runs`. Raises UserError rather than send what is no text to a terminal."""
    document = _rendered(runs, form, registry, baseline)
    sys.stdout.flush()
    if b"\0" in document and sys.stdout.isatty():
        raise UserError(f"--format {form} is no text; write it to a file with -o FILE")
    click.echo(document, nl=False)


def _rendered(runs: Sequence[Run], form: str, registry: Registry, baseline: str | None = None) -> bytes:
    """Return the report of `runs` as bytes; a text ends with its line."""
    from llmbench.errors import did_you_mean
    from llmbench.report import Report

    names = [run.name for run in runs]
    if baseline is not None and baseline not in names:
        known = ", ".join(names)
        raise UserError(f"--baseline {baseline}: no such run{did_you_mean(baseline, names)}; write one of: {known}")
    return _render(Report(runs, baseline=baseline, descriptions=_causes(registry)), form, registry)


def _render(report: Report, form: str, registry: Registry) -> bytes:
    document = registry.get("reporter", form).render(report)
    return document if isinstance(document, bytes) else (document.rstrip("\n") + "\n").encode()


def _causes(registry: Registry) -> dict[str, str]:
    """Return what each cause is, in a few words."""
    return {name: provided.spec.description for name, provided in registry.by_kind["cause"].items()}


def _write_reports(run: Run, run_dir: RunDir, registry: Registry) -> None:
    """Write report.md and report.html; one whose plugin is missing or fails is said on standard error."""
    from llmbench.report import Report

    report = Report([run], descriptions=_causes(registry))
    for form, name in (("markdown", "report.md"), ("html", "report.html")):
        try:
            run_dir.write_text(name, _render(report, form, registry).decode())
        except Exception as error:  # the run is done, and must not fail for its report
            click.echo(f"note: {run_dir.path / name} was not written: {type(error).__name__}: {error}", err=True)


def _print_plans(plans: Sequence[Plan], registry: Registry, *, as_json: bool) -> None:
    from llmbench.calibration import latest
    from llmbench.ceilings import precision_modes
    from llmbench.predict import predictions
    from llmbench.report import terminal
    from llmbench.report.inventory import plan_document, plan_table

    modes = precision_modes(vars(provided.spec) for provided in registry.by_kind["precision"].values())
    kept = {device: latest(device) for device in {one.cell.device for plan in plans for one in plan.cells}}
    docs = {device: {**doc, "precisions": modes} for device, doc in kept.items() if doc is not None}
    predicted = {name: one for plan in plans for name, one in predictions(plan, registry, docs).items()}

    if as_json:
        import json

        click.echo(json.dumps(plan_document(plans, predicted), indent=1))
        return
    terminal.render([plan_table(one, predicted) for one in plans])


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
