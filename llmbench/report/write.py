"""The report of runs, rendered by a reporter."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmbench.contract.errors import UserError, needs_packages

if TYPE_CHECKING:
    from llmbench.plugins.registry import Registry
    from llmbench.records.read import Run
    from llmbench.report.report import Report


def render_runs(runs: Sequence[Run], form: str, registry: Registry, baseline: str | None = None) -> bytes | bytearray:
    """Return the report of `runs` as bytes; a text ends with its line."""
    from llmbench.contract.errors import did_you_mean

    names = [run.name for run in runs]
    if baseline is not None and baseline not in names:
        known = ", ".join(names)
        raise UserError(f"--baseline {baseline}: no such run{did_you_mean(baseline, names)}; write one of: {known}")
    return render(report_of(runs, registry, baseline), form, registry)


def render(report: Report, form: str, registry: Registry) -> bytes | bytearray:
    """Return `report` in the format `form`, as bytes. Raises PluginError for an unknown format."""
    reporter = registry.get("reporter", form)
    from llmbench.contract.hookspecs import PROJECT
    from llmbench.plugins.guard import keep_standard_output

    own = registry.by_kind["reporter"][form].owner.name == PROJECT
    with needs_packages(f"--format {form}"), contextlib.nullcontext() if own else keep_standard_output():
        document = reporter.render(report)
    if not isinstance(document, str):
        return document
    if not document.endswith("\n") or document.endswith("\n\n"):
        document = document.rstrip("\n") + "\n"
    return document.encode()  # a large report that ends with its line is copied once only


def report_of(runs: Sequence[Run], registry: Registry, baseline: str | None = None) -> Report:
    """Return the report of `runs`, with the descriptions of causes and the formats that plugins provide."""
    from llmbench.report import Report

    causes = {name: provided.spec.description for name, provided in registry.by_kind["cause"].items()}
    formats = {name: provided.spec.render for name, provided in registry.by_kind["reporter"].items()}
    return Report(runs, baseline=baseline, descriptions=causes, formats=formats)
