"""Tables of what is there before anything runs: the plan, the plugins, the machine."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmbench.report.tables import Column, Table

if TYPE_CHECKING:
    from llmbench.plan import Plan, PlannedCell
    from llmbench.plugins import Registry

#: kind of plugin -> attributes of its spec that say what it supports
SUPPORTS = {
    "model": ("layouts", "sizes", "engine"),
    "task": ("head", "metrics", "stages"),
    "dataset": ("tasks",),
    "metric": ("values",),
    "precision": ("devices", "parameters", "autocast"),
}
NOT_PREDICTED = "needs this machine's measured ceilings"


def plan_table(plan: Plan) -> Table:
    """Return the cells of `plan` in the order they run."""
    names = ("stage", "model", "size", "task", "dataset", "device", "precision", "seed")
    columns = (Column("#", align="right"), Column("cell"), *(Column(name) for name in names))
    columns += (Column("starts from"), Column("cannot run"))
    rows = []
    for number, planned in enumerate(plan.cells, start=1):
        fields = tuple(getattr(planned.cell, name) for name in names)
        rows.append((number, planned.cell.cell_id, *fields, planned.cell.parent or "", planned.blocked or ""))
    suite = plan.suite
    limit = f"{suite.repeats} repeats of each cell; at most {suite.budget.seconds:g} s of timing per cell"
    if suite.budget.max_repeats is not None:
        limit += f"; then up to {suite.budget.max_repeats} repeats, at the same pace, where they are asked for"
    notes = (limit, f"time and memory are not predicted: {NOT_PREDICTED}")
    return Table(f"Plan of {suite.name}: {len(rows)} cells", columns, tuple(rows), notes)


def plan_document(plans: Sequence[Plan]) -> dict[str, Any]:
    """Return the plans as one JSON-able document."""
    return {"schema_version": 1, "plans": [_plan(plan) for plan in plans]}


def _plan(plan: Plan) -> dict[str, Any]:
    cells = [_planned(planned) for planned in plan.cells]
    repeats = {"repeats": plan.suite.repeats, "max_repeats": plan.suite.budget.max_repeats}
    return {"suite": plan.suite.name, **repeats, "cells": cells}


def _planned(planned: PlannedCell) -> dict[str, Any]:
    cell = planned.cell
    unknown = dict.fromkeys(("predicted_s", "predicted_memory_mib"))
    out = {"cell_id": cell.cell_id, **cell.to_json(), "depends_on": [cell.parent] if cell.parent else []}
    return out | {"blocked": planned.blocked, **unknown, "reasons": dict.fromkeys(unknown, NOT_PREDICTED)}


def plugin_tables(registry: Registry) -> list[Table]:
    """Return what was found and who owns it; then what could not be loaded, and names claimed twice."""
    columns = tuple(Column(n) for n in ("name", "kind", "owner", "version", "supports"))
    found = [
        (name, kind, provided.owner.name, provided.owner.version, supports(kind, provided.spec))
        for kind, by_name in registry.by_kind.items()
        for name, provided in sorted(by_name.items())
    ]
    broken = [(b.owner.name, b.owner.version, b.owner.origin, b.error) for b in registry.broken]
    clashes = [(registry.clash_message(kind, name),) for kind, name in registry.clashes]
    tables = [
        Table("Plugins", columns, tuple(found)),
        Table("Not loaded", tuple(map(Column, ("owner", "version", "from", "error"))), tuple(broken)),
        Table("Claimed twice", (Column("what"),), tuple(clashes)),
    ]
    return [table for table in tables if table.rows]


def plugin_document(registry: Registry) -> dict[str, Any]:
    """Return the tables of the plugins as one JSON-able document."""
    keys = {"Plugins": "plugins", "Not loaded": "broken", "Claimed twice": "clashes"}
    out: dict[str, Any] = {key: [] for key in keys.values()}
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


def supports(kind: str, spec: Any) -> str:
    """Return what a plugin is for, in one line."""
    parts = [(field, _words(getattr(spec, field, None))) for field in SUPPORTS.get(kind, ())]
    return "; ".join(f"{field} {words}" for field, words in parts if words)


def _words(value: Any) -> str:
    """Return names and numbers as words; functions and empty values as nothing."""
    if value is None or value == "" or inspect.isroutine(value):
        return ""
    if isinstance(value, Mapping):
        plain = all(isinstance(v, str | int | float) for v in value.values())
        return ", ".join(f"{k} {v}" if plain else str(k) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(str, value))
    return str(value)


def machine_table(environment: Mapping[str, Any], problems: Sequence[str]) -> Table:
    """Return what of this machine can be used; what is missing is in the notes."""
    rows = [("python", environment.get("python")), ("cpu", environment.get("cpu"))]
    rows += [("cores", f"{environment.get('usable_cores')} of {environment.get('cores')}")]
    for device in environment.get("devices") or []:
        memory = device.get("memory_mib")
        size = "" if memory is None else f" ({memory:,.0f} MiB)"
        rows.append((f"device {device['device']}", f"{device.get('name')}{size}"))
    rows += [(package, version or "missing") for package, version in (environment.get("packages") or {}).items()]
    rows = [(what, value) for what, value in rows if value is not None]
    return Table("This machine", (Column("what"), Column("found")), tuple(rows), tuple(problems))
