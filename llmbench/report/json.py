"""The report as one JSON document, for scripts. Its fields are fixed; new ones may be added."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from llmbench.report.cells import Run, failures, summarise
from llmbench.schema import SCHEMA_VERSION


def document(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the report of one or many runs. Every cell names its run; what is not known is null, with its reason."""
    environments: dict[str, Any] = {}
    ceilings: dict[str, Any] = {}
    cells, failed = [], []
    for run in runs:
        environments |= run.environments
        ceilings |= run.ceilings
        cells += [{**cell, "run": run.name} for cell in summarise(run.records, run.commands, run.ceilings)]
        failed += [{**failure, "run": run.name} for failure in failures(run.records)]
    return {
        "schema_version": SCHEMA_VERSION,
        "environments": environments,
        "ceilings": ceilings,
        "cells": cells,
        "bottlenecks": [],
        "remedies": [],
        "learning": [],
        "scaling": [],
        "failures": failed,
    }


def render(runs: Sequence[Run]) -> str:
    """Return `document(runs)` as strict JSON text: a number that is not finite is null."""
    return json.dumps(_finite(document(runs)), indent=1, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
