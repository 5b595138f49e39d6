"""The report as Markdown: tables for a repository or a pull request."""

from __future__ import annotations

from typing import Any

import llmbench


def render(report: Any) -> str:
    """Return the document."""
    from llmbench.report import markdown_text

    return str(markdown_text(report))


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return the format."""
    return [llmbench.ReporterSpec("markdown", render, ".md", "tables for a repository or a pull request")]
