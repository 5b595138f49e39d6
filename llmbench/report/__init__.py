"""One table model, several renderers. Reporters of other packages may use the names in `__all__`.

Each is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

#: name -> (module, its name there)
_HOMES = {
    "COLUMNS": ("tables.column_meanings", "COLUMNS"),
    "UNKNOWN": ("table", "UNKNOWN"),
    "Column": ("table", "Column"),
    "Report": ("report", "Report"),
    "Table": ("table", "Table"),
    "brief_text": ("formats.terminal", "brief_text"),
    "csv_text": ("formats.csv", "report_text"),
    "markdown_text": ("formats.markdown", "report_text"),
    "oracle_pct": ("cells.summary", "oracle_pct"),
    "parquet_bytes": ("formats.parquet", "report_bytes"),
    "printable": ("table", "printable"),
    "summary_text": ("formats.markdown", "summary_text"),
    "strict_json": ("formats.json", "text"),
    "terminal_text": ("formats.terminal", "report_text"),
}

__all__ = [
    "COLUMNS",
    "UNKNOWN",
    "Column",
    "Report",
    "Table",
    "brief_text",
    "csv_text",
    "markdown_text",
    "oracle_pct",
    "parquet_bytes",
    "printable",
    "strict_json",
    "summary_text",
    "terminal_text",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, inner = _HOMES[name]
        value = globals()[name] = getattr(importlib.import_module(f"llmbench.report.{module}"), inner)
        return value
    raise AttributeError(f"module 'llmbench.report' has no attribute {name!r}")
