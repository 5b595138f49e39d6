"""The report as Markdown: tables for a repository or a pull request."""

from __future__ import annotations

from typing import Any

import llmbench


def render(report: Any) -> str:
    """Return the document."""
    from llmbench.report import markdown_text

    return str(markdown_text(report))


def summary(report: Any) -> str:
    """Return the findings and the tables that runs are compared by."""
    from llmbench.report import summary_text

    return str(summary_text(report))


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return both: everything, and a short one to publish with the results."""
    return [
        llmbench.ReporterSpec("markdown", render, ".md", "tables for a README, a paper's appendix, a pull request"),
        llmbench.ReporterSpec("summary", summary, ".md", "Markdown of the findings and what runs are compared by"),
    ]
