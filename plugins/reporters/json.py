"""The report as one JSON document: the contract that scripts rely on."""

from __future__ import annotations

from typing import Any

import llmbench


def render(report: Any) -> str:
    """Return the document; what is not known is null, with its reason."""
    from llmbench.report import strict_json

    return str(strict_json(report.document))


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return the format."""
    return [llmbench.ReporterSpec("json", render, ".json", "one document for scripts, every digit")]
