"""What remedies did: each alone, and the configuration that is recommended, predicted and measured. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.analysis import remedy_trials
from llmbench.analysis.remedy_trials import ADD, CONFIRM, SCREEN, Names, Trials
from llmbench.contract.cell import Cell
from llmbench.records.read import Run
from llmbench.report.cells.summary import reproduce
from llmbench.report.table import CELL, Column, Table, cell_values, interval_text, number

Row = dict[str, Any]

NOTES = (
    "measured: throughput (real tokens per second in training, examples in prediction) with the remedy over without, "
    "in pairs of processes that take turns, 95 % interval",
    "quality: both trained on as many examples with the same seeds; the mean difference, and Student's 95 % interval "
    "over seeds. The same updates up to rounding are trained with the recommended configuration only",
    "kept: in the recommended configuration; memory: change of the peak",
)


def remedy_rows(run: Run) -> list[Row]:
    """Return one row per cell and remedy, tried or not, the largest gain of a cell first."""
    rows = []
    for cell_id, trials in remedy_trials.trials_of(run.records).items():
        own = [_remedy(cell_id, name, trials) for name in _names(trials)]
        rows += sorted(own, key=lambda row: -(row["measured_x"] or 0.0))
    return rows


def _names(trials: Trials) -> list[str]:
    found = [remedy_trials.round_and_names(role) for role in trials.by_role]
    return list(dict.fromkeys(names[0] for round_, names in found if round_ == SCREEN and names))


def _remedy(cell_id: str, name: str, trials: Trials) -> Row:
    first = trials.first(SCREEN, (name,)) or {}
    told = first.get("remedy") or {}
    estimate = remedy_trials.gain(trials, SCREEN, (), (name,))
    quality = remedy_trials.quality_change(trials, (name,))
    row: Row = {"cell_id": cell_id, "remedy": name, "answers": told.get("answers"), "because": told.get("because")}
    row |= {"predicted_x": told.get("predicted_x"), "measured_x": None, "ci": None, "pairs": 0}
    if estimate is not None:
        row |= {"measured_x": estimate.value, "ci": estimate.ends}
        row["pairs"] = len(trials.pairs(SCREEN, (), (name,)))
    row["memory_change_mib"] = remedy_trials.memory_change_mib(trials, SCREEN, (name,))
    row |= _quality(quality)
    row["outcome"], row["reason"] = _outcome(name, trials, first, row)
    return row


def _quality(change: Mapping[str, Any] | None) -> Row:
    if change is None:
        return {"quality_delta": {}, "quality_ci": None, "quality_outcome": None, "quality_seeds": 0}
    out: Row = {"quality_delta": {change["metric"]: change["delta"]}, "quality_ci": change["ci"]}
    return out | {"quality_outcome": change["outcome"], "quality_seeds": change["seeds"]}


def _outcome(name: str, trials: Trials, first: Mapping[str, Any], row: Row) -> tuple[str, str | None]:
    """Return what became of a remedy, and why."""
    if row["measured_x"] is None:
        error = first.get("error") or {}
        message = " ".join(str(error.get("message")).split())
        return ("not tried", message) if error.get("type") == "NotTried" else ("failed", message)
    if name in (trials.recommendation() or ()):
        return "kept", None
    if row["measured_x"] < remedy_trials.LEAST_GAIN_X:
        return "no gain", None
    if row["quality_outcome"] in (remedy_trials.WORSE, remedy_trials.UNDECIDED):
        return "quality", f"{row['quality_outcome']}, see its interval"
    return "not added", _on_top(name, trials)


def _on_top(name: str, trials: Trials) -> str:
    """Return what a remedy that gains alone gave on top of those that gain more."""
    for role in trials.by_role:
        round_, after = remedy_trials.round_and_names(role)
        if round_ == f"{ADD}{name}" and name in after:
            found = remedy_trials.gain(trials, round_, after[:-1], after)
            if found is not None:
                return f"{found.value:.2f}x on top of {' + '.join(after[:-1])}"
    return "another of its kind gives more, or it does not go with the others"


def recommendation_rows(run: Run) -> list[Row]:
    """Return the recommended configuration of each cell whose remedies were tried."""
    found = remedy_trials.trials_of(run.records)
    cells = {record["cell_id"]: record["cell"] for record in run.records if record["cell_id"] in found}
    rows = []
    for cell_id, trials in found.items():
        names = trials.recommendation()
        if names is not None and cell_id in cells:
            rows.append(_recommendation(cell_id, Cell.from_json(cells[cell_id]), names, trials, run))
    return rows


def _recommendation(cell_id: str, cell: Cell, names: Names, trials: Trials, run: Run) -> Row:
    estimate = remedy_trials.gain(trials, CONFIRM, (), names)
    pairs = trials.pairs(CONFIRM, (), names)
    change = remedy_trials.quality_change(trials, names)
    row: Row = {"cell_id": cell_id, "remedies": list(names), "changes": {}, "predicted_x": _product(names, trials)}
    row |= {"measured_x": None, "ci": None, "pairs": len(pairs), "unit": "tokens", "plain_per_s": None}
    row |= {"changed_per_s": None, "reproduce": None, "recommended_cell_id": None}
    if estimate is not None:
        row |= {"measured_x": estimate.value, "ci": estimate.ends}
        row["unit"] = remedy_trials.unit_of(pairs[0][0]).removeprefix("step_")
        row |= {f"{k}_per_s": 1 / _middle([remedy_trials.pace(p[i]) for p in pairs]) for i, k in enumerate(_SIDES)}
        plain, other = (Cell.from_json(record["cell"]) for record in pairs[0])
        better = remedy_trials.apply_differences(cell, plain, other)
        command = run.commands.get(better.cell_id)
        row |= {"changes": remedy_trials.cell_differences(plain, other), "recommended_cell_id": better.cell_id}
        row["reproduce"] = None if command is None else reproduce(command, better.cell_id)
    row["memory_change_mib"] = remedy_trials.memory_change_mib(trials, CONFIRM, names)
    row |= _quality(change)
    return row | {"quality": None if change is None else {k: change[k] for k in ("metric", "plain", "changed")}}


_SIDES = ("plain", "changed")


def _product(names: Names, trials: Trials) -> float | None:
    """Return the product of what each was predicted to give, of what it gave alone where nothing was predicted."""
    product = 1.0
    for name in names:
        told = (trials.first(SCREEN, (name,)) or {}).get("remedy") or {}
        alone = remedy_trials.gain(trials, SCREEN, (), (name,))
        factor = told.get("predicted_x") or (alone.value if alone else None)
        if factor is None:
            return None
        product *= factor
    return product


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def remedy_tables(run: Run, cells: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return what is recommended, and every remedy that was tried; without trials, tables without rows."""
    by_id = {cell["cell_id"]: cell for cell in cells}
    return [recommendation_table(recommendation_rows(run), by_id), remedies_table(remedy_rows(run), by_id)]


def remedies_table(rows: Sequence[Row], cells: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return every remedy of every cell: predicted, measured, what it did to memory and quality, what became of it."""
    columns: tuple[Column, ...] = (*CELL, Column("remedy"), number("predicted", "x"), number("measured", "x"))
    columns += (Column("95 % interval"), number("memory", "MiB", 0), Column("quality"), Column("outcome"))
    columns += (Column("because"),)
    values = []
    for row in rows:
        sizes = (row["predicted_x"], row["measured_x"], interval_text(row["ci"]), row["memory_change_mib"])
        why = row["reason"] or (row["because"] if row["predicted_x"] is None else None)
        where = cell_values(cells.get(row["cell_id"], {}))
        values.append((*where, row["remedy"], *sizes, quality_text(row), row["outcome"], why or ""))
    return Table("Remedies", columns, tuple(values), NOTES)


def quality_text(row: Row) -> str:
    """Return the change of the primary metric and its interval; nothing where it was not trained."""
    for metric, delta in row["quality_delta"].items():
        ends = row["quality_ci"]
        around = "" if ends is None else f" ({ends[0]:+.3g} to {ends[1]:+.3g})"
        return f"{row['quality_outcome']}: {metric} {delta:+.3g}{around}"
    return "" if row["measured_x"] is None else "not trained alone"


def recommendation_table(rows: Sequence[Row], cells: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the recommended configuration of each cell, its whole gain, and the command that runs it."""
    columns: tuple[Column, ...] = (*CELL, Column("change"), number("plain", "/s", 0), number("changed", "/s", 0))
    columns += (number("predicted", "x"), number("measured", "x"), Column("95 % interval"), number("memory", "MiB", 0))
    columns += (Column("quality, plain"), Column("changed by"), Column("run it with"))
    values = []
    for row in rows:
        quality = row["quality"] or {}
        plain = f"{quality['metric']} {quality['plain']:.4g}" if quality else None
        change = " ".join(f"{name}={_word(value)}" for name, value in row["changes"].items())
        speeds = (
            row["plain_per_s"],
            row["changed_per_s"],
            row["predicted_x"],
            row["measured_x"],
            interval_text(row["ci"]),
        )
        where = cell_values(cells.get(row["cell_id"], {}))
        end = (row["memory_change_mib"], plain, quality_text(row), row["reproduce"])
        values.append((*where, change, *speeds, *end))
    seeds = sorted({row["quality_seeds"] for row in rows})
    notes = (
        "the whole gain against the plain configuration, in pairs of processes that take turns; predicted: the product "
        "of what each remedy was predicted to give (of what it gave alone, where nothing was predicted)",
        f"/s: real tokens (in prediction: examples); quality: mean, interval over {', '.join(map(str, seeds))} seeds",
    )
    return Table("Recommended", columns, tuple(values), notes)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
