"""The command line. Modules that `--help` does not need are imported where they are used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from llmbench.cli.compare import compare_command
from llmbench.cli.diagnose import diagnose_command
from llmbench.cli.export import export_command
from llmbench.cli.machine import calibrate_command, doctor_command, schema_command
from llmbench.cli.planted import planted_command
from llmbench.cli.plugins import plugins_group
from llmbench.cli.report import report_command
from llmbench.cli.run import plan_command, run_command
from llmbench.contract.errors import UserError


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


for _command in (
    run_command,
    plan_command,
    report_command,
    compare_command,
    diagnose_command,
    calibrate_command,
    doctor_command,
    export_command,
    plugins_group,
    planted_command,
    schema_command,
):
    cli.add_command(_command)
