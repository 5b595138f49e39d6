"""The report for the terminal: tables as wide as the terminal."""

from __future__ import annotations

from typing import Any

import llmbench


def render(report: Any) -> str:
    """Return the document."""
    from llmbench.report import terminal_text

    return str(terminal_text(report))


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return the format."""
    return [llmbench.ReporterSpec("terminal", render, ".txt", "tables as wide as the terminal")]
