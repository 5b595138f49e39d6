"""`llmbench doctor`, `llmbench calibrate` and `llmbench schema`."""

from __future__ import annotations

import click

from llmbench.api.runs import note
from llmbench.cli.options import json_option


@click.command("doctor")
@json_option
def doctor_command(as_json: bool) -> int:
    """Print the devices and packages of this machine, and what is missing. Exit 1 when nothing could run."""
    import json

    from llmbench.api.machine import examine
    from llmbench.report.formats import terminal
    from llmbench.report.tables import inventory

    environment, problems = examine()
    if as_json:
        click.echo(json.dumps({"environment": environment, "problems": problems}, indent=1))
    else:
        terminal.render([inventory.machine_table(environment, problems or ["nothing is missing"])])
    return 0 if environment else 1


@click.command("calibrate")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, mps, or auto: the best there is.")
@click.option("--fresh", is_flag=True, help="Measure again, whatever is kept.")
@json_option
def calibrate_command(device: str, fresh: bool, as_json: bool) -> int:
    """Measure what this machine can do at best: its ceilings, which are kept for the runs that follow."""
    from llmbench.api.machine import ceilings_of
    from llmbench.records.json_lines import dump_json
    from llmbench.report.formats import terminal
    from llmbench.report.tables.ceilings import ceilings_tables

    doc = ceilings_of(device, fresh=fresh, say=note)
    if as_json:
        click.echo(dump_json(doc, indent=1))
    else:
        terminal.render(ceilings_tables(doc))
    return 0


@click.command("schema")
@click.argument("name", type=click.Choice(["suite", "record"]))
def schema_command(name: str) -> int:
    """Print the JSON Schema of a suite file (for editors) or of a record."""
    from importlib.resources import files

    click.echo(files("llmbench").joinpath("schemas", f"{name}.schema.json").read_text(encoding="utf-8"), nl=False)
    return 0
