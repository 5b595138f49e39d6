"""The report as CSV: one row per cell, every digit."""

from __future__ import annotations

from typing import Any

import llmbench


def render(report: Any) -> str:
    """Return the document."""
    from llmbench.report import csv_text

    return str(csv_text(report))


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return the format."""
    return [llmbench.ReporterSpec("csv", render, ".csv", "one row per cell, every digit")]
