"""The tables of a report. Values stay raw until they are rendered."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.records.read import Run
from llmbench.report.cells.summary import failures, oracle_pct, summarise_run
from llmbench.report.table import CELL, Column, Table, cell_values, number, with_cells
from llmbench.report.tables.learning import learning_table, missing_table, reach_table
from llmbench.report.tables.method import method_table
from llmbench.report.tables.remedies import remedy_tables
from llmbench.report.tables.roofline import roofline_table
from llmbench.report.tables.scaling import changes_table, scaling_table
from llmbench.report.tables.side_by_side import device_table, precision_table
from llmbench.report.tables.verdicts import causes_table, untried_table, verdict_table

#: Titles of the tables that say what was run and what bounds it.
FIRST = ("Run", "What bounds each cell")


Rows = Sequence[Mapping[str, Any]]


def run_tables(run: Run, cells: Rows | None = None, studies: Mapping[str, Rows] | None = None) -> list[Table]:
    """Return the tables of one run, from what was run to how numbers were obtained; empty ones are left out.

    `cells` are the summaries of its cells and `studies` the rows of its studies, where they are there already.
    """
    if cells is None:
        cells = summarise_run(run)
    tables = [header_table(run, cells), verdict_table(cells), *study_tables(run, studies or {}), causes_table(cells)]
    tables += [untried_table(cells), *remedy_tables(run, cells)]
    tables += [bottleneck_table(cells), hardware_table(cells), roofline_table(cells), quality_table(cells)]
    tables += [precision_table(run, cells), device_table(run, cells)]
    tables += [inference_table(cells), compilation_table(cells), capacity_table(cells)]
    tables += [limits_table(run), warning_table(cells), failure_table(run), method_table(cells)]
    return with_cells((table for table in tables if table.rows), cells)


def study_tables(run: Run, found: Mapping[str, Rows]) -> list[Table]:
    """Return the tables of what a run studies: what limits learning, and how cost grows."""
    records, learned, grown = run.records, found.get("learning"), found.get("scaling")
    tables = [learning_table(records, learned), missing_table(records, learned)]
    tables += [reach_table(records, found.get("time_to_quality"))]
    return [*tables, scaling_table(records, grown), changes_table(records, grown)]


#: The facts of a machine that a report begins with: what most often explains a difference.
HEADER_FACTS = frozenset(
    (
        *("cpu", "usable_cores", "cores", "memory_mib", "devices", "cpu_facts.governor", "limits.cpu_quota_cores"),
        *("os_release", "kernel", "python", "packages.llmbench", "packages.torch", "packages.transformers"),
        "torch_threads",
    )
)
FACT_NAMES = {
    **{"usable_cores": "usable cores", "memory_mib": "memory (MiB)", "torch_threads": "threads of torch"},
    **{"os_release": "system", "cpu_facts.governor": "governor", "limits.cpu_quota_cores": "quota (cores)"},
}
ALL_FACTS = "every fact about the machine: environment.json in the run's folder, or `llmbench doctor --json`"


def header_table(run: Run, cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return what was run, and where: counts, and the facts of each environment that matter first."""
    statuses: dict[str, int] = {}
    for cell in cells:
        statuses[cell["status"]] = statuses.get(cell["status"], 0) + 1
    counts = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items(), key=lambda kv: (kv[0] != "ok", kv)))
    rows: list[tuple[Any, ...]] = [("run", run.name), ("cells", f"{len(cells)} ({counts})" if counts else "0")]
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for identity, environment in run.environments.items():
        facts = tuple(
            (FACT_NAMES.get(name, name.removeprefix("packages.")), value)
            for name, value in _facts(environment)
            if name in HEADER_FACTS and value
        )
        alike.setdefault(facts, []).append(identity)
    for facts, identities in alike.items():
        rows += [("environment", ", ".join(identities)), *facts]
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


def limits_table(run: Run) -> Table:
    """Return what each machine can do at best, before what happened on it."""
    columns: tuple[Column, ...] = (Column("device"), Column("ceiling"), number("measured", digits=1))
    columns += (number("±", "%", 1),)
    columns += (Column("unit"), number("datasheet", digits=1))
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
    columns: tuple[Column, ...] = (*CELL, number("step", "ms"), number("±", "%", 1), number("tokens/s", digits=0))
    columns += tuple(number(n, "%", 1) for n in ("input", "copy", "fwd", "bwd", "opt", "padding"))
    columns += (number("peak", "MiB", 0),)
    leads = any(cell["verdict"] is None for cell in cells)
    columns += (Column("suspect"),) if leads else ()
    rows: list[tuple[Any, ...]] = []
    for cell in cells:
        if cell["step_ms"] is None:
            continue
        shares = [cell["shares"][p] for p in ("input", "copy", "forward", "backward", "optimizer")]
        percents = [None if share is None else 100.0 * share for share in shares]
        values = (cell["step_ms"], _half_width_pct(cell), cell["tokens_per_s"], *percents)
        rows.append((*cell_values(cell), *values, cell["padding_pct"], cell["peak_memory_mib"]))
        rows[-1] += (cell["suspect"],) if leads else ()
    notes: tuple[str, ...] = (
        "step: median of clean timed steps over all processes; ±: half of its 95 % interval; tokens without padding",
    )
    if leads:
        notes += ("suspect: the phase with the largest share, unverified (a share is not a proof)",)
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
    columns: tuple[Column, ...] = (*CELL, number("per step", "GFLOP", 2), number("moved", "MB", 1))
    columns += (number("FLOP/byte", digits=1), number("of peak", "%", 1), number("of bandwidth", "%", 1))
    columns += (number("MFU", "%", 1), number("residual", "%", 1), Column("time by operator class"))
    rows: list[tuple[Any, ...]] = []
    for cell in cells:
        if cell["flops_per_step"] is None:
            continue
        values = (cell["flops_per_step"] / 1e9, cell["bytes_per_step"] / 1e6, cell["arithmetic_intensity"])
        shares = (cell["ceiling_pct"], cell["bandwidth_pct"], cell["mfu_pct"], cell["phase_residual_pct"])
        rows.append((*cell_values(cell), *values, *shares, _classes(cell["operators"])))
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
    columns: tuple[Column, ...] = (*CELL, number("batch"), number("KV cache", "MiB"))
    columns += (number("TTFT", "ms"), number("TPOT", "ms"))
    columns += (number("generated", "tokens/s", 0),)
    names = ("ttft_ms", "tpot_ms", "generated_tokens_per_s")
    rows = [
        (*cell_values(cell), *(cell[name] for name in ("batch_size", "kv_cache_mib", *names)))
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
    columns: tuple[Column, ...] = (*CELL, number("compiling", "s", 1), *(number(name) for name in counts))
    columns += (number("graph breaks"), number("pays off after", "steps", 0), Column("because"))
    rows = []
    for cell in cells:
        found = cell["compilation"]
        if found is not None:
            numbers = (found["compile_s"], *(found[name] for name in counts), len(found["graph_breaks"]))
            reason = cell["reasons"].get("compile_pays_off_steps")
            rows.append((*cell_values(cell), *numbers, cell["compile_pays_off_steps"], reason or ""))
    notes = ("pays off: when the steps have saved what compiling took, against the same cell without compile",)
    return Table("Compilation", columns, tuple(rows), notes)


def capacity_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return the largest batch of the cells that searched it, and what the cells cost that have a price."""
    names = ("batch_size", "largest_batch", "price_per_hour", "cost_per_million_tokens", "cost_of_training")
    columns: tuple[Column, ...] = (*CELL, number("batch"), number("largest"), number("per hour", digits=2))
    columns += (number("1M tokens", digits=6), number("training", digits=6), Column("not known because"))
    rows = []
    for cell in cells:
        asked = cell["largest_batch_tried"] is not None or cell["largest_batch"] is not None
        if asked or cell["price_per_hour"] is not None:
            why = cell["reasons"].get("largest_batch") if asked else None
            rows.append((*cell_values(cell), *(cell[name] for name in names), why))
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
    return Table("Warnings", (number("times"), Column("what was seen (the first of its kind)")), rows)


def _half_width_pct(cell: Mapping[str, Any]) -> float | str | None:
    """Return half of the interval in percent; beyond 100 % (two processes that disagree) no digit means anything."""
    ci = cell["step_ms_ci"]
    width = None if ci is None else 50.0 * (ci[1] - ci[0]) / cell["step_ms"]
    return ">100" if width is not None and width > 100 else width


def quality_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return what each scored cell reaches, next to the oracle and the best trivial baseline."""
    columns: tuple[Column, ...] = (*CELL[:4], Column("dataset"), *CELL[5:], Column("metric"))
    columns += (
        number("value", digits=4),
        number("oracle", digits=4),
        number("of oracle", "%", 1),
        number("best trivial", digits=4),
    )
    columns += (number("n"),)
    rows: list[tuple[Any, ...]] = []
    for cell in cells:
        oracle, baseline = cell["oracle"] or {}, cell["baseline"] or {}
        primary = cell["quality_primary"]
        direction = cell["quality_direction"] or {}
        for metric, value in sorted((cell["quality"] or {}).items(), key=lambda kv: (kv[0] != primary, kv[0])):
            best = oracle.get(metric)
            values = cell_values(cell)
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
    columns = (*CELL, number("repeat"), Column("status"), Column("why"), Column("cell"))
    rows = [
        (*cell_values({**f["cell"], "variant": f["variant"]}), f["repeat"], f["status"], f["error"], f["cell_id"])
        for f in failures(run.records)
    ]
    return Table("Not measured", columns, tuple(rows))


def flat_table(run: Run, cells: Sequence[Mapping[str, Any]] | None = None) -> Table:
    """Return one row per cell with every plain field of its summary; nested ones as `outer.inner`."""
    found = summarise_run(run) if cells is None else cells
    flat = [_flatten(cell) for cell in found]
    names = list(dict.fromkeys(name for row in flat for name in row))
    names = [name for name in names if name != "run"]
    columns = tuple(Column(name) for name in ["run", *names])
    return Table("Cells", columns, tuple((run.name, *(row.get(name) for name in names)) for row in flat))


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, item in value.items():
        if name in (
            "bottlenecks",
            "interactions",
            "positions",
            "verdict_notes",
            "reasons",
            "training",
            "warnings",
            "error",
            "environment_ids",
            "baselines",
            "quality_direction",
        ):
            continue
        if isinstance(item, Mapping):
            out |= _flatten(item, f"{prefix}{name}.")
        elif isinstance(item, list):
            ends = ("low", "high")
            out |= {f"{prefix}{name}.{ends[i] if len(item) == 2 else i}": part for i, part in enumerate(item)}
        elif not (item is None and name in ("quality", "oracle", "baseline", "step_ms_ci", "headroom_ci")):
            out[prefix + name] = item
    return out
