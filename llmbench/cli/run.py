"""`llmbench run` and `llmbench plan`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmbench.api import runs
from llmbench.cli.options import json_option, keep_option, plugin_option, set_option
from llmbench.cli.report import print_runs

if TYPE_CHECKING:
    from llmbench.plugins.registry import Registry
    from llmbench.suite.plan import Plan


@click.command("run")
@click.argument("suites", nargs=-1, metavar="[SUITE]...")
@click.option("-o", "output", type=click.Path(path_type=Path), help="Run directory (default results/local/SUITE).")
@set_option
@keep_option
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--fresh", is_flag=True, help="Put away what is recorded, and start again.")
@click.option("--retry-failed", is_flag=True, help="Try cells again that failed before.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), help="Seconds per cell.")
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--start-method", type=click.Choice(["forkserver", "spawn"]), default="forkserver", show_default=True)
@plugin_option
@json_option
@click.option("--remedies", is_flag=True, help="Then try changes that answer each verdict, and recommend some.")
@click.option("--remedy", "only", multiple=True, metavar="NAME", help="Try this one whatever the verdict is.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def run_command(suites: tuple[str, ...], output: Path | None, **options: Any) -> int:
    """Plan and run SUITE (a shipped suite or a YAML file; default quick), and print where the time goes.

    An existing run directory is resumed: what is recorded is not run again.
    """
    as_json = options.pop("as_json")
    dry_run = options.pop("dry_run")
    options["quiet"] |= as_json
    go_on = "llmbench " + shlex.join(word for word in sys.argv[1:] if word != "--fresh")
    chosen = runs.RunOptions(**options, again=go_on)
    runs.check_executor(chosen.executor)
    registry = runs.discover_noting(chosen.plugin_files)
    names = suites or ("quick",)
    plans = [runs.plan_suite(name, registry, chosen.settings, chosen.expression) for name in names]
    if dry_run:
        print_plans(plans, registry, as_json=as_json)
        return 0
    folders, recorded, failed = runs.run_suites(names, plans, output, registry, chosen)
    print_runs(recorded, "json" if as_json else "brief", registry)
    if not as_json:
        for folder in folders:
            click.echo(f"{folder}: records.jsonl, report.md, report.html", err=True)
    return int(failed)


@click.command("plan")
@click.argument("suite", default="quick", metavar="[SUITE]")
@set_option
@keep_option
@plugin_option
@json_option
def plan_command(
    suite: str, settings: tuple[str, ...], expression: str | None, plugin_files: tuple[str, ...], as_json: bool
) -> int:
    """Print the cells of SUITE in order, what each starts from, the least time and memory, and why one cannot run.

    Times are predicted from the machine's ceilings, where `llmbench calibrate` or a run has measured them before.
    """
    registry = runs.discover_noting(plugin_files)
    print_plans([runs.plan_suite(suite, registry, settings, expression)], registry, as_json=as_json)
    return 0


def print_plans(plans: Sequence[Plan], registry: Registry, *, as_json: bool) -> None:
    """Print plans as tables, or as one JSON document."""
    from llmbench.report.formats import terminal
    from llmbench.report.tables.inventory import plan_document, plan_table

    costs = runs.predict_costs(plans, registry)
    if as_json:
        import json

        click.echo(json.dumps(plan_document(plans, costs), indent=1))
        return
    terminal.render([plan_table(plan, costs) for plan in plans])
