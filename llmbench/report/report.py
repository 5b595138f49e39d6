"""A report: what all renderers are given. Everything in it is made once, when it is first asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from llmbench.records.read import Run
from llmbench.report.cells.summary import failures, summarise_run
from llmbench.report.findings import Finding, derive_findings
from llmbench.report.formats import json as contract
from llmbench.report.table import Column, Table
from llmbench.report.tables.overview import FIRST, run_tables
from llmbench.report.tables.remedies import recommendation_rows
from llmbench.report.tables.side_by_side import build_side_by_side

#: Tables that say the same of each machine: once is enough.
ONCE = ("How the numbers were obtained",)
#: Runs that are named in the title, and whose machines stand in columns.
MOST_BESIDE = 5


class Report:
    """One or many runs with what is derived from them: summaries, findings, tables, and the contract's document.

    `baseline` is the name of the run that the others are held against; `descriptions` says what a cause is; `formats`
    are the reporters that there are, by name.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        baseline: str | None = None,
        descriptions: Mapping[str, str] | None = None,
        formats: Mapping[str, Callable[[Report], str | bytes]] | None = None,
    ) -> None:
        self.runs = tuple(runs)
        self.baseline = baseline or (self.runs[0].name if len(self.runs) > 1 else None)
        self.descriptions = dict(descriptions or {})
        self.formats = dict(formats or {})

    def render(self, form: str) -> str | bytes:
        """Return the report in another format of `formats`, for reporters that send or store whole documents."""
        return self.formats[form](self)

    @property
    def title(self) -> str:
        """The names of the runs; of many, how many they are."""
        return ", ".join(run.name for run in self.runs) if len(self.runs) <= MOST_BESIDE else f"{len(self.runs)} runs"

    @cached_property
    def summaries(self) -> list[list[dict[str, Any]]]:
        """Per run, a summary of each cell, with the fields of `report --format json`."""
        return [summarise_run(run) for run in self.runs]

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """The summaries of all runs, each with the name of its `run`."""
        return [cell for cells in self.summaries for cell in cells]

    @cached_property
    def failures(self) -> list[list[dict[str, Any]]]:
        """Per run, what went wrong and was not made good."""
        return [failures(run.records) for run in self.runs]

    @cached_property
    def studies(self) -> list[dict[str, list[dict[str, Any]]]]:
        """Per run, what it says of learning, of time to quality and of scaling."""
        return [contract.studied(run) for run in self.runs]

    @cached_property
    def findings(self) -> list[Finding]:
        """What bounds each kind of work, and what to do."""
        recommended = [{**row, "run": run.name} for run in self.runs for row in recommendation_rows(run)]
        return derive_findings(self.cells, self.descriptions, recommended, several=len(self.runs) > 1)

    @cached_property
    def tables(self) -> list[Table]:
        """The tables in the order they are read. Those of several runs are one each, with a column for the run."""
        parts = zip(self.runs, self.summaries, self.studies, strict=True)
        found = [run_tables(run, cells, studies) for run, cells, studies in parts]
        if len(found) == 1:
            return found[0]
        merged = merge([run.name for run in self.runs], found)
        beside = build_side_by_side(list(zip(self.runs, self.summaries, strict=True)), "run", self.baseline)
        at = sum(table.title in FIRST for table in merged)
        return [*merged[:at], beside, *merged[at:]] if beside.rows else merged

    @cached_property
    def commands(self) -> dict[str, str]:
        """Cell id -> the command line that measures it again."""
        return {cell["cell_id"]: cell["reproduce"] for cell in self.cells if cell["reproduce"]}

    @property
    def command_patterns(self) -> list[str]:
        """The commands with `CELL` in place of a cell's id: mostly one per run."""
        return list(dict.fromkeys(command.replace(cell, "CELL") for cell, command in self.commands.items()))

    @cached_property
    def document(self) -> dict[str, Any]:
        """The report as one JSON-able document, as `report --format json` has it."""
        return contract.whole(self._parts())

    @property
    def document_bytes(self) -> bytearray:
        """The document as strict JSON in UTF-8, made without ever holding all of it as objects."""
        return contract.written(self._parts())

    def _parts(self) -> dict[str, Any]:
        return contract.assemble(self.runs, self.summaries, self.failures, self.studies)


def merge(names: Sequence[str], reports: Sequence[Sequence[Table]]) -> list[Table]:
    """Return one table per title, with the rows of all runs; a column says which run a row is of."""
    by_title: dict[str, list[tuple[str, Table]]] = {}
    for name, tables in zip(names, reports, strict=True):
        for table in tables:
            by_title.setdefault(table.title, []).append((name, table))
    order = _order(reports)
    return [_merged(by_title[title]) for title in order]


def _order(reports: Sequence[Sequence[Table]]) -> list[str]:
    """Return all titles so that each run's order is kept: a title goes behind the one before it in its run."""
    order: list[str] = []
    for tables in reports:
        at = 0
        for table in tables:
            if table.title in order:
                at = order.index(table.title) + 1
            else:
                order.insert(at, table.title)
                at += 1
    return order


def _facts_beside(parts: Sequence[tuple[str, Table]]) -> Table:
    """Return tables of what and value as one, with a column of values per run: what differs is seen in its row.

    Of many runs, with a row per run and a column per fact: a page grows downwards.
    """
    first = parts[0][1]
    found: dict[str, dict[str, list[str]]] = {}
    for name, table in parts:
        for what, value in table.rows:
            found.setdefault(what, {}).setdefault(name, []).append(str(value))
    names = [name for name, _ in parts]
    if len(names) > MOST_BESIDE:
        facts = [what for what in found if what != "run"]
        told = (["; ".join(dict.fromkeys(found[what].get(name, ()))) or None for what in facts] for name in names)
        rows = tuple((name, *values) for name, values in zip(names, told, strict=True))
        return Table(first.title, (Column("run"), *map(Column, facts)), rows, first.notes)
    beside = (
        (what, *("; ".join(dict.fromkeys(values[name])) if name in values else None for name in names))
        for what, values in found.items()
        if what != "run"
    )
    return Table(first.title, (first.columns[0], *map(Column, names)), tuple(beside), first.notes)


def _merged(parts: Sequence[tuple[str, Table]]) -> Table:
    first = parts[0][1]
    if first.title == FIRST[0]:
        return _facts_beside(parts)
    if first.title in ONCE:
        rows = dict.fromkeys(row for _, table in parts for row in table.rows)
        return dataclasses.replace(first, rows=tuple(rows))
    columns = list(dict.fromkeys(column for _, table in parts for column in table.columns))
    rows: list[tuple[Any, ...]] = []  # type: ignore[no-redef]
    ids: list[str | None] = []
    for name, table in parts:
        places = [table.columns.index(column) if column in table.columns else None for column in columns]
        rows += [(name, *(None if at is None else row[at] for at in places)) for row in table.rows]  # type: ignore[operator]
        ids += table.cells or [None] * len(table.rows)
    notes = tuple(dict.fromkeys(note for _, table in parts for note in table.notes))
    return Table(first.title, (Column("run"), *columns), tuple(rows), notes, tuple(ids) if any(ids) else ())
