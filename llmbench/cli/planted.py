"""`llmbench planted`: run the planted bottlenecks and print how well diagnose names them."""

from __future__ import annotations

from pathlib import Path

import click

from llmbench.cli.options import json_option


@click.command("planted")
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path),
    default=Path("results/local/planted"),
    show_default=True,
    help="Folder of cases.jsonl; cases that it holds are not run again.",
)
@click.option(
    "-k", "expression", metavar="TEXT", default="", help="Only cases whose name or cause holds one of A,B,..."
)
@click.option("--limit", type=click.IntRange(min=1), help="Run at most so many new cases.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=2), help="Pairs of processes.")
@click.option("--seconds", default=0.7, show_default=True, help="Seconds of turns per process.")
@click.option("--budget", "budget_s", default=30.0, show_default=True, help="Seconds of each diagnosis, about.")
@click.option("--list", "only_list", is_flag=True, help="Print the cases and stop.")
@json_option
def planted_command(
    output: Path,
    expression: str,
    limit: int | None,
    rounds: int,
    seconds: float,
    budget_s: float,
    only_list: bool,
    as_json: bool,
) -> int:
    """Plant known bottlenecks in known workloads, and score what diagnose says of them.

    Each case is first measured with and without its plant, in processes of their own: that is the truth. Then
    `llmbench diagnose` looks at the case with its plant. The confusion matrix and the errors are printed and written to
    the folder.
    """
    import json

    from llmbench.planted.evaluation import plant, select_cases

    if only_list:
        from llmbench.planted import cases

        for case in select_cases(expression):
            unit = cases.PLANTS[case.plant].unit if case.plant else ""
            note = " (needs a device, not run)" if case.plant in cases.NEEDS_DEVICE else ""
            click.echo(f"{case.name:34s} {case.cause or 'control':18s} {unit}{note}")
        return 0

    def say(text: str) -> None:
        click.echo(text, err=True)

    summary, text = plant(
        output, expression, limit=limit, rounds=rounds, seconds=seconds, budget_s=budget_s, on_case=say
    )
    click.echo(json.dumps(summary, indent=1) if as_json else text)
    return 1 if summary["failed"] else 0
