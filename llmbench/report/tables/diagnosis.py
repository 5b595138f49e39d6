"""The output of `llmbench diagnose`: the verdict in words, every cause, the step, and the use of the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmbench.analysis import attribution
from llmbench.records import attempts
from llmbench.records.read import Run
from llmbench.report.cells.summary import summarise_run
from llmbench.report.findings import changes, to_words
from llmbench.report.table import Column, Table, interval_text, number, printable
from llmbench.report.tables.overview import warning_table

if TYPE_CHECKING:
    from llmbench.contract.record import BottleneckRow, CellSummary, JsonObject, Record

#: Steps that a diagnosis takes that leaves nothing open (of the cases that were tried).
ENOUGH_STEPS = 400
#: Seconds that such a diagnosis takes to start.
START_S = 20.0
#: A sentence names so many causes at most, else their number.
MOST_NAMED_CAUSES = 6
OUTCOMES = {
    "measured": "removed and measured",
    "not_selected": "predicted, not among the leading ones",
    "out_of_time": "no time",
    "unisolated": "cannot be removed alone",
    "failed": "failed",
}
SPENT = {
    "start_s": "starting",
    "target_s": "model and data",
    "measure_s": "the step",
    "verify_s": "causes",
}
BUSY = "Other processes took the cores that it runs on: measure again with nothing else running."
NOTES = (
    "where: the component; why: the resource. Both describe the same time. (x): step time divided by the step time "
    f"without the cause; a change is worth it from {attribution.THRESHOLD:.2f}x on, with confidence",
)


def lines(run: Run, descriptions: Mapping[str, str] | None = None) -> list[str]:
    """Return the verdict, the advice, and the use of the budget, a sentence or two each."""
    record, (cell,) = run.records[-1], summarise_run(run)
    return [printable(line) for line in (*_verdict_lines(cell, record, descriptions or {}), _describe_budget(record))]


def tables(run: Run) -> list[Table]:
    """Return the causes, the step and the warnings; empty ones are left out."""
    cells = summarise_run(run)
    every = [causes_table(cells[0]), step_table(cells[0], run), warning_table(cells)]
    return [table for table in every if table.rows]


def _verdict_lines(cell: CellSummary, record: Record, descriptions: Mapping[str, str]) -> list[str]:
    name, kind = cell["verdict"], "training step" if _trains(cell) else "step"
    what = f"A {kind} of {cell['model']} ({cell['device']}, {cell['precision']}; {cell['step_ms']:.3g} ms)"
    if name is None or name in (attribution.BALANCED, attribution.UNISOLATED, attribution.UNDECIDED):
        return [f"{what}: {_describe_open(cell)}", *_next_steps(cell, record)]
    meaning = f": {descriptions[name]}" if descriptions.get(name) else ""
    ci = interval_text(cell["headroom_ci"])
    out = [f"{what} is bounded by {to_words(name)} ({cell['verdict_class']}{meaning})."]
    sure = f", 95 % interval {ci}" if ci else ""
    text = f"Without it a step is {cell['headroom_measured_x']:.2f}x as fast (measured{sure}"
    predicted = cell["headroom_predicted_x"]
    out.append(text + (f"; predicted {predicted:.2f}x)." if predicted is not None else ")."))
    if cell["advice"]:
        out.append(f"What to change: {changes(cell)}.")
    other = cell["verdict_why"] if name == cell["verdict_where"] else None
    if other == attribution.UNDECIDED or name == cell["verdict_why"]:
        out += _explain_undecided(cell, record)
    elif other not in (None, attribution.BALANCED, attribution.UNISOLATED):
        row = next(row for row in cell["bottlenecks"] if row["cause"] == other)
        out.append(f"By resource: {to_words(other)}, {row['measured_x']:.2f}x ({interval_text(row['ci'])}).")
    return out


def _trains(cell: CellSummary) -> bool:
    return cell["stage"] != "eval"


def _describe_open(cell: CellSummary) -> str:
    """Return the verdict of a cell for which no cause is named, and the largest cause that was measured."""
    leading = ""
    sizes = [(gain, row) for row in cell["bottlenecks"] if (gain := row["measured_x"]) is not None]
    if sizes:
        gain, row = max(sizes, key=lambda pair: pair[0])
        leading = f" The largest is {to_words(row['cause'])}, {gain:.2f}x ({interval_text(row['ci'])})."
    if cell["verdict"] == attribution.BALANCED:
        text = f"no single bottleneck. Nothing that was removed gives {attribution.THRESHOLD:.2f}x with confidence."
    elif cell["verdict"] == attribution.UNISOLATED:
        text = "its leading suspect cannot be removed alone, so nothing is proven."
    else:
        text = "not decided."
    return text + leading


def _next_steps(cell: CellSummary, record: Record) -> list[str]:
    if cell["verdict"] == attribution.BALANCED:
        return ["No single change will do; a smaller model, lower precision or a faster machine would."]
    return _explain_undecided(cell, record)


def _explain_undecided(cell: CellSummary, record: Record) -> list[str]:
    """Return the causes that are open, and the budget that may decide them."""
    rows = {row["cause"]: row for row in cell["bottlenecks"]}
    untried = [to_words(name) + _prediction_text(row) for name, row in rows.items() if _may_matter_untried(row)]
    wide = [
        to_words(name)
        for name, row in rows.items()
        if row["measured_x"] is not None and row["measured_x"] >= attribution.THRESHOLD and not row["material"]
    ]
    if not untried and not wide:
        return []
    named = ", ".join(untried) if len(untried) <= MOST_NAMED_CAUSES else f"{len(untried)} causes"
    parts = [f"no time was left for {named}"] if untried else []
    parts += [f"the interval of {', '.join(wide)} is too wide"] if wide else []
    text = "; ".join(parts)
    out = [f"{text[0].upper()}{text[1:]}: try a budget of {enough_s(cell, record):,.0f} s."]
    return [BUSY, *out] if attempts.is_disturbed(record) else out


def _may_matter_untried(row: BottleneckRow) -> bool:
    """Return whether a cause had no time and may be worth a change, as far as its prediction says."""
    return row["outcome"] == "out_of_time" and (row["predicted_x"] or math.inf) >= attribution.THRESHOLD


def _prediction_text(row: BottleneckRow) -> str:
    return f" (predicted {row['predicted_x']:.2f}x)" if row["predicted_x"] is not None else ""


def enough_s(cell: CellSummary, record: Record) -> float:
    """Return a budget (s) that should decide the open causes: by the step time, and twice the one given at least."""
    budget_s, step_s = float(record["budget"]["seconds"]), (cell["step_ms"] or 0.0) / 1e3
    return math.ceil(max(2 * budget_s, START_S + ENOUGH_STEPS * step_s) / 10) * 10


def _describe_budget(record: Record) -> str:
    spent, wall_s, budget_s = record.get("spent") or {}, record["wall_s"] or 0.0, record["budget"]["seconds"]
    parts = [f"{SPENT[name]} {spent[name]:.1f} s" for name in SPENT if spent.get(name, 0.0) >= 0.05]
    text = f"It took {wall_s:.1f} s of the budget of {budget_s:g} s: {', '.join(parts)}."
    largest = max(spent, key=lambda name: spent[name], default="")
    if wall_s > budget_s and largest in ("start_s", "target_s"):
        text += f" {SPENT[largest].capitalize()} left too little for the causes."
    return text


def causes_table(cell: CellSummary) -> Table:
    """Return every cause: measured ones first, by headroom; a note names those that do not apply."""
    columns: tuple[Column, ...] = (Column("cause"), Column("axis"), number("predicted", "x"), number("measured", "x"))
    columns += (Column("95 % interval"), number("pairs"), Column("what was done"), Column("because"))
    order = list(OUTCOMES)
    known = [row for row in cell["bottlenecks"] if row["outcome"] in OUTCOMES]
    rows = []
    for row in sorted(known, key=lambda row: order.index(row["outcome"])):
        sizes = (row["predicted_x"], row["measured_x"], interval_text(row["ci"]), row["pairs"] or None)
        rows.append((to_words(row["cause"]), row["axis"], *sizes, OUTCOMES[row["outcome"]], row["reason"] or ""))
    absent = [
        f"{to_words(r['cause'])} ({r['reason']})" for r in cell["bottlenecks"] if r["outcome"] == "does_not_apply"
    ]
    notes = NOTES + ((f"does not apply: {'; '.join(absent)}",) if absent else ())
    return Table("Causes", columns, tuple(rows), notes)


def step_table(cell: CellSummary, run: Run) -> Table:
    """Return the step: its time, its phases, its batch, and the machine that it ran on."""
    environment = dict(next(iter(run.environments.values()), {}))
    ci, step_ms = cell["step_ms_ci"], cell["step_ms"] or 0.0
    width = "" if ci is None else f" ± {50.0 * (ci[1] - ci[0]) / step_ms:.1f} %"
    shares = [f"{name} {100 * share:.1f} %" for name, share in cell["shares"].items() if share]
    rows: list[tuple[str, str | None]] = [
        ("step", f"{step_ms:.4g} ms{width}, {cell['steps']} steps"),
        ("phases", ", ".join(shares)),
        ("batch", f"{cell['batch_size']} x {cell['seq_len']}" + _padding(cell)),
        ("throughput", _throughput(cell)),
        ("peak memory", None if cell["peak_memory_mib"] is None else f"{cell['peak_memory_mib']:,.0f} MiB"),
        ("machine", _machine(environment)),
    ]
    note = "step: median of steps with nothing attached, of one process; phases: from separate steps"
    return Table("The step", (Column("what"), Column("value")), tuple(row for row in rows if row[1]), (note,))


def _padding(cell: CellSummary) -> str:
    return f", {cell['padding_pct']:.0f} % of it padding" if cell["padding_pct"] else ""


def _throughput(cell: CellSummary) -> str:
    rates = ((cell["tokens_per_s"], "tokens/s"), (cell["samples_per_s"], "rows/s"))
    return ", ".join(f"{rate:,.0f} {unit}" for rate, unit in rates if rate)


def _machine(environment: JsonObject) -> str:
    packages = environment.get("packages") or {}
    parts: Sequence[object] = (
        environment.get("cpu"),
        f"{environment['usable_cores']} of {environment['cores']} cores" if environment.get("usable_cores") else None,
        f"{environment['torch_threads']} threads of torch" if environment.get("torch_threads") else None,
        f"torch {packages['torch']}" if packages.get("torch") else None,
        f"llmbench {packages['llmbench']}" if packages.get("llmbench") else None,
    )
    return ", ".join(str(part) for part in parts if part)
