"""The tables of a report. Values stay raw until they are rendered."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

from llmbench.records.read import Run
from llmbench.report.cells.summary import failures, oracle_pct, summarise_run
from llmbench.report.table import CELL, Column, Table, cell_values, number, with_cells
from llmbench.report.tables.learning import learning_table, missing_table, reach_table
from llmbench.report.tables.method import method_table
from llmbench.report.tables.remedies import remedy_tables
from llmbench.report.tables.roofline import roofline_table
from llmbench.report.tables.scaling import changes_table, scaling_table
from llmbench.report.tables.side_by_side import device_table, precision_table
from llmbench.report.tables.verdicts import causes_table, missing_causes_table, verdict_table

if TYPE_CHECKING:
    from llmbench.contract.record import CeilingEstimate, CellSummary
    from llmbench.report.formats.json import Studies

#: Titles of the tables that come first: the run, and its main result.
FIRST = ("Run", "What bounds each cell")


def run_tables(run: Run, cells: Sequence[CellSummary] | None = None, studies: Studies | None = None) -> list[Table]:
    """Return the tables of one run, from its machine to the methods of measurement; empty tables are left out.

    `cells` are the summaries of its cells and `studies` the rows of its studies, if the caller has them.
    """
    if cells is None:
        cells = summarise_run(run)
    tables = [header_table(run, cells), verdict_table(cells), *study_tables(run, studies), causes_table(cells)]
    tables += [missing_causes_table(cells), *remedy_tables(run, cells)]
    tables += [bottleneck_table(cells), hardware_table(cells), roofline_table(cells), quality_table(cells)]
    tables += [precision_table(run, cells), device_table(run, cells)]
    tables += [inference_table(cells), compilation_table(cells), capacity_table(cells)]
    tables += [limits_table(run), warning_table(cells), failure_table(run), method_table(cells)]
    return with_cells((table for table in tables if table.rows), cells)


def study_tables(run: Run, studies: Studies | None) -> list[Table]:
    """Return the tables of the studies of a run: the limits of learning, and the growth of cost."""
    learning = studies and studies["learning"]
    scaling = studies and studies["scaling"]
    return [
        learning_table(run.records, learning),
        missing_table(run.records, learning),
        reach_table(run.records, studies and studies["time_to_quality"]),
        scaling_table(run.records, scaling),
        changes_table(run.records, scaling),
    ]


#: The facts of a machine that a report begins with: they explain most differences.
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


def header_table(run: Run, cells: Sequence[CellSummary]) -> Table:
    """Return the number of cells by status, and the main facts of each environment."""
    statuses = Counter[str](cell["status"] for cell in cells)
    counts = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items(), key=lambda kv: (kv[0] != "ok", kv)))
    rows: list[tuple[object, ...]] = [("run", run.name), ("cells", f"{len(cells)} ({counts})" if counts else "0")]
    by_facts: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for identity, environment in run.environments.items():
        facts = tuple(
            (FACT_NAMES.get(name, name.removeprefix("packages.")), value)
            for name, value in _facts(environment)
            if name in HEADER_FACTS and value
        )
        by_facts.setdefault(facts, []).append(identity)
    for facts, identities in by_facts.items():
        rows += [("environment", ", ".join(identities)), *facts]
    return Table("Run", (Column("what"), Column("value")), tuple(rows), (ALL_FACTS,) if run.environments else ())


def _facts(environment: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
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
    """Return the measured limits of each machine, next to its datasheet."""
    columns: tuple[Column, ...] = (Column("device"), Column("ceiling"), number("measured", digits=1))
    columns += (number("±", "%", 1),)
    columns += (Column("unit"), number("datasheet", digits=1))
    rows: list[tuple[object, ...]] = []
    for doc in run.ceilings.values():
        datasheet = doc.get("datasheet")
        sheet = datasheet["flops_per_s"] if datasheet else {}
        for mode, matmul in doc["matmul"].items():
            if matmul is not None:
                printed = sheet.get(mode)
                peak = None if printed is None else printed / 1e9
                rows.append((doc["device"], f"matmul {mode}", matmul["value"] / 1e9, _spread(matmul), "GFLOP/s", peak))
        for level in doc["memory_levels"]:
            rates = cast("list[CeilingEstimate]", [e for name, e in level.items() if name.endswith("_per_s") and e])
            if rates:
                best = max(rates, key=lambda estimate: estimate["value"])
                what = f"memory, {level['level']}"
                rows.append((doc["device"], what, best["value"] / 1e9, _spread(best), "GB/s", None))
    notes = (
        "measured: on this machine, by `llmbench calibrate`; datasheet: the vendor's dense peak, if it is published",
    )
    return Table("What the hardware allows", columns, tuple(rows), notes)


def _spread(estimate: CeilingEstimate) -> float | None:
    """Return half of the interval of a ceiling, in percent of its value."""
    low, high = estimate.get("low"), estimate.get("high")
    return None if low is None or high is None else 50.0 * (high - low) / float(estimate["value"])


def bottleneck_table(cells: Sequence[CellSummary]) -> Table:
    """Return the shares of the phases in the time of each measured cell, in percent of the phase pass."""
    columns: tuple[Column, ...] = (*CELL, number("step", "ms"), number("±", "%", 1), number("tokens/s", digits=0))
    columns += tuple(number(n, "%", 1) for n in ("input", "copy", "fwd", "bwd", "opt", "padding"))
    columns += (number("peak", "MiB", 0),)
    show_suspect = any(cell["verdict"] is None for cell in cells)
    columns += (Column("suspect"),) if show_suspect else ()
    rows: list[tuple[object, ...]] = []
    for cell in cells:
        if cell["step_ms"] is None:
            continue
        shares = [cell["shares"][p] for p in ("input", "copy", "forward", "backward", "optimizer")]
        percents = [None if share is None else 100.0 * share for share in shares]
        values = (cell["step_ms"], _half_width_pct(cell), cell["tokens_per_s"], *percents)
        rows.append((*cell_values(cell), *values, cell["padding_pct"], cell["peak_memory_mib"]))
        rows[-1] += (cell["suspect"],) if show_suspect else ()
    notes: tuple[str, ...] = (
        "step: median of clean timed steps over all processes; ±: half of its 95 % interval; tokens: without padding",
    )
    if show_suspect:
        notes += ("suspect: the phase with the largest share, unverified (a share is not a proof)",)
    kinds = {cell["step_ms_ci_kind"] for cell in cells}
    if "moderated" in kinds:
        notes += (
            "±: between processes; these are few per cell, so the interval uses what all cells show of their spread",
        )
    if "stein" in kinds:
        notes += (
            "±: of as many processes as the first ones showed to be needed; it uses the spread of the first ones",
        )
    if "within" in kinds:
        notes += ("±: if a cell has one repeat, from that process only; another process may differ by more",)
    return Table("Where the time goes", columns, tuple(rows), notes)


def hardware_table(cells: Sequence[CellSummary]) -> Table:
    """Return the work of each traced cell, how close it comes to the ceilings, and the operators that take its time."""
    columns: tuple[Column, ...] = (*CELL, number("per step", "GFLOP", 2), number("moved", "MB", 1))
    columns += (number("FLOP/byte", digits=1), number("of peak", "%", 1), number("of bandwidth", "%", 1))
    columns += (number("MFU", "%", 1), number("residual", "%", 1), Column("time by operator class"))
    rows: list[tuple[object, ...]] = []
    for cell in cells:
        if cell["flops_per_step"] is None or cell["bytes_per_step"] is None:
            continue
        values = (cell["flops_per_step"] / 1e9, cell["bytes_per_step"] / 1e6, cell["arithmetic_intensity"])
        shares = (cell["ceiling_pct"], cell["bandwidth_pct"], cell["mfu_pct"], cell["phase_residual_pct"])
        rows.append((*cell_values(cell), *values, *shares, _classes(cell["operators"])))
    notes = (
        "of peak: FLOPs per second in % of the measured matmul ceiling; MFU: the model's FLOPs per second in % of the "
        "datasheet's peak",
        "of bandwidth: bytes per second that operators read and write, in % of the bandwidth of the memory that holds "
        "them",
        "residual: the part of the step that its phases do not explain; median over pairs of steps on the same batch",
    )
    return Table("What it asks of the hardware", columns, tuple(rows), notes)


def _classes(shares: Mapping[str, float] | None) -> str | None:
    """Return the four largest operator classes with their percent of the step."""
    if shares is None:
        return None
    return ", ".join(f"{name} {100 * share:.0f}" for name, share in list(shares.items())[:4])


def inference_table(cells: Sequence[CellSummary]) -> Table:
    """Return the times of the first token and of further tokens, of the cells that generate."""
    columns: tuple[Column, ...] = (*CELL, number("batch"), number("KV cache", "MiB"))
    columns += (number("TTFT", "ms"), number("TPOT", "ms"))
    columns += (number("generated", "tokens/s", 0),)
    names = ("batch_size", "kv_cache_mib", "ttft_ms", "tpot_ms", "generated_tokens_per_s")
    rows = [(*cell_values(cell), *map(cell.get, names)) for cell in cells if cell["ttft_ms"] is not None]
    notes = (
        "TTFT: time to the first token of a batch; TPOT: time per further token of its longest row; generated: the "
        "tokens of all rows",
        "KV cache: memory that the mean batch keeps from token to token (of a recurrent model: its state, and the "
        "vectors that it attends to)",
    )
    return Table("Inference", columns, tuple(rows), notes)


def compilation_table(cells: Sequence[CellSummary]) -> Table:
    """Return the cost of `torch.compile` for the cells that were compiled, and the steps after which it pays off."""
    counts: tuple[Literal["graphs", "recompilations"], ...] = ("graphs", "recompilations")
    columns: tuple[Column, ...] = (*CELL, number("compiling", "s", 1), *(number(name) for name in counts))
    columns += (number("graph breaks"), number("pays off after", "steps", 0), Column("because"))
    rows = []
    for cell in cells:
        done = cell["compilation"]
        if done is not None:
            numbers = (done["compile_s"], *(done[name] for name in counts), len(done["graph_breaks"]))
            reason = cell["reasons"].get("compile_pays_off_steps")
            rows.append((*cell_values(cell), *numbers, cell["compile_pays_off_steps"], reason or ""))
    notes = (
        "pays off: when the steps have saved as much time as compiling took, compared with the same cell without "
        "compile",
    )
    return Table("Compilation", columns, tuple(rows), notes)


def capacity_table(cells: Sequence[CellSummary]) -> Table:
    """Return the largest batch of the cells that searched it, and the costs of the cells that have a price."""
    names = ("batch_size", "largest_batch", "price_per_hour", "cost_per_million_tokens", "cost_of_training")
    columns: tuple[Column, ...] = (*CELL, number("batch"), number("largest"), number("per hour", digits=2))
    columns += (number("1M tokens", digits=6), number("training", digits=6), Column("not known because"))
    rows = []
    for cell in cells:
        asked = cell["largest_batch_tried"] is not None or cell["largest_batch"] is not None
        if asked or cell["price_per_hour"] is not None:
            why = cell["reasons"].get("largest_batch") if asked else None
            rows.append((*cell_values(cell), *map(cell.get, names), why))
    notes = (
        "largest: the largest batch of the longest sequences that fits; the true limit is up to 5 % higher",
        "costs: in the currency of the price; 1M tokens: without padding; training: the cell's own",
    )
    return Table("Capacity and cost", columns, tuple(rows), notes)


def warning_table(cells: Sequence[CellSummary]) -> Table:
    """Return the disturbances and doubts about measurements: one of each kind, and the number of times it came."""
    kinds: dict[str, tuple[int, str]] = {}
    for cell in cells:
        for text in (*cell["warnings"], *cell["unreliable"]):
            kind = re.sub(r"[-\d.]+", "#", text)
            count, first = kinds.get(kind, (0, text))
            kinds[kind] = (count + 1, first)
    rows = tuple((count, text) for count, text in sorted(kinds.values(), reverse=True))
    return Table("Warnings", (number("times"), Column("what was seen (the first of its kind)")), rows)


def _half_width_pct(cell: CellSummary) -> float | str | None:
    """Return half of the interval in percent; above 100 % (two processes that disagree) no digit means anything."""
    ci, step_ms = cell["step_ms_ci"], cell["step_ms"]
    width = None if ci is None or step_ms is None else 50.0 * (ci[1] - ci[0]) / step_ms
    return ">100" if width is not None and width > 100 else width


def quality_table(cells: Sequence[CellSummary]) -> Table:
    """Return the quality of each scored cell, next to the oracle and the best trivial baseline."""
    columns: tuple[Column, ...] = (*CELL[:4], Column("dataset"), *CELL[5:], Column("metric"))
    columns += (
        number("value", digits=4),
        number("oracle", digits=4),
        number("of oracle", "%", 1),
        number("best trivial", digits=4),
    )
    columns += (number("n"),)
    rows: list[tuple[object, ...]] = []
    for cell in cells:
        oracle, baseline = cell["oracle"] or {}, cell["baseline"] or {}
        primary = cell["quality_primary"]
        direction = cell["quality_direction"] or {}
        for metric, value in sorted((cell["quality"] or {}).items(), key=lambda kv: (kv[0] != primary, kv[0])):
            best = oracle.get(metric)
            values = cell_values(cell)
            where = (*values[:4], cell["dataset"], *values[5:], metric, value, best)
            share_pct = oracle_pct(value, best, direction.get(metric))
            rows.append((*where, share_pct, baseline.get(metric), cell["quality_examples"]))
    kinds = sorted({cell["oracle_kind"] for cell in cells if cell["oracle_kind"]})
    notes: tuple[str, ...] = ("best trivial: for each metric, the best of the baselines that use no model",)
    if kinds:
        notes += (
            f"oracle: a model that knows how the data was made ({', '.join(kinds)}); 100 %: as good as the oracle",
        )
    return Table("Quality", columns, tuple(rows), notes)


def failure_table(run: Run) -> Table:
    """Return every repeat that is not ok, and why."""
    columns = (*CELL, number("repeat"), Column("status"), Column("why"), Column("cell"))
    rows = [
        (*cell_values({**f["cell"], "variant": f["variant"]}), f["repeat"], f["status"], f["error"], f["cell_id"])
        for f in failures(run.records)
    ]
    return Table("Not measured", columns, tuple(rows))
