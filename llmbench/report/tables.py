"""The table model that every renderer reads, and the tables of a report. Values stay raw until they are rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.report.cells import Run, failures, oracle_pct, summarise

UNKNOWN = "n/a"


@dataclass(frozen=True)
class Column:
    """One column: its heading, its unit, how it is aligned and to how many digits a float is shown."""

    name: str
    unit: str = ""
    align: str = "left"
    digits: int = 2

    @property
    def heading(self) -> str:
        """Name and unit, as a heading."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def text(self, value: Any) -> str:
        """Return a value as people read it; None is `n/a`, and very large or small floats are in powers of ten."""
        if value is None:
            return UNKNOWN
        if isinstance(value, float):
            odd = value != 0 and not 10**-self.digits / 2 <= abs(value) < 1e9
            return f"{value:.3g}" if odd else f"{value:,.{self.digits}f}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Table:
    """A titled table. Each row holds one raw value (str, int, float or None) per column."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: a row of {len(row)} values for {len(self.columns)} columns")


def _number(name: str, unit: str = "", digits: int = 2) -> Column:
    return Column(name, unit, "right", digits)


def run_tables(run: Run) -> list[Table]:
    """Return the tables of one run: header, bottlenecks, quality, failures; empty ones are left out."""
    cells = summarise(run.records, run.commands)
    tables = [header_table(run, cells), bottleneck_table(cells), quality_table(cells), failure_table(run)]
    return [table for table in tables if table.rows]


def header_table(run: Run, cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return what was run, and where: counts, and the plain facts of each environment."""
    statuses: dict[str, int] = {}
    for cell in cells:
        statuses[cell["status"]] = statuses.get(cell["status"], 0) + 1
    counts = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items(), key=lambda kv: (kv[0] != "ok", kv)))
    rows: list[tuple[Any, ...]] = [("run", run.name), ("cells", f"{len(cells)} ({counts})" if counts else "0")]
    for identity, environment in run.environments.items():
        rows.append(("environment", identity))
        rows += [(name, value) for name, value in _facts(environment) if name != "environment_id" and value]
    return Table("Run", (Column("what"), Column("value")), tuple(rows))


def _facts(environment: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the environment's facts, one per line; nested ones as `outer.inner`."""
    facts: list[tuple[str, str]] = []
    for name, value in environment.items():
        if isinstance(value, Mapping):
            facts += _facts(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            parts = [item.get("name", item) if isinstance(item, Mapping) else item for item in value]
            facts.append((prefix + name, ", ".join(map(str, parts))))
        elif value is not None:
            facts.append((prefix + name, f"{value:,.0f}" if isinstance(value, float) else str(value)))
    return facts


_CELL = (Column("stage"), Column("model"), Column("size"), Column("task"), Column("device"), Column("precision"))


def _cell_values(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell.get(column.name) for column in _CELL)


def bottleneck_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return where the time of each measured cell goes. Shares are percent of the phase pass."""
    columns: tuple[Column, ...] = (*_CELL, _number("step", "ms"), _number("±", "%", 1), _number("tokens/s", digits=0))
    columns += tuple(_number(n, "%", 1) for n in ("input", "copy", "fwd", "bwd", "opt", "padding"))
    columns += (_number("peak", "MiB", 0), Column("suspect"))
    rows: list[tuple[Any, ...]] = []
    for cell in cells:
        if cell["step_ms"] is None:
            continue
        shares = [cell["shares"][p] for p in ("input", "copy", "forward", "backward", "optimizer")]
        percents = [None if share is None else 100.0 * share for share in shares]
        values = (cell["step_ms"], _half_width_pct(cell), cell["tokens_per_s"], *percents)
        rows.append((*_cell_values(cell), *values, cell["padding_pct"], cell["peak_memory_mib"], cell["suspect"]))
    notes: tuple[str, ...] = (
        "step: median of clean timed steps over all processes; ±: half of its 95 % interval; tokens without padding",
        "suspect: the phase with the largest share, unverified (a share is not a proof)",
    )
    if any(cell["step_ms_ci_kind"] == "within" for cell in cells):
        notes += ("±: from one process only where a cell has one repeat; another process may differ by more",)
    return Table("Where the time goes", columns, tuple(rows), notes)


def _half_width_pct(cell: Mapping[str, Any]) -> float | str | None:
    """Return half of the interval in percent; beyond 100 % (two processes that disagree) no digit means anything."""
    ci = cell["step_ms_ci"]
    width = None if ci is None else 50.0 * (ci[1] - ci[0]) / cell["step_ms"]
    return ">100" if width is not None and width > 100 else width


def quality_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return what each scored cell reaches, next to the oracle and the best trivial baseline."""
    columns: tuple[Column, ...] = (*_CELL[:4], Column("dataset"), Column("precision"), Column("metric"))
    columns += (
        _number("value", digits=4),
        _number("oracle", digits=4),
        _number("of oracle", "%", 1),
        _number("best trivial", digits=4),
    )
    columns += (_number("n"),)
    rows: list[tuple[Any, ...]] = []
    for cell in cells:
        oracle, baseline = cell["oracle"] or {}, cell["baseline"] or {}
        primary = cell["quality_primary"]
        direction = cell["quality_direction"] or {}
        for metric, value in sorted((cell["quality"] or {}).items(), key=lambda kv: (kv[0] != primary, kv[0])):
            best = oracle.get(metric)
            where = (*_cell_values(cell)[:4], cell["dataset"], cell["precision"], metric, value, best)
            reached = oracle_pct(value, best, direction.get(metric))
            rows.append((*where, reached, baseline.get(metric), cell["quality_examples"]))
    kinds = sorted({cell["oracle_kind"] for cell in cells if cell["oracle_kind"]})
    notes: tuple[str, ...] = ("best trivial: the best of the baselines that use no model, per metric",)
    if kinds:
        notes += (f"oracle: knows how the data was made ({', '.join(kinds)}); 100 % is as good as it",)
    return Table("Quality", columns, tuple(rows), notes)


def failure_table(run: Run) -> Table:
    """Return every repeat that is not ok, and why."""
    columns = (*_CELL, _number("repeat"), Column("status"), Column("why"), Column("cell"))
    rows = [
        (*_cell_values(f["cell"]), f["repeat"], f["status"], f["error"], f["cell_id"]) for f in failures(run.records)
    ]
    return Table("Not measured", columns, tuple(rows))


def flat_table(run: Run) -> Table:
    """Return one row per cell with every plain field of its summary; nested ones as `outer.inner`."""
    flat = [_flatten(cell) for cell in summarise(run.records, run.commands)]
    names = list(dict.fromkeys(name for row in flat for name in row))
    columns = tuple(Column(name) for name in ["run", *names])
    return Table("Cells", columns, tuple((run.name, *(row.get(name) for name in names)) for row in flat))


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, item in value.items():
        if name in ("reasons", "training", "warnings", "error", "environment_ids", "baselines", "quality_direction"):
            continue
        if isinstance(item, Mapping):
            out |= _flatten(item, f"{prefix}{name}.")
        elif isinstance(item, list):
            ends = ("low", "high")
            out |= {f"{prefix}{name}.{ends[i] if len(item) == 2 else i}": part for i, part in enumerate(item)}
        elif not (item is None and name in ("quality", "oracle", "baseline", "step_ms_ci", "headroom_ci")):
            out[prefix + name] = item
    return out
