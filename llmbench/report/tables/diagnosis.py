"""What `llmbench diagnose` prints: the verdict in words, every cause, the step, and what the time went to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.analysis import attribution
from llmbench.records import attempts
from llmbench.records.read import Run
from llmbench.report.cells.summary import summarise_run
from llmbench.report.findings import changes, spoken
from llmbench.report.table import Column, Table, interval_text, number, printable
from llmbench.report.tables.overview import warning_table

Cell = Mapping[str, Any]

#: What a diagnosis that leaves nothing open takes: so many steps, and so many seconds to start.
STEPS, START_S = 400, 20.0
NAMED = 6  # causes that a sentence names
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
    "where: the component, why: the resource; they cut the same time twice. (x): step time over the step time without "
    f"the cause; worth a change from {attribution.THRESHOLD:.2f}x on, with confidence",
)


def lines(run: Run, descriptions: Mapping[str, str] | None = None) -> list[str]:
    """Return the verdict, what rests on it, and what the budget went to, a sentence or two each."""
    record, (cell,) = run.records[-1], summarise_run(run)
    return [printable(line) for line in (*_verdict(cell, record, descriptions or {}), _spent(cell, record))]


def tables(run: Run) -> list[Table]:
    """Return the causes, the step and the warnings; empty ones are left out."""
    cells = summarise_run(run)
    found = [causes_table(cells[0]), step_table(cells[0], run), warning_table(cells)]
    return [table for table in found if table.rows]


def _verdict(cell: Cell, record: Mapping[str, Any], descriptions: Mapping[str, str]) -> list[str]:
    name, kind = cell["verdict"], "training step" if _trains(cell) else "step"
    what = f"A {kind} of {cell['model']} ({cell['device']}, {cell['precision']}; {cell['step_ms']:.3g} ms)"
    if name in (attribution.BALANCED, attribution.UNISOLATED, attribution.UNDECIDED):
        return [f"{what}: {_open(cell)}", *_next(cell, record)]
    meaning = f": {descriptions[name]}" if descriptions.get(name) else ""
    ci = interval_text(cell["headroom_ci"])
    out = [f"{what} is bounded by {spoken(name)} ({cell['verdict_class']}{meaning})."]
    sure = f", 95 % interval {ci}" if ci else ""
    text = f"Without it a step is {cell['headroom_measured_x']:.2f}x as fast (measured{sure}"
    predicted = cell["headroom_predicted_x"]
    out.append(text + (f"; predicted {predicted:.2f}x)." if predicted is not None else ")."))
    if cell["advice"]:
        out.append(f"What to change: {changes(cell)}.")
    other = cell["verdict_why"] if name == cell["verdict_where"] else None
    if other == attribution.UNDECIDED or name == cell["verdict_why"]:
        out += _undecided_axes(cell, record)
    elif other not in (None, attribution.BALANCED, attribution.UNISOLATED):
        row = next(row for row in cell["bottlenecks"] if row["cause"] == other)
        out.append(f"By resource: {spoken(other)}, {row['measured_x']:.2f}x ({interval_text(row['ci'])}).")
    return out


def _trains(cell: Cell) -> bool:
    return cell["stage"] != "eval"


def _open(cell: Cell) -> str:
    leading = ""
    rows = [row for row in cell["bottlenecks"] if row["measured_x"] is not None]
    if rows:
        row = max(rows, key=lambda row: row["measured_x"])
        leading = f" The largest is {spoken(row['cause'])}, {row['measured_x']:.2f}x ({interval_text(row['ci'])})."
    if cell["verdict"] == attribution.BALANCED:
        text = f"no single bottleneck. Nothing that was removed gives {attribution.THRESHOLD:.2f}x with confidence."
    elif cell["verdict"] == attribution.UNISOLATED:
        text = "its leading suspect cannot be removed alone, so nothing is proven."
    else:
        text = "not decided."
    return text + leading


def _next(cell: Cell, record: Mapping[str, Any]) -> list[str]:
    if cell["verdict"] == attribution.BALANCED:
        return ["No single change will do; a smaller model, lower precision or a faster machine would."]
    return _undecided_axes(cell, record)


def _undecided_axes(cell: Cell, record: Mapping[str, Any]) -> list[str]:
    """Return which causes are open, and the budget that may settle them."""
    rows = {row["cause"]: row for row in cell["bottlenecks"]}
    open_ = [
        f"{spoken(name)}" + (f" (predicted {row['predicted_x']:.2f}x)" if row["predicted_x"] is not None else "")
        for name, row in rows.items()
        if row["outcome"] == "out_of_time" and (row["predicted_x"] or math.inf) >= attribution.THRESHOLD
    ]
    wide = [
        spoken(name)
        for name, row in rows.items()
        if row["measured_x"] is not None and row["measured_x"] >= attribution.THRESHOLD and not row["material"]
    ]
    if not open_ and not wide:
        return []
    named = ", ".join(open_) if len(open_) <= NAMED else f"{len(open_)} causes"
    parts = [f"no time was left for {named}"] if open_ else []
    parts += [f"the interval of {', '.join(wide)} is too wide"] if wide else []
    text = "; ".join(parts)
    out = [f"{text[0].upper()}{text[1:]}: try a budget of {enough_s(cell, record):,.0f} s."]
    return [BUSY, *out] if attempts.disturbed(record) else out


def enough_s(cell: Cell, record: Mapping[str, Any]) -> float:
    """Return a budget that should settle what is open: by the length of a step, and more than what was given."""
    budget_s = float(record["budget"]["seconds"])
    return math.ceil(max(2 * budget_s, START_S + STEPS * cell["step_ms"] / 1e3) / 10) * 10


def _spent(cell: Cell, record: Mapping[str, Any]) -> str:
    spent = record.get("spent") or {}
    parts = [f"{SPENT[name]} {spent[name]:.1f} s" for name in SPENT if spent.get(name, 0.0) >= 0.05]
    text = f"It took {record['wall_s']:.1f} s of the budget of {record['budget']['seconds']:g} s: {', '.join(parts)}."
    largest = max(spent, key=lambda name: spent[name], default="")
    if record["wall_s"] > record["budget"]["seconds"] and largest in ("start_s", "target_s"):
        text += f" {SPENT[largest].capitalize()} left too little for the causes."
    return text


def causes_table(cell: Cell) -> Table:
    """Return every cause: measured ones first, by headroom; those that do not apply are a note."""
    columns: tuple[Column, ...] = (Column("cause"), Column("axis"), number("predicted", "x"), number("measured", "x"))
    columns += (Column("95 % interval"), number("pairs"), Column("what was done"), Column("because"))
    order = list(OUTCOMES)
    known = [row for row in cell["bottlenecks"] if row["outcome"] in OUTCOMES]
    rows = []
    for row in sorted(known, key=lambda row: order.index(row["outcome"])):
        sizes = (row["predicted_x"], row["measured_x"], interval_text(row["ci"]), row["pairs"] or None)
        rows.append((spoken(row["cause"]), row["axis"], *sizes, OUTCOMES[row["outcome"]], row["reason"] or ""))
    absent = [f"{spoken(r['cause'])} ({r['reason']})" for r in cell["bottlenecks"] if r["outcome"] == "does_not_apply"]
    notes = NOTES + ((f"does not apply: {'; '.join(absent)}",) if absent else ())
    return Table("Causes", columns, tuple(rows), notes)


def step_table(cell: Cell, run: Run) -> Table:
    """Return the step: its time, its phases, its batch, and the machine that it ran on."""
    environment = next(iter(run.environments.values()), {})
    ci = cell["step_ms_ci"]
    width = "" if ci is None else f" ± {50.0 * (ci[1] - ci[0]) / cell['step_ms']:.1f} %"
    shares = [f"{name} {100 * share:.1f} %" for name, share in cell["shares"].items() if share]
    rows: list[tuple[str, Any]] = [
        (
            "step",
            f"{cell['step_ms']:.4g} ms{width}, {cell['steps']} steps",
        ),
        ("phases", ", ".join(shares)),
        ("batch", f"{cell['batch_size']} x {cell['seq_len']}" + _padding(cell)),
        ("throughput", _throughput(cell)),
        ("peak memory", None if cell["peak_memory_mib"] is None else f"{cell['peak_memory_mib']:,.0f} MiB"),
        ("machine", _machine(environment)),
    ]
    note = "step: median of steps with nothing attached, of one process; phases from steps of their own"
    return Table("The step", (Column("what"), Column("value")), tuple(row for row in rows if row[1]), (note,))


def _padding(cell: Cell) -> str:
    return f", {cell['padding_pct']:.0f} % of it padding" if cell["padding_pct"] else ""


def _throughput(cell: Cell) -> str:
    names = (("tokens_per_s", "tokens/s"), ("samples_per_s", "rows/s"))
    return ", ".join(f"{cell[name]:,.0f} {unit}" for name, unit in names if cell[name])


def _machine(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages") or {}
    parts: Sequence[Any] = (
        environment.get("cpu"),
        f"{environment['usable_cores']} of {environment['cores']} cores" if environment.get("usable_cores") else None,
        f"{environment['torch_threads']} threads of torch" if environment.get("torch_threads") else None,
        f"torch {packages['torch']}" if packages.get("torch") else None,
        f"llmbench {packages['llmbench']}" if packages.get("llmbench") else None,
    )
    return ", ".join(str(part) for part in parts if part)
