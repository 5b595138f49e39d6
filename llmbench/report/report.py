"""The report that all renderers get. Each of its parts is computed once, when it is first asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from llmbench.records.read import Run
from llmbench.report.cells.summary import failures, summarise_run
from llmbench.report.findings import Finding, derive_findings
from llmbench.report.formats import json as contract
from llmbench.report.table import Column, Table
from llmbench.report.tables.overview import FIRST, run_tables
from llmbench.report.tables.remedies import recommendation_rows
from llmbench.report.tables.side_by_side import build_side_by_side

if TYPE_CHECKING:
    from llmbench.contract.record import CellSummary, FailureRow
    from llmbench.report.formats.json import Document, Parts, Studies

#: Tables whose rows are the same for each machine: they are shown once.
SHARED_TABLES = ("How the numbers were obtained",)
#: With more runs, the title does not name them, and each machine has a row instead of a column.
MOST_RUNS_IN_COLUMNS = 5


class Report:
    """One or many runs, with their summaries, findings and tables, and the document of `--format json`.

    `baseline` is the name of the run that the others are compared with; `descriptions` describes each cause; `formats`
    are the reporters, by name.
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
        """Return the report in a format of `formats`, for reporters that send or store whole documents."""
        return self.formats[form](self)

    @property
    def title(self) -> str:
        """The names of the runs; their number where they are many."""
        if len(self.runs) > MOST_RUNS_IN_COLUMNS:
            return f"{len(self.runs)} runs"
        return ", ".join(run.name for run in self.runs)

    @cached_property
    def summaries(self) -> list[list[CellSummary]]:
        """Per run, a summary of each cell, with the fields of `report --format json`."""
        return [summarise_run(run) for run in self.runs]

    @cached_property
    def cells(self) -> list[CellSummary]:
        """The summaries of all runs, each with the name of its `run`."""
        return [cell for cells in self.summaries for cell in cells]

    @cached_property
    def failures(self) -> list[list[FailureRow]]:
        """Per run, the repeats that are not ok."""
        return [failures(run.records) for run in self.runs]

    @cached_property
    def studies(self) -> list[Studies]:
        """Per run, the rows of its studies: learning, time to quality, scaling."""
        return [contract.study_rows(run) for run in self.runs]

    @cached_property
    def findings(self) -> list[Finding]:
        """For each kind of work, the cause that bounds it and the advice."""
        recommended = [row for run in self.runs for row in recommendation_rows(run)]
        return derive_findings(self.cells, self.descriptions, recommended, several=len(self.runs) > 1)

    @cached_property
    def tables(self) -> list[Table]:
        """The tables in the order in which they are read. Several runs share each table, with a column for the run."""
        parts = zip(self.runs, self.summaries, self.studies, strict=True)
        by_run = [run_tables(run, cells, studies) for run, cells, studies in parts]
        if len(by_run) == 1:
            return by_run[0]
        merged = merge([run.name for run in self.runs], by_run)
        comparison = build_side_by_side(list(zip(self.runs, self.summaries, strict=True)), "run", self.baseline)
        place = sum(table.title in FIRST for table in merged)
        return [*merged[:place], comparison, *merged[place:]] if comparison.rows else merged

    @cached_property
    def commands(self) -> dict[str, str]:
        """Cell id -> the command line that measures it again."""
        return {cell["cell_id"]: command for cell in self.cells if (command := cell["reproduce"])}

    @property
    def command_patterns(self) -> list[str]:
        """The commands with `CELL` in place of a cell's id: mostly one per run."""
        return list(dict.fromkeys(command.replace(cell, "CELL") for cell, command in self.commands.items()))

    @cached_property
    def document(self) -> Document:
        """The report as one document of JSON values, as `report --format json` writes it."""
        return contract.collect(self._parts())

    @property
    def document_bytes(self) -> bytearray:
        """The document as strict JSON in UTF-8; it is written part by part, so that memory stays small."""
        return contract.to_bytes(self._parts())

    def _parts(self) -> Parts:
        return contract.assemble(self.runs, self.summaries, self.failures, self.studies)


def merge(names: Sequence[str], reports: Sequence[Sequence[Table]]) -> list[Table]:
    """Return one table per title, with the rows of all runs; a column names the run of each row."""
    by_title: dict[str, list[tuple[str, Table]]] = {}
    for name, tables in zip(names, reports, strict=True):
        for table in tables:
            by_title.setdefault(table.title, []).append((name, table))
    order = _order_titles(reports)
    return [_merge_tables(by_title[title]) for title in order]


def _order_titles(reports: Sequence[Sequence[Table]]) -> list[str]:
    """Return all titles in the order of each run: a title comes after the one that is before it in its run."""
    order: list[str] = []
    for tables in reports:
        place = 0
        for table in tables:
            if table.title in order:
                place = order.index(table.title) + 1
            else:
                order.insert(place, table.title)
                place += 1
    return order


def _compare_facts(parts: Sequence[tuple[str, Table]]) -> Table:
    """Return the tables of facts of several runs as one: a row per fact, a column per run, so that differences show.

    Of many runs, with a row per run and a column per fact: a page grows downwards.
    """
    first = parts[0][1]
    facts: dict[str, dict[str, list[str]]] = {}
    for name, table in parts:
        for what, value in table.rows:
            facts.setdefault(what, {}).setdefault(name, []).append(str(value))
    facts.pop("run", None)
    names = [name for name, _ in parts]

    def text(what: str, name: str) -> str | None:
        return "; ".join(dict.fromkeys(facts[what].get(name, ()))) or None

    if len(names) > MOST_RUNS_IN_COLUMNS:
        by_run = tuple((name, *(text(what, name) for what in facts)) for name in names)
        return Table(first.title, (Column("run"), *map(Column, facts)), by_run, first.notes)
    by_fact = tuple((what, *(text(what, name) for name in names)) for what in facts)
    return Table(first.title, (first.columns[0], *map(Column, names)), by_fact, first.notes)


def _merge_tables(parts: Sequence[tuple[str, Table]]) -> Table:
    """Return the tables of one title, of several runs, as one."""
    first = parts[0][1]
    if first.title == FIRST[0]:
        return _compare_facts(parts)
    if first.title in SHARED_TABLES:
        return dataclasses.replace(first, rows=tuple(dict.fromkeys(row for _, table in parts for row in table.rows)))
    columns = list(dict.fromkeys(column for _, table in parts for column in table.columns))
    rows: list[tuple[object, ...]] = []
    ids: list[str | None] = []
    for name, table in parts:
        places = [table.columns.index(column) if column in table.columns else None for column in columns]
        rows += [(name, *(None if place is None else row[place] for place in places)) for row in table.rows]
        ids += table.cells or [None] * len(table.rows)
    notes = tuple(dict.fromkeys(note for _, table in parts for note in table.notes))
    return Table(first.title, (Column("run"), *columns), tuple(rows), notes, tuple(ids) if any(ids) else ())
