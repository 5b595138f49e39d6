"""A run as pytest-benchmark's JSON: `pytest-benchmark compare` opens it. Its statistics are computed as it does."""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from llmbench.contract.cell import Cell
from llmbench.records import attempts
from llmbench.records.read import Run
from llmbench.report.cells.variants import find_variants

if TYPE_CHECKING:
    from llmbench.contract.record import CellFields, JsonObject, Record, Row

#: Version of pytest-benchmark whose format this is.
FORMAT_VERSION = "5.1.0"
_OPTIONS = {
    "disable_gc": False,
    "timer": "perf_counter",
    "min_rounds": 1,
    "max_time": 1.0,
    "min_time": 0.0,
    "warmup": True,
}


def document(run: Run) -> Row:
    """Return one benchmark per cell that was timed: its rounds are the steps (s) of all its processes."""
    groups = attempts.by_cell(run.records)
    names = find_variants([group[0]["cell"] for group in groups.values()])
    benchmarks = []
    for (cell_id, group), variant in zip(groups.items(), names, strict=True):
        good = attempts.good(attempts.latest_attempts(group))
        times = [t for one in attempts.step_times(good) for t in one]
        if times:
            benchmarks.append(_benchmark(cell_id, group[0]["cell"], variant, times, len(good)))
    environment: JsonObject = dict(next(iter(run.environments.values()), {}))
    return {
        "machine_info": _machine(environment),
        "commit_info": _commit(environment),
        "benchmarks": benchmarks,
        "datetime": _datetime(run.records),
        "version": FORMAT_VERSION,
    }


def _benchmark(cell_id: str, cell: CellFields, variant: str, times: Sequence[float], repeats: int) -> Row:
    label = Cell.from_json(dict(cell)).label + (f" {variant}" if variant else "")
    return {
        "group": str(cell["stage"]),
        "name": f"{label} {cell_id}",
        "fullname": f"llmbench::{label}[{cell_id}]",
        "params": {k: cell.get(k) for k in ("model", "size", "task", "device", "precision")},
        "param": cell_id,
        "extra_info": {"cell_id": cell_id, "processes": repeats},
        "options": _OPTIONS,
        "stats": {**summarise(times), "data": list(times), "iterations": 1},
    }


def summarise(times: Sequence[float]) -> dict[str, float | str]:
    """Return the statistics of `pytest_benchmark.stats.Stats` for `times` (s); at least one."""
    data = sorted(times)
    n, mean = len(data), statistics.mean(data)
    stddev = statistics.stdev(data) if n > 1 else 0
    q1, q3 = _quartile(data), -_quartile([-t for t in reversed(data)])
    iqr = q3 - q1
    far = sum(t < mean - stddev or t > mean + stddev for t in data)
    out = sum(t < q1 - 1.5 * iqr or t > q3 + 1.5 * iqr for t in data)
    total = sum(times)
    return {
        **{"min": data[0], "max": data[-1], "mean": mean, "stddev": stddev, "rounds": n},
        **{"median": statistics.median(data), "iqr": iqr, "q1": q1, "q3": q3},
        **{"iqr_outliers": out, "stddev_outliers": far, "outliers": f"{far};{out}"},
        "ld15iqr": data[bisect_left(data, q1 - 1.5 * iqr)],
        "hd15iqr": data[bisect_right(data, q3 + 1.5 * iqr) - 1],
        **{"ops": n / total if total else 0, "total": total},
    }


def _quartile(data: Sequence[float]) -> float:
    """Return the first quartile of sorted `data`: the median of the lower half, or methods 2 and 3 of Wikipedia."""
    rounds = len(data)
    if rounds == 1:
        return data[0]
    if rounds % 2 == 0:
        return statistics.median(data[: rounds // 2])
    n = rounds // 4
    return 0.25 * data[n - 1] + 0.75 * data[n] if rounds % 4 == 1 else 0.75 * data[n] + 0.25 * data[n + 1]


def _machine(environment: JsonObject) -> Row:
    """Return the facts of a machine that pytest-benchmark shows, without the name of the host, which is private."""
    python = environment.get("python_facts") or {}
    return {
        "node": "",
        "processor": str(environment.get("cpu") or ""),
        "machine": str(environment.get("machine") or ""),
        "python_compiler": str(python.get("compiler") or ""),
        "python_implementation": str(python.get("implementation") or ""),
        "python_version": str(environment.get("python") or ""),
        "system": str(environment.get("os") or ""),
        "release": str(environment.get("kernel") or ""),
        "cpu": {"brand_raw": str(environment.get("cpu") or ""), "count": environment.get("cores")},
    }


def _commit(environment: JsonObject) -> Row:
    git = environment.get("git") or {}
    return {"id": str(git.get("commit") or "unknown"), "dirty": bool(git.get("dirty")), "branch": "", "project": ""}


def _datetime(records: Sequence[Record]) -> str:
    """Return the time when the run began, in UTC, as pytest-benchmark writes it."""
    starts = [str(r["started_at"]) for r in records if r.get("started_at")]
    return min(starts) if starts else datetime(1970, 1, 1, tzinfo=UTC).isoformat()
