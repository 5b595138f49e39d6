"""Tables of what is known before a run: the plan, the plugins, the machine."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmbench.analysis.lower_bounds import Prediction, total_s
from llmbench.report.table import Column, Table, number

if TYPE_CHECKING:
    from llmbench.contract.record import JsonObject, Row
    from llmbench.plugins.registry import Registry
    from llmbench.suite.plan import Plan, PlannedCell

#: Kind of plugin -> the attributes of its spec that say what it supports.
SUPPORTS = {
    "model": ("layouts", "sizes", "engine"),
    "task": ("head", "metrics", "stages"),
    "dataset": ("tasks",),
    "metric": ("values",),
    "precision": ("devices", "parameters", "autocast"),
    "remedy": ("answers", "devices"),
}


def plan_table(plan: Plan, predicted: Mapping[str, Prediction]) -> Table:
    """Return the cells of `plan` in the order they run; `predicted` by cell id."""
    names = ("stage", "model", "size", "task", "dataset", "device", "precision", "seed")
    columns = (Column("#", align="right"), Column("cell"), *(Column(name) for name in names))
    columns += (number("step", "ms, at best", 2), number("time", "s, at least", 1), number("state", "MiB", 1))
    columns += (Column("starts from"), Column("cannot run"))
    rows = []
    for place, planned in enumerate(plan.cells, start=1):
        cell, one = planned.cell, predicted[planned.cell.cell_id]
        least = (None if one.step_s is None else 1e3 * one.step_s, one.seconds, one.memory_mib)
        fields = tuple(getattr(cell, name) for name in names)
        rows.append((place, cell.cell_id, *fields, *least, cell.parent or "", planned.obstacle or ""))
    suite = plan.suite
    limit = f"{suite.repeats} repeats of each cell; at most {suite.budget.seconds:g} s of timing per cell"
    if suite.budget.max_repeats is not None:
        limit += f"; then up to {suite.budget.max_repeats} repeats, at the same pace, where they are asked for"
    return Table(f"Plan of {suite.name}: {len(rows)} cells", columns, tuple(rows), (limit, *_basis(plan, predicted)))


def _basis(plan: Plan, predicted: Mapping[str, Prediction]) -> tuple[str, ...]:
    """Return how the predictions were made, and why some are missing."""
    able = [predicted[one.cell.cell_id] for one in plan.cells if one.obstacle is None]
    reasons = dict.fromkeys(reason for one in able for reason in one.reasons.values())
    whole_s = total_s(able)
    notes = (
        "step: the time of the FLOPs of the longest sequences, and of the update, at the measured ceilings",
        "state: weights; in training also gradients and optimizer state; activations come on top",
        "time: timing, trials and training at that pace; starting, data and scoring come on top"
        + ("" if whole_s is None else f"; all cells: {whole_s:,.0f} s"),
    )
    return (*notes, *(f"not predicted: {reason}" for reason in reasons))


def plan_document(plans: Sequence[Plan], predicted: Mapping[str, Prediction]) -> JsonObject:
    """Return the plans as one document of JSON values."""
    return {"schema_version": 1, "plans": [_plan_parts(plan, predicted) for plan in plans]}


def _plan_parts(plan: Plan, predicted: Mapping[str, Prediction]) -> Row:
    cells = [_cell_row(planned, predicted[planned.cell.cell_id]) for planned in plan.cells]
    repeats = {"repeats": plan.suite.repeats, "max_repeats": plan.suite.budget.max_repeats}
    able = [predicted[one.cell.cell_id] for one in plan.cells if one.obstacle is None]
    return {"suite": plan.suite.name, **repeats, "predicted_s": total_s(able), "cells": cells}


def _cell_row(planned: PlannedCell, one: Prediction) -> Row:
    cell = planned.cell
    out = {"cell_id": cell.cell_id, **cell.to_json(), "depends_on": [cell.parent] if cell.parent else []}
    names = {"parameters": "parameters", "step_s": "predicted_step_s", "seconds": "predicted_s"}
    names["memory_mib"] = "predicted_memory_mib"
    known = {name: getattr(one, own) for own, name in names.items()}
    reasons = {names[own]: reason for own, reason in one.reasons.items()}
    return out | {"blocked": planned.obstacle, **known, "reasons": reasons}


def plugin_tables(registry: Registry) -> list[Table]:
    """Return the plugins with their owners; then those that could not be loaded, and names that two claim."""
    columns = tuple(Column(n) for n in ("name", "kind", "owner", "version", "supports"))
    plugins = [
        (name, kind, provided.owner.name, provided.owner.version, supports(kind, provided.spec))
        for kind, by_name in registry.by_kind.items()
        for name, provided in sorted(by_name.items())
    ]
    broken = [(b.owner.name, b.owner.version, b.owner.origin, b.error) for b in registry.failures]
    clashes = [(registry.clash_message(kind, name),) for kind, name in registry.clashes]
    remarks = [(r.owner.name, r.owner.version, r.owner.origin, r.error) for r in registry.remarks]
    tables = [
        Table("Plugins", columns, tuple(plugins)),
        Table("Not loaded", tuple(map(Column, ("owner", "version", "from", "error"))), tuple(broken)),
        Table("Claimed twice", (Column("what"),), tuple(clashes)),
        Table("Remarks", tuple(map(Column, ("owner", "version", "from", "remark"))), tuple(remarks)),
    ]
    return [table for table in tables if table.rows]


def plugin_document(registry: Registry) -> JsonObject:
    """Return the tables of the plugins as one document of JSON values."""
    keys = {"Plugins": "plugins", "Not loaded": "broken", "Claimed twice": "clashes", "Remarks": "remarks"}
    out: JsonObject = {key: [] for key in keys.values()}
    for table in plugin_tables(registry):
        names = [column.name for column in table.columns]
        out[keys[table.title]] = [dict(zip(names, row, strict=True)) for row in table.rows]
    return out


def plugin_details(registry: Registry, kind: str, name: str) -> Table:
    """Return everything that one plugin's spec says. Raises PluginError for a name that is claimed twice."""
    spec = registry.get(kind, name)
    owner = registry.by_kind[kind][name].owner
    rows = [("kind", kind), ("owner", f"{owner} ({owner.origin})")]
    rows += [(field, _words(value)) for field, value in vars(spec).items() if _words(value)]
    return Table(name, (Column("what"), Column("value")), tuple(rows))


def supports(kind: str, spec: object) -> str:
    """Return the things that a plugin supports, in one line."""
    parts = [(field, _words(getattr(spec, field, None))) for field in SUPPORTS.get(kind, ())]
    return "; ".join(f"{field} {words}" for field, words in parts if words)


def _words(value: object) -> str:
    """Return names and numbers as words; an empty text for functions and empty values."""
    if value is None or value == "" or inspect.isroutine(value):
        return ""
    if isinstance(value, Mapping):
        plain = all(isinstance(v, str | int | float) for v in value.values())
        return ", ".join(f"{k} {v}" if plain else str(k) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(str, value))
    return str(value)


def machine_table(environment: JsonObject, problems: Sequence[str]) -> Table:
    """Return the parts of this machine that can be used; the notes say what is missing."""
    rows = [("python", environment.get("python")), ("cpu", environment.get("cpu"))]
    rows += [("cores", f"{environment.get('usable_cores')} of {environment.get('cores')}")]
    for device in environment.get("devices") or []:
        memory = device.get("memory_mib")
        size = "" if memory is None else f" ({memory:,.0f} MiB)"
        rows.append((f"device {device['device']}", f"{device.get('name')}{size}"))
    rows += [(package, version or "missing") for package, version in (environment.get("packages") or {}).items()]
    rows = [(what, value) for what, value in rows if value is not None]
    return Table("This machine", (Column("what"), Column("found")), tuple(rows), tuple(problems))
