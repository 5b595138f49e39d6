"""The effect of remedies: of each alone, and of the recommended configuration; predicted and measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from llmbench.analysis import remedy_trials
from llmbench.analysis.remedy_trials import ADD, CONFIRM, SCREEN, Names, Trials
from llmbench.contract.cell import Cell
from llmbench.records.read import Run
from llmbench.report.cells.summary import reproduce
from llmbench.report.table import CELL, Column, Table, cell_values, interval_text, number

if TYPE_CHECKING:
    from llmbench.contract.record import (
        CellSummary,
        ErrorFields,
        RecommendationRow,
        RemedyFields,
        RemedyRow,
        Row,
    )

NOTES = (
    "measured: throughput with the remedy divided by throughput without it (training: real tokens per second; "
    "prediction: examples per second), in pairs of processes that take turns; 95 % interval",
    "quality: mean difference over seeds, with Student's 95 % interval; both train on as many examples with the same "
    "seeds. A remedy with the same updates, up to rounding, is trained in the recommended configuration only",
    "kept: part of the recommended configuration; memory: change of the peak",
)


def remedy_rows(run: Run) -> list[RemedyRow]:
    """Return one row per cell and remedy, tried or not; the largest gain of a cell comes first."""
    rows: list[RemedyRow] = []
    for cell_id, trials in remedy_trials.trials_of(run.records).items():
        own = [_remedy_row(cell_id, name, trials, run.name) for name in _names(trials)]
        rows += sorted(own, key=lambda row: -(row["measured_x"] or 0.0))
    return rows


def _names(trials: Trials) -> list[str]:
    roles = [remedy_trials.round_and_names(role) for role in trials.by_role]
    return list(dict.fromkeys(names[0] for round_, names in roles if round_ == SCREEN and names))


def _fields_of(trials: Trials, name: str) -> RemedyFields:
    """Return the `remedy` field of the first trial of a remedy alone."""
    record = trials.first(SCREEN, (name,))
    return (record.get("remedy") if record else None) or {}


def _remedy_row(cell_id: str, name: str, trials: Trials, run: str) -> RemedyRow:
    fields = _fields_of(trials, name)
    estimate = remedy_trials.gain(trials, SCREEN, (), (name,))
    measured_x = None if estimate is None else estimate.value
    quality = _quality_fields(remedy_trials.quality_change(trials, (name,)))
    outcome, reason = _outcome(name, trials, measured_x, cast("str | None", quality["quality_outcome"]))
    row: Row = {
        "cell_id": cell_id,
        "remedy": name,
        "answers": fields.get("answers"),
        "because": fields.get("because"),
        "predicted_x": fields.get("predicted_x"),
        "measured_x": measured_x,
        "ci": None if estimate is None else estimate.ends,
        "pairs": 0 if estimate is None else len(trials.pairs(SCREEN, (), (name,))),
        "memory_change_mib": remedy_trials.memory_change_mib(trials, SCREEN, (name,)),
        **quality,
        "outcome": outcome,
        "reason": reason,
        "run": run,
    }
    return cast("RemedyRow", row)


def _quality_fields(change: Row | None) -> Row:
    """Return the fields of a row that say how quality changed; `change` is that of `remedy_trials.quality_change`."""
    if change is None:
        return {"quality_delta": {}, "quality_ci": None, "quality_outcome": None, "quality_seeds": 0}
    return {
        "quality_delta": {change["metric"]: change["delta"]},
        "quality_ci": change["ci"],
        "quality_outcome": change["outcome"],
        "quality_seeds": change["seeds"],
    }


def _outcome(name: str, trials: Trials, measured_x: float | None, quality: str | None) -> tuple[str, str | None]:
    """Return the outcome of a remedy, and its reason; `quality` is the outcome of training with it."""
    if measured_x is None:
        record = trials.first(SCREEN, (name,))
        error: ErrorFields = (record.get("error") if record else None) or {}
        message = " ".join(str(error.get("message")).split())
        return ("not tried", message) if error.get("type") == "NotTried" else ("failed", message)
    if name in (trials.recommendation() or ()):
        return "kept", None
    if measured_x < remedy_trials.LEAST_GAIN_X:
        return "no gain", None
    if quality in (remedy_trials.WORSE, remedy_trials.UNDECIDED):
        return "quality", f"{quality}, see its interval"
    return "not added", _gain_on_top(name, trials)


def _gain_on_top(name: str, trials: Trials) -> str:
    """Return the gain of a remedy on top of those that gain more, in words."""
    for role in trials.by_role:
        round_, after = remedy_trials.round_and_names(role)
        if round_ == f"{ADD}{name}" and name in after:
            estimate = remedy_trials.gain(trials, round_, after[:-1], after)
            if estimate is not None:
                return f"{estimate.value:.2f}x on top of {' + '.join(after[:-1])}"
    return "another of its kind gives more, or it does not go with the others"


def recommendation_rows(run: Run) -> list[RecommendationRow]:
    """Return the recommended configuration of each cell whose remedies were tried."""
    by_cell = remedy_trials.trials_of(run.records)
    cells = {record["cell_id"]: record["cell"] for record in run.records if record["cell_id"] in by_cell}
    rows = []
    for cell_id, trials in by_cell.items():
        names = trials.recommendation()
        if names is not None and cell_id in cells:
            cell = Cell.from_json(dict(cells[cell_id]))
            rows.append(_recommendation_row(cell_id, cell, names, trials, run))
    return rows


def _recommendation_row(cell_id: str, cell: Cell, names: Names, trials: Trials, run: Run) -> RecommendationRow:
    estimate = remedy_trials.gain(trials, CONFIRM, (), names)
    pairs = trials.pairs(CONFIRM, (), names)
    change = remedy_trials.quality_change(trials, names)
    row: dict[str, object] = {
        "cell_id": cell_id,
        "remedies": list(names),
        "changes": {},
        "predicted_x": _product(names, trials),
        "measured_x": None,
        "ci": None,
        "pairs": len(pairs),
        "unit": "tokens",
        "plain_per_s": None,
        "changed_per_s": None,
        "reproduce": None,
        "recommended_cell_id": None,
    }
    if estimate is not None:
        plain, changed = (Cell.from_json(record["cell"]) for record in pairs[0])
        recommended = remedy_trials.apply_differences(cell, plain, changed)
        command = run.commands.get(recommended.cell_id)
        row |= {
            "measured_x": estimate.value,
            "ci": estimate.ends,
            "unit": remedy_trials.unit_of(pairs[0][0]).removeprefix("step_"),
            "plain_per_s": 1 / _middle([remedy_trials.pace(pair[0]) for pair in pairs]),
            "changed_per_s": 1 / _middle([remedy_trials.pace(pair[1]) for pair in pairs]),
            "changes": remedy_trials.cell_differences(plain, changed),
            "recommended_cell_id": recommended.cell_id,
            "reproduce": None if command is None else reproduce(command, recommended.cell_id),
        }
    row["memory_change_mib"] = remedy_trials.memory_change_mib(trials, CONFIRM, names)
    row |= _quality_fields(change)
    row["quality"] = None if change is None else {name: change[name] for name in ("metric", "plain", "changed")}
    row["run"] = run.name
    return cast("RecommendationRow", row)


def _product(names: Names, trials: Trials) -> float | None:
    """Return the product of the predicted gains, with the gain measured alone where none was predicted."""
    product = 1.0
    for name in names:
        alone = remedy_trials.gain(trials, SCREEN, (), (name,))
        factor = _fields_of(trials, name).get("predicted_x") or (alone.value if alone else None)
        if factor is None:
            return None
        product *= factor
    return product


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def remedy_tables(run: Run, cells: Sequence[CellSummary]) -> list[Table]:
    """Return the recommended configurations, and every remedy; without trials, these tables have no rows."""
    by_id = {cell["cell_id"]: cell for cell in cells}
    return [recommendation_table(recommendation_rows(run), by_id), remedies_table(remedy_rows(run), by_id)]


def remedies_table(rows: Sequence[RemedyRow], cells: Mapping[str, Row]) -> Table:
    """Return every remedy of every cell: its gain, predicted and measured, its effect on quality, and its outcome."""
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


def quality_text(row: RemedyRow | RecommendationRow) -> str:
    """Return the change of the primary metric and its interval; nothing where nothing was measured."""
    for metric, delta in row["quality_delta"].items():
        ends = row["quality_ci"]
        around = "" if ends is None else f" ({ends[0]:+.3g} to {ends[1]:+.3g})"
        return f"{row['quality_outcome']}: {metric} {delta:+.3g}{around}"
    return "" if row["measured_x"] is None else "not trained alone"


def recommendation_table(rows: Sequence[RecommendationRow], cells: Mapping[str, Row]) -> Table:
    """Return the recommended configuration of each cell, its whole gain, and the command that runs it."""
    columns: tuple[Column, ...] = (*CELL, Column("change"), number("plain", "/s", 0), number("changed", "/s", 0))
    columns += (number("predicted", "x"), number("measured", "x"), Column("95 % interval"), number("memory", "MiB", 0))
    columns += (Column("quality, plain"), Column("changed by"), Column("run it with"))
    values = []
    for row in rows:
        quality = row["quality"]
        plain = f"{quality['metric']} {quality['plain']:.4g}" if quality else None
        change = " ".join(f"{name}={_word(value)}" for name, value in row["changes"].items())
        speeds = (row["plain_per_s"], row["changed_per_s"], row["predicted_x"], row["measured_x"])
        where = cell_values(cells.get(row["cell_id"], {}))
        end = (row["memory_change_mib"], plain, quality_text(row), row["reproduce"])
        values.append((*where, change, *speeds, interval_text(row["ci"]), *end))
    seeds = sorted({row["quality_seeds"] for row in rows})
    notes = (
        "measured: the gain of the whole configuration over the plain one, in pairs of processes that take turns; "
        "predicted: the product of the predicted gains of its remedies (without a prediction, of the gain alone)",
        f"/s: real tokens (prediction: examples); quality: mean, interval over {', '.join(map(str, seeds))} seeds",
    )
    return Table("Recommended", columns, tuple(values), notes)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
