"""`llmbench export`: a run for other tools, and for publishing."""

from __future__ import annotations

from pathlib import Path

import click

from llmbench.api.export import FORMATS, export_runs


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--to", "form", type=click.Choice(FORMATS), required=True, help="What to write.")
@click.option("-o", "output", type=click.Path(path_type=Path, dir_okay=False), help="File (default: RUN's name here).")
@click.option("--samples", is_flag=True, help="parquet: one row per step instead of one per cell.")
@click.option("--keep-personal", is_flag=True, help="bundle: leave user and host names, home paths and tokens in.")
def export_command(run: Path, form: str, output: Path | None, samples: bool, keep_personal: bool) -> int:
    """Write RUN (a run directory or a bundle) to one file.

    `bundle` is for publishing and sending: report and compare read it as it is. `pytest-benchmark` opens in
    `pytest-benchmark compare`.
    """
    from llmbench.records.read import read_runs

    path = export_runs(read_runs(run), form, output, samples=samples, keep_personal=keep_personal)
    click.echo(f"{path}: written", err=True)
    return 0
