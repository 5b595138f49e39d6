"""The report as one JSON document: the contract that scripts rely on."""

from __future__ import annotations

from typing import Any

import llmbench


def render(report: Any) -> Any:
    """Return the document in UTF-8; what is not known is null, with its reason."""
    document = report.document_bytes
    document += b"\n"
    return document


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return the format."""
    return [llmbench.ReporterSpec("json", render, ".json", "one document for scripts, every digit")]
