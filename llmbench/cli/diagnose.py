"""`llmbench diagnose`: the verified bottleneck of the user's own model and data loader."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from llmbench.api.options import check_budget
from llmbench.cli.options import json_option, plugin_option

SLACK_S = 300.0  # added to the budget as the time limit of the process: a model may take long to load


@click.command("diagnose")
@click.argument("target", metavar="TARGET")
@click.option(
    "--budget", "budget_s", type=float, default=60.0, show_default=True, help="Seconds of wall time, all in all."
)
@click.option(
    "--verify",
    "mode",
    type=click.Choice(("verdict", "all")),
    default="verdict",
    show_default=True,
    help="Which causes are removed and measured: the leading suspects, or all.",
)
@plugin_option
@click.option("--quiet", is_flag=True, help="No notes on standard error.")
@json_option
def diagnose_command(
    target: str, budget_s: float, mode: str, plugin_files: tuple[str, ...], quiet: bool, as_json: bool
) -> int:
    """Find out what bounds a step of your own model, remove it, and measure again.

    TARGET is package.module:function or FILE.py:function, found from the current folder: a function without arguments
    that returns a dict with `model` (a torch module) and `data` (batches that can be iterated again and again: dicts of
    tensors, or tuples), and optionally `optimizer` (default: fused AdamW), `loss` (a function of output and batch;
    default: `output.loss`), `step` (your own step, a function of a batch), `device` and `precision`.
    """
    import tempfile
    import time

    started_at = time.time()
    from llmbench.api.diagnosis import run_of
    from llmbench.execution.local import LocalExecutor
    from llmbench.execution.worker_calls import DIAGNOSE_TARGET
    from llmbench.report.formats import json as report_json
    from llmbench.report.formats.terminal import text
    from llmbench.report.tables import diagnosis

    check_budget(budget_s, "--budget")
    if not quiet and not as_json and sys.stderr.isatty():
        click.echo(f"diagnosing {target}, about {budget_s:g} s ...", err=True)
    files = [str(Path(file).resolve()) for file in plugin_files]
    options = {"budget_s": budget_s, "mode": mode, "plugin_files": files, "cwd_plugins": str(Path.cwd())}
    options["started_at"] = started_at
    with (
        tempfile.TemporaryDirectory(prefix="llmbench-") as folder,
        LocalExecutor(log_dir=Path(folder) / "logs", start_method="spawn") as executor,
    ):
        answer = executor.call(DIAGNOSE_TARGET, target, options, timeout_s=budget_s + SLACK_S)
    run = run_of(target, answer["record"], answer["environment"])
    if as_json:
        words = ["llmbench", "diagnose", target, "--budget", f"{budget_s:g}", "--verify", mode]
        words += [word for file in plugin_files for word in ("--plugin", file)]
        document = {**report_json.single_cell(run), "reproduce": shlex.join(words)}
        document["reasons"].pop("reproduce", None)
        click.echo(report_json.text(document).rstrip("\n"))
    else:
        lines = "\n".join(diagnosis.lines(run, answer["causes"]))
        click.echo(f"{lines}\n\n{text(diagnosis.tables(run))}", nl=False)
    return 0
