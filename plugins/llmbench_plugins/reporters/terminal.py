"""The report for the terminal: tables as wide as the terminal."""

from __future__ import annotations

from typing import Any

import llmbench


def render(report: Any) -> str:
    """Return the document."""
    from llmbench.report import terminal_text

    return str(terminal_text(report))


def brief(report: Any) -> str:
    """Return the tables that somebody acts on, then the findings."""
    from llmbench.report import brief_text

    return str(brief_text(report))


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return both: everything, and what a run ends with."""
    return [
        llmbench.ReporterSpec("terminal", render, ".txt", "tables as wide as the terminal"),
        llmbench.ReporterSpec("brief", brief, ".txt", "the tables to act on, then the findings: what a run prints"),
    ]
