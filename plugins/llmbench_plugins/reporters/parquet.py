"""The report as Parquet: one row per cell, for pandas, DuckDB and the like."""

from __future__ import annotations

from typing import Any

import llmbench


def render(report: Any) -> bytes:
    """Return the cells as a Parquet file; a number that is not known is null."""
    from llmbench.report import parquet_bytes

    try:
        return bytes(parquet_bytes(report))
    except ImportError:
        raise llmbench.UserError("--format parquet needs pyarrow; install it: pip install pyarrow") from None


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return the format."""
    return [llmbench.ReporterSpec("parquet", render, ".parquet", "one row per cell, typed, every digit")]
