"""Runs of suites: plan suites, run them into run directories, write their reports."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from llmbench.contract.errors import UserError
from llmbench.execution.worker_calls import CAPTURE_ENVIRONMENT, LIST_DEVICES
from llmbench.report.write import render, report_of

if TYPE_CHECKING:
    from llmbench.analysis.lower_bounds import Prediction
    from llmbench.contract.cell import Cell
    from llmbench.contract.record import Ceilings, JsonObject
    from llmbench.execution.local import LocalExecutor
    from llmbench.execution.scheduler import RunContext
    from llmbench.plugins.registry import Registry
    from llmbench.records.read import Run
    from llmbench.records.run_dir import RunDir
    from llmbench.suite.plan import Plan

RESULTS = Path("results") / "local"
EXECUTORS = ("local", "ray")
START_METHODS = ("forkserver", "spawn")


@dataclass(frozen=True)
class RunOptions:
    """How suites are planned and run: the options of `llmbench run`. `again` says, in words, how to resume a run."""

    settings: tuple[str, ...] = ()
    expression: str | None = None
    plugin_files: tuple[str, ...] = ()
    fresh: bool = False
    retry_failed: bool = False
    timeout_s: float | None = None
    executor: str = "local"
    start_method: str = "forkserver"
    remedies: bool = False
    only: tuple[str, ...] = ()  # names of remedies that are tried whatever the verdict is
    quiet: bool = False
    again: str = "the same command"


def note(text: str) -> None:
    """Print a note on standard error."""
    click.echo(text, err=True)


def discover_noting(plugin_files: Sequence[str]) -> Registry:
    """Return the plugins; name on standard error those that cannot be loaded."""
    from llmbench.plugins.discovery import discover

    registry = discover(plugin_files, Path.cwd())
    for line in registry.notes():
        note(f"note: {line}")
    return registry


def plan_suite(suite: str, registry: Registry, settings: Sequence[str], expression: str | None) -> Plan:
    """Return the plan of a suite. Raises UserError for a mistake in it, and where nothing is left to run."""
    from llmbench.plugins.guard import keep_standard_output
    from llmbench.suite.file import load_suite
    from llmbench.suite.plan import plan_cells

    content = load_suite(suite, settings)
    with keep_standard_output():  # plugins look at their data
        plan = plan_cells(content, registry, keep=expression)
    if any(planned.cell.device == "auto" for planned in plan.cells):
        plan = plan_cells(content, registry, keep=expression, devices=_devices())
    if not plan.cells:
        raise UserError(f"suite {content.name!r} has no cells; remove an exclude, or give it an axis")
    return plan


def _devices() -> list[str]:
    """Return the devices of this machine; a process of its own looks, since looking loads torch."""
    with open_executor() as executor:
        return [device["device"] for device in executor.call(LIST_DEVICES)]


@contextlib.contextmanager
def open_executor() -> Iterator[LocalExecutor]:
    """Provide an executor for questions to this machine, outside of any run."""
    import tempfile

    from llmbench.execution.local import LocalExecutor

    with (
        tempfile.TemporaryDirectory(prefix="llmbench-") as folder,
        LocalExecutor(log_dir=Path(folder) / "logs", start_method="spawn") as executor,
    ):
        yield executor


def predict_costs(plans: Sequence[Plan], registry: Registry) -> dict[str, Prediction]:
    """Return cell id -> its least time and memory, from the ceilings in the cache."""
    from llmbench.analysis.lower_bounds import predictions
    from llmbench.contract.ceilings import precision_modes
    from llmbench.execution.calibration import latest

    modes = precision_modes(vars(provided.spec) for provided in registry.by_kind["precision"].values())
    latest_docs = {device: latest(device) for device in {one.cell.device for plan in plans for one in plan.cells}}
    docs = {
        device: cast("Ceilings", {**doc, "precisions": modes}) for device, doc in latest_docs.items() if doc is not None
    }
    return {name: cost for plan in plans for name, cost in predictions(plan, registry, docs).items()}


def run_suites(
    suites: Sequence[str], plans: Sequence[Plan], output: Path | None, registry: Registry, options: RunOptions
) -> tuple[list[Path], list[Run], bool]:
    """Run the plans of `suites`; return the run directories, the runs in them, and whether a cell failed."""
    folders = _folders(plans, output)
    any_failed, runs = False, []
    for name, plan, folder in zip(suites, plans, folders, strict=True):
        failed, run = _run_one(name, plan, folder, registry, options)
        any_failed |= failed
        runs.append(run)
    return folders, runs, any_failed


def check_executor(name: str) -> None:
    """Raise UserError for an executor that cannot be used."""
    if name == "ray":
        raise UserError("--executor ray is not available yet; write --executor local")


def _folders(plans: Sequence[Plan], output: Path | None) -> list[Path]:
    """Return a run directory per plan: `output`, or a folder in it where there are several plans."""
    names = [one.suite.name for one in plans]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"suite {min(twice)!r} is given twice; give it once, or run them apart, each with its own -o")
    if output is not None:
        return [output] if len(plans) == 1 else [output / name for name in names]
    return [RESULTS / name for name in names]


def _run_one(suite: str, plan: Plan, folder: Path, registry: Registry, options: RunOptions) -> tuple[bool, Run]:
    """Run one plan into `folder`; return whether a cell failed, and the run. After Ctrl-C a note says how to go on."""
    from llmbench.records.read import read_json, read_runs
    from llmbench.records.run_dir import RunDir

    command = reproduce(suite, options)
    with RunDir.open(folder, write=True) as run_dir:
        if options.fresh:
            run_dir.archive()
        run_dir.write_text("suite.yaml", plan.suite.to_yaml())
        known = read_json(folder / "commands.json") | {p.cell.cell_id: command for p in plan.cells}
        run_dir.write_json("commands.json", known)
        try:
            failed, better = _execute(plan, run_dir, registry, options)
            if better:
                more = _commands_of(suite, plan, better, registry, options)
                run_dir.write_json("commands.json", known | more)
        except KeyboardInterrupt:
            note(f"interrupted; what was measured is kept in {folder}; go on with: {options.again}")
            raise
        finally:
            if (folder / "records.jsonl").exists():
                (run,) = read_runs(folder)
                _write_reports(run, run_dir, registry)
    return failed, run


def _execute(plan: Plan, run_dir: RunDir, registry: Registry, options: RunOptions) -> tuple[bool, dict[str, Cell]]:
    """Run the cells with progress on standard error; return whether one failed, and what `--remedies` recommends."""
    from llmbench.execution import follow_up, remedy_search
    from llmbench.execution.local import LocalExecutor
    from llmbench.execution.progress import Progress
    from llmbench.execution.scheduler import RunContext, Schedule, pairs_left

    for name in options.only:
        registry.get("remedy", name)
    left = pairs_left(plan, run_dir, options.retry_failed)
    left = left or follow_up.repeats_left(plan, run_dir, registry, options.retry_failed)
    remedies = bool(options.remedies or options.only)
    with Progress(len(left), follow_up.count_first(left), quiet=options.quiet) as progress:
        executor = LocalExecutor(
            log_dir=run_dir.path / "logs",
            start_method=options.start_method,
            preload=_preload(plan, registry),
            timeout_s=options.timeout_s,
            on_event=progress.event,
        )
        context = RunContext(
            plan,
            run_dir,
            executor,
            registry,
            cwd_plugins=str(Path.cwd()),
            retry_failed=options.retry_failed,
            listener=progress,
        )
        runs_something = bool(left) or remedies
        with executor if runs_something else contextlib.nullcontext():  # nothing left: nothing of torch is needed
            if runs_something:
                context = _on_this_machine(context, executor, quiet=options.quiet)
            with Schedule(context).interruptible() as schedule:
                schedule.run_plan()
                follow_up.run(schedule)
                better = remedy_search.run(schedule, _ceilings_of(context), options.only) if remedies else {}
    return schedule.outcome.any_failed, better


def _on_this_machine(context: RunContext, executor: LocalExecutor, *, quiet: bool) -> RunContext:
    """Return `context` with this machine's environment and ceilings, which the run directory keeps."""
    from llmbench.records.read import read_json

    run_dir = context.run_dir
    environment = dict(executor.call(CAPTURE_ENVIRONMENT))
    name = environment["environment_id"]
    known = read_json(run_dir.path / "environment.json")
    run_dir.write_json("environment.json", {**known, name: environment})
    ceilings_ids = _ceilings(context.plan, run_dir, context.registry, executor, environment, quiet=quiet)
    return replace(context, environment_id=name, ceilings_ids=ceilings_ids)


def _ceilings_of(context: RunContext) -> dict[str, Ceilings]:
    """Return device -> its measured ceilings, as the run directory keeps them."""
    from llmbench.records.read import read_json

    documents = read_json(context.run_dir.path / "ceilings.json")
    return {device: documents.get(name, {}) for device, name in context.ceilings_ids.items()}


def _commands_of(
    suite: str, plan: Plan, better: Mapping[str, Cell], registry: Registry, options: RunOptions
) -> dict[str, str]:
    """Return, of the recommended cells, cell id -> the command line that plans it."""
    from llmbench.execution.remedy_search import settings_for

    def replan(more: Sequence[str]) -> Plan:
        return plan_suite(suite, registry, [*options.settings, *more], None)

    commands = {}
    by_id = {one.cell.cell_id: one.cell for one in plan.cells}
    for name, cell in better.items():
        settings = settings_for(by_id[name], cell, plan, replan)
        if settings is not None:
            more = replace(options, settings=(*options.settings, *settings))
            commands[cell.cell_id] = reproduce(suite, more)
    return commands


def _ceilings(
    plan: Plan,
    run_dir: RunDir,
    registry: Registry,
    executor: LocalExecutor,
    environment: JsonObject,
    *,
    quiet: bool,
) -> dict[str, str]:
    """Return device -> id of its ceilings, measured where the cache has none; the run directory keeps a copy."""
    from llmbench.contract.errors import Unsupported
    from llmbench.execution.calibration import ensure
    from llmbench.records.read import read_json

    say = (lambda text: None) if quiet else note
    precisions = [provided.spec for provided in registry.by_kind["precision"].values()]
    ids: dict[str, str] = {}
    for device in sorted({one.cell.device for one in plan.cells if one.obstacle is None}):
        try:
            doc = ensure(executor, environment, device, say, precisions=precisions)
        except Unsupported:
            continue  # its cells say so
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["unknown"])[0]
            note(f"note: the ceilings of {device} could not be measured, so nothing is held against them: {reason}")
            continue
        known = read_json(run_dir.path / "ceilings.json")
        run_dir.write_json("ceilings.json", {**known, doc["ceilings_id"]: doc})
        ids[device] = doc["ceilings_id"]
    return ids


def _preload(plan: Plan, registry: Registry) -> tuple[str, ...]:
    """Return the library modules that the models, their engines and the metrics of the plan's cells need."""
    from llmbench.contract.cell import is_scored

    cells = [planned.cell for planned in plan.cells if planned.obstacle is None]
    scored = {cell.task for cell in cells if is_scored(cell.stage, plan.suite.score)}
    specs: list[Any] = [registry.model(name, plan.weights) for name in {cell.model for cell in cells}]
    specs += [registry.get("engine", name) for name in {spec.engine for spec in specs}]
    specs += [metric for task in scored for metric in registry.metrics(registry.get("task", task))]
    return tuple(sorted({name for spec in specs for name in spec.preload}))


def reproduce(suite: str, options: RunOptions) -> str:
    """Return the command line that plans the same cells.

    Absolute paths, which would tell about this machine, become variables of the shell (`--set data="$data"`) or paths
    relative to the current folder.
    """
    words = ["llmbench", "run", shlex.quote(_portable(suite))]
    for setting in options.settings:
        key, _, value = setting.partition("=")
        words += ["--set", f'{key}="${key}"' if Path(value).is_absolute() else shlex.quote(setting)]
    for file in options.plugin_files:
        words += ["--plugin", shlex.quote(_portable(file))]
    return " ".join(words)


def _portable(name: str) -> str:
    path = Path(name)
    if not path.is_absolute():
        return name
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _write_reports(run: Run, run_dir: RunDir, registry: Registry) -> None:
    """Write report.md and report.html; name on standard error one whose plugin is missing or fails."""
    report = report_of([run], registry)
    for form, name in (("markdown", "report.md"), ("html", "report.html")):
        try:
            run_dir.write_text(name, render(report, form, registry).decode())
        except Exception as error:  # the run is done, and must not fail for its report
            note(f"note: {run_dir.path / name} was not written: {type(error).__name__}: {error}")
