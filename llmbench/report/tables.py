"""The table model that every renderer reads, and the tables of a report. Values stay raw until they are rendered."""

from __future__ import annotations

import re
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
    """Return the tables of one run, from what the hardware allows to what failed; empty ones are left out."""
    cells = summarise(run.records, run.commands, run.ceilings)
    tables = [header_table(run, cells), limits_table(run), bottleneck_table(cells), hardware_table(cells)]
    tables += [inference_table(cells), compilation_table(cells), capacity_table(cells), quality_table(cells)]
    tables += [warning_table(cells), failure_table(run)]
    return [table for table in tables if table.rows]


#: The facts of a machine that a report begins with: what most often explains a difference.
HEADER_FACTS = frozenset(
    (
        *("cpu", "usable_cores", "cores", "memory_mib", "devices", "cpu_facts.governor", "limits.cpu_quota_cores"),
        *("os_release", "kernel", "python", "packages.llmbench", "packages.torch", "packages.transformers"),
        "torch_threads",
    )
)
ALL_FACTS = "every fact about the machine: environment.json in the run's folder, or `llmbench doctor --json`"


def header_table(run: Run, cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return what was run, and where: counts, and the facts of each environment that matter first."""
    statuses: dict[str, int] = {}
    for cell in cells:
        statuses[cell["status"]] = statuses.get(cell["status"], 0) + 1
    counts = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items(), key=lambda kv: (kv[0] != "ok", kv)))
    rows: list[tuple[Any, ...]] = [("run", run.name), ("cells", f"{len(cells)} ({counts})" if counts else "0")]
    for identity, environment in run.environments.items():
        rows.append(("environment", identity))
        rows += [(name, value) for name, value in _facts(environment) if name in HEADER_FACTS and value]
    return Table("Run", (Column("what"), Column("value")), tuple(rows), (ALL_FACTS,) if run.environments else ())


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


_CELL = (
    *(Column("stage"), Column("model"), Column("size"), Column("task")),
    *(Column("device"), Column("precision"), Column("variant")),
)


def _cell_values(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell.get(column.name) for column in _CELL)


def limits_table(run: Run) -> Table:
    """Return what each machine can do at best, before what happened on it."""
    columns: tuple[Column, ...] = (Column("device"), Column("ceiling"), _number("measured", digits=1))
    columns += (_number("±", "%", 1),)
    columns += (Column("unit"), _number("datasheet", digits=1))
    rows: list[tuple[Any, ...]] = []
    for doc in run.ceilings.values():
        sheet = (doc.get("datasheet") or {}).get("flops_per_s") or {}
        for mode, found in doc["matmul"].items():
            if found is not None:
                peak = None if sheet.get(mode) is None else sheet[mode] / 1e9
                rows.append((doc["device"], f"matmul {mode}", found["value"] / 1e9, _spread(found), "GFLOP/s", peak))
        for level in doc["memory_levels"]:
            best = max(
                (e for k, e in level.items() if k.endswith("_per_s") and e), key=lambda e: e["value"], default=None
            )
            if best is not None:
                what = f"memory, {level['level']}"
                rows.append((doc["device"], what, best["value"] / 1e9, _spread(best), "GB/s", None))
    notes = (
        "measured on this machine by `llmbench calibrate`; datasheet: the vendor's dense peak, where it prints one",
    )
    return Table("What the hardware allows", columns, tuple(rows), notes)


def _spread(estimate: Mapping[str, Any]) -> float | None:
    if estimate.get("low") is None or estimate.get("high") is None:
        return None
    return 50.0 * (estimate["high"] - estimate["low"]) / float(estimate["value"])


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
    kinds = {cell["step_ms_ci_kind"] for cell in cells}
    if "moderated" in kinds:
        notes += ("±: between processes; few per cell, so what all cells show of that spread is counted in",)
    if "stein" in kinds:
        notes += ("±: as many processes as the first ones of each cell asked for, with the spread of the first ones",)
    if "within" in kinds:
        notes += ("±: from one process only where a cell has one repeat; another process may differ by more",)
    return Table("Where the time goes", columns, tuple(rows), notes)


def hardware_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return what each traced cell asks of the hardware, how near it comes to the ceilings, and by which operators."""
    columns: tuple[Column, ...] = (*_CELL, _number("per step", "GFLOP", 2), _number("moved", "MB", 1))
    columns += (_number("FLOP/byte", digits=1), _number("of peak", "%", 1), _number("of bandwidth", "%", 1))
    columns += (_number("MFU", "%", 1), _number("residual", "%", 1), Column("time by operator class"))
    rows: list[tuple[Any, ...]] = []
    for cell in cells:
        if cell["flops_per_step"] is None:
            continue
        values = (cell["flops_per_step"] / 1e9, cell["bytes_per_step"] / 1e6, cell["arithmetic_intensity"])
        shares = (cell["ceiling_pct"], cell["bandwidth_pct"], cell["mfu_pct"], cell["phase_residual_pct"])
        rows.append((*_cell_values(cell), *values, *shares, _classes(cell["operators"])))
    notes = (
        "of peak: FLOPs done per second over the measured matmul ceiling; MFU: the model's FLOPs over the datasheet's",
        "of bandwidth: bytes that operators read and write, over what the memory that holds them allows",
        "residual: what the phases leave of the step, median over pairs of steps on the same batch",
    )
    return Table("What it asks of the hardware", columns, tuple(rows), notes)


def _classes(shares: Mapping[str, float] | None) -> str | None:
    return (
        None if shares is None else ", ".join(f"{name} {100 * share:.0f}" for name, share in list(shares.items())[:4])
    )


def inference_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return first token and further tokens of the cells that generate."""
    columns: tuple[Column, ...] = (*_CELL, _number("batch"), _number("KV cache", "MiB"))
    columns += (_number("TTFT", "ms"), _number("TPOT", "ms"))
    columns += (_number("generated", "tokens/s", 0),)
    names = ("ttft_ms", "tpot_ms", "generated_tokens_per_s")
    rows = [
        (*_cell_values(cell), *(cell[name] for name in ("batch_size", "kv_cache_mib", *names)))
        for cell in cells
        if cell["ttft_ms"] is not None
    ]
    notes = (
        "of a batch: TTFT to its first token, TPOT per further token of its longest row; throughput over all rows",
        "KV cache: what the mean batch keeps from token to token (recurrent: its state and what it attends to)",
    )
    return Table("Inference", columns, tuple(rows), notes)


def compilation_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return what `torch.compile` cost the cells that were compiled, and after how many steps it has paid."""
    counts = ("graphs", "recompilations")
    columns: tuple[Column, ...] = (*_CELL, _number("compiling", "s", 1), *(_number(name) for name in counts))
    columns += (_number("graph breaks"), _number("pays off after", "steps", 0), Column("because"))
    rows = []
    for cell in cells:
        found = cell["compilation"]
        if found is not None:
            numbers = (found["compile_s"], *(found[name] for name in counts), len(found["graph_breaks"]))
            reason = cell["reasons"].get("compile_pays_off_steps")
            rows.append((*_cell_values(cell), *numbers, cell["compile_pays_off_steps"], reason or ""))
    notes = ("pays off: when the steps have saved what compiling took, against the same cell without compile",)
    return Table("Compilation", columns, tuple(rows), notes)


def capacity_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return the largest batch of the cells that searched it, and what the cells cost that have a price."""
    names = ("batch_size", "largest_batch", "price_per_hour", "cost_per_million_tokens", "cost_of_training")
    columns: tuple[Column, ...] = (*_CELL, _number("batch"), _number("largest"), _number("per hour", digits=2))
    columns += (_number("1M tokens", digits=6), _number("training", digits=6), Column("not known because"))
    rows = []
    for cell in cells:
        asked = cell["largest_batch_tried"] is not None or cell["largest_batch"] is not None
        if asked or cell["price_per_hour"] is not None:
            why = cell["reasons"].get("largest_batch") if asked else None
            rows.append((*_cell_values(cell), *(cell[name] for name in names), why))
    notes = (
        "largest: batch of the longest sequences that fits, found within 5 % below the limit",
        "costs: in the currency of the price, of a million tokens without padding, and of the cell's own training",
    )
    return Table("Capacity and cost", columns, tuple(rows), notes)


def warning_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return what disturbed measurements or makes them unreliable: one of each kind, and how often it was said."""
    seen: dict[str, tuple[int, str]] = {}
    for cell in cells:
        for text in (*cell["warnings"], *cell["unreliable"]):
            kind = re.sub(r"[-\d.]+", "#", text)
            count, worst = seen.get(kind, (0, text))
            seen[kind] = (count + 1, worst)
    rows = tuple((count, text) for count, text in sorted(seen.values(), reverse=True))
    return Table("Warnings", (_number("times"), Column("what was seen (the first of its kind)")), rows)


def _half_width_pct(cell: Mapping[str, Any]) -> float | str | None:
    """Return half of the interval in percent; beyond 100 % (two processes that disagree) no digit means anything."""
    ci = cell["step_ms_ci"]
    width = None if ci is None else 50.0 * (ci[1] - ci[0]) / cell["step_ms"]
    return ">100" if width is not None and width > 100 else width


def quality_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return what each scored cell reaches, next to the oracle and the best trivial baseline."""
    columns: tuple[Column, ...] = (*_CELL[:4], Column("dataset"), *_CELL[5:], Column("metric"))
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
            values = _cell_values(cell)
            where = (*values[:4], cell["dataset"], *values[5:], metric, value, best)
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
        (*_cell_values({**f["cell"], "variant": f["variant"]}), f["repeat"], f["status"], f["error"], f["cell_id"])
        for f in failures(run.records)
    ]
    return Table("Not measured", columns, tuple(rows))


def flat_table(run: Run) -> Table:
    """Return one row per cell with every plain field of its summary; nested ones as `outer.inner`."""
    flat = [_flatten(cell) for cell in summarise(run.records, run.commands, run.ceilings)]
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
