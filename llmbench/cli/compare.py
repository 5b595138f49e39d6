"""`llmbench compare`: two runs side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from llmbench.contract.errors import UserError

if TYPE_CHECKING:
    from llmbench.analysis.comparison import Comparison
    from llmbench.records.read import Run

#: Exit codes for `git bisect run`.
SKIP = 125  # this commit cannot be judged
ABORT = 128  # no commit can be
FORMATS = ("terminal", "markdown", "csv", "json")


@click.command("compare")
@click.argument("base", type=click.Path(path_type=Path), metavar="BASE")
@click.argument("head", type=click.Path(path_type=Path), metavar="HEAD")
@click.option(
    "--fail-on",
    "fail_on_pct",
    type=click.FloatRange(min=0),
    metavar="PCT",
    help="Exit 1 when a cell is slower than PCT percent with confidence, or fails in HEAD only.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="terminal", show_default=True)
@click.option("-o", "output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@click.option(
    "--margin",
    "margin_pct",
    type=click.FloatRange(min=0, min_open=True),
    metavar="PCT",
    help="Changes within PCT percent are 'same' (default: --fail-on, else 5).",
)
@click.option(
    "--noise-floor",
    "noise_floor_pct",
    type=click.FloatRange(min=0),
    metavar="PCT",
    help="Difference of equal runs that all cells share (default: 0 if interleaved, else 5).",
)
@click.option("--bisect", is_flag=True, help="Exit codes for git bisect run: 125 where it cannot be decided.")
def compare_command(
    base: Path,
    head: Path,
    fail_on_pct: float | None,
    form: str,
    output: Path | None,
    margin_pct: float | None,
    noise_floor_pct: float | None,
    bisect: bool,
) -> int:
    """Say which cells of HEAD are slower, faster or the same as in BASE, or undecided.

    BASE and HEAD are run directories or bundles. Differences between the machines come first. All verdicts of a
    comparison hold together with 99 % confidence. For an undecided cell it says how many processes on each side would
    decide. `markdown` fits a pull-request comment.

    \b
    git bisect run sh -c 'llmbench run quick --fresh -o HEAD || exit 125
                          llmbench compare BASE HEAD --fail-on 5 --bisect'
    """
    from llmbench.analysis.comparison import compare_runs as run_compare
    from llmbench.records.read import guard_bundles

    if bisect and fail_on_pct is None:
        raise UserError("--bisect needs a limit to judge by; add --fail-on 5")
    try:
        runs = _read(base), _read(head)
        with guard_bundles(runs):
            result = run_compare(*runs, fail_on_pct=fail_on_pct, margin_pct=margin_pct, noise_floor_pct=noise_floor_pct)
        if not result.cells:
            raise UserError(f"{base} and {head}: no cell was measured in both; compare runs of one suite")
    except UserError as error:
        if not bisect:
            raise
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        return ABORT
    _write(result, form, output)
    return _judge(result, bisect=bisect) if fail_on_pct is not None else 0


def _judge(result: Comparison, *, bisect: bool) -> int:
    """Return the exit code, and name on standard error the cells that it is for."""
    for line in (*result.regressions, *result.failures):
        click.echo(f"regressed: {line}", err=True)
    if result.regressions or (result.failures and not bisect):
        return 1
    return SKIP if bisect and (result.failures or result.unsure) else 0


def _read(path: Path) -> Run:
    from llmbench.records.read import read_runs

    runs = read_runs(path)
    if len(runs) > 1:
        raise UserError(f"{path}: holds {len(runs)} runs; give one of them, such as {path / runs[0].name}")
    return runs[0]


def _write(result: Comparison, form: str, output: Path | None) -> None:
    if output is None:
        _print(result, form, sys.stdout)
        return
    try:
        with output.open("w", encoding="utf-8") as stream:
            _print(result, form, stream)
    except OSError as error:
        raise UserError(f"-o {output}: cannot be written ({error.strerror}); give another file") from None
    click.echo(f"{output}: written", err=True)


def _print(result: Comparison, form: str, stream: TextIO) -> None:
    from llmbench.report.formats import terminal
    from llmbench.report.tables import comparison

    if form == "terminal":
        terminal.render(comparison.tables(result), stream)
        stream.write(comparison.summary(result) + "\n")
        return
    render = {"markdown": comparison.comment, "csv": comparison.rows, "json": comparison.render}[form]
    stream.write(render(result).rstrip("\n") + "\n")
