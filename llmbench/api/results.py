"""Recorded runs in a script or a notebook: tables as DataFrames, reports, comparisons, exports."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from llmbench.contract.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pandas import DataFrame

    from llmbench.analysis.comparison import Comparison
    from llmbench.contract.record import JsonObject
    from llmbench.plugins.registry import Registry
    from llmbench.records.read import Run
    from llmbench.report import Report, Table

#: `{"model": ["lstm", "gpt"]}` or `["model=lstm,gpt"]`.
Settings: TypeAlias = Mapping[str, object] | Sequence[str]


@dataclass(frozen=True)
class Results:
    """One or several runs. Printing it shows the tables of `llmbench report`; a notebook shows the rest folded.

    The tables (`cells`, `bottlenecks`, `remedies` ...) are DataFrames; `columns(name)` explains their columns. A value
    that is not known is missing, and the column `reasons.NAME` of `cells` says why. `folders` are the run directories.
    """

    runs: tuple[Run, ...]
    registry: Registry = field(repr=False, compare=False)
    baseline: str | None = None
    folders: tuple[Path, ...] = ()

    @cached_property
    def report(self) -> Report:
        """The report that all formats are made from; plugins that are reporters get it, too."""
        from llmbench.report.write import report_of

        return report_of(self.runs, self.registry, self.baseline)

    @property
    def document(self) -> JsonObject:
        """The document of `llmbench report --format json`, as a dict."""
        return self.report.document

    @property
    def ok(self) -> bool:
        """Whether every cell is ok."""
        return all(cell["status"] == "ok" for cell in self.document["cells"])

    @property
    def findings(self) -> list[str]:
        """Sentences that say what bounds each kind of work, and what to do."""
        return [finding.text for finding in self.report.findings]

    @property
    def tables(self) -> dict[str, Table]:
        """The tables of the report by title, as people read them; `frame()` of one is a DataFrame."""
        return {table.title: table for table in self.report.tables}

    def frame(self, name: str) -> DataFrame:
        """Return a table as a DataFrame: one of `llmbench.report.COLUMNS`. Raises UserError for an unknown name."""
        from llmbench.report.formats.frames import frame
        from llmbench.report.tables.column_meanings import COLUMNS

        if name not in COLUMNS:
            raise UserError(f"unknown table {name!r}{did_you_mean(name, COLUMNS)}; write one of: {', '.join(COLUMNS)}")
        return frame(self.report, name)

    def columns(self, name: str) -> DataFrame:
        """Return the meanings of a table's columns: a row per column, `column` and `meaning`."""
        import pandas as pd

        from llmbench.report.tables.column_meanings import meaning

        return pd.DataFrame([{"column": c, "meaning": meaning(name, str(c))} for c in self.frame(name)])

    @cached_property
    def cells(self) -> DataFrame:
        """One row per cell: time, throughput, shares, hardware use, verdict, quality, cost."""
        return self.frame("cells")

    @cached_property
    def bottlenecks(self) -> DataFrame:
        """One row per cell and cause: predicted, removed, measured."""
        return self.frame("bottlenecks")

    @cached_property
    def remedies(self) -> DataFrame:
        """One row per cell and remedy: predicted and measured gain, and what it did to quality."""
        return self.frame("remedies")

    @cached_property
    def recommendations(self) -> DataFrame:
        """One row per cell whose remedies were tried: what to change, and what that gives."""
        return self.frame("recommendations")

    @cached_property
    def learning(self) -> DataFrame:
        """One row per point of a study of what limits quality."""
        return self.frame("learning")

    @cached_property
    def scaling(self) -> DataFrame:
        """One row per curve of a study of how cost grows."""
        return self.frame("scaling")

    @cached_property
    def failures(self) -> DataFrame:
        """One row per repeat that is not ok."""
        return self.frame("failures")

    @cached_property
    def samples(self) -> DataFrame:
        """One row per timed step."""
        return self.frame("samples")

    def render(self, form: str) -> str | bytes:
        """Return the report in a format of `llmbench report`: `markdown`, `html`, or one of a plugin."""
        document: str | bytes = self.registry.get("reporter", form).render(self.report)
        return document

    def save(self, path: str | Path, form: str | None = None) -> Path:
        """Write the report to a file; `form` is by default the first format with the file's suffix."""
        path = Path(path)
        if form is None:
            known: dict[str, str] = {}
            for name, plugin in self.registry.by_kind["reporter"].items():
                known.setdefault(plugin.spec.suffix, name)
            if path.suffix not in known:
                raise UserError(f"{path}: no format has this suffix; give form, or one of: {', '.join(sorted(known))}")
            form = known[path.suffix]
        document = self.render(form)
        path.write_bytes(document if isinstance(document, bytes) else (document.rstrip("\n") + "\n").encode())
        return path

    def page(self, height_px: int = 800) -> Page:
        """Return the HTML report with its charts; a notebook shows it in place."""
        return Page(str(self.render("html")), height_px)

    def compare(
        self,
        head: Results,
        *,
        fail_on_pct: float | None = None,
        margin_pct: float | None = None,
        noise_floor_pct: float | None = None,
    ) -> Compared:
        """Compare `head` with this run, cell by cell: slower, faster, the same or undecided. Both hold one run.

        The limits are those of `llmbench compare`.
        """
        from llmbench.analysis.comparison import compare_runs

        for side in (self, head):
            if len(side.runs) != 1:
                raise UserError(f"{len(side.runs)} runs cannot be compared as one; load one run on each side")
        comparison = compare_runs(
            self.runs[0],
            head.runs[0],
            fail_on_pct=fail_on_pct,
            margin_pct=margin_pct,
            noise_floor_pct=noise_floor_pct,
        )
        return Compared(comparison)

    def export(
        self, to: str, path: str | Path | None = None, *, samples: bool = False, keep_personal: bool = False
    ) -> Path:
        """Write a file as `llmbench export --to` does (parquet, csv, pytest-benchmark or bundle); return its path."""
        from llmbench.api.export import export_runs

        return export_runs(
            list(self.runs), to, None if path is None else Path(path), samples=samples, keep_personal=keep_personal
        )

    def __str__(self) -> str:
        from llmbench.report import terminal_text

        return str(terminal_text(self.report))

    def __repr__(self) -> str:
        names = ", ".join(run.name for run in self.runs)
        return f"Results({names}: {len(self.document['cells'])} cells)"

    def _repr_html_(self) -> str:
        from llmbench.report.formats.notebook import report_html
        from llmbench.report.tables.overview import FIRST

        return report_html(self.report, FIRST)


@dataclass(frozen=True)
class Page:
    """A whole HTML page that a notebook shows in a frame."""

    html: str = field(repr=False)
    height_px: int = 800

    def _repr_html_(self) -> str:
        from llmbench.report.formats.notebook import page_html

        return page_html(self.html, self.height_px)


@dataclass(frozen=True)
class Compared:
    """Two runs side by side. Printing it shows the output of `llmbench compare`."""

    comparison: Comparison = field(repr=False)

    @property
    def document(self) -> JsonObject:
        """The document of `llmbench compare --format json`, as a dict."""
        from llmbench.report.tables.comparison import document

        return document(self.comparison)

    @property
    def regressed(self) -> tuple[str, ...]:
        """The cells that are slower than `fail_on_pct` with confidence."""
        return self.comparison.regressions

    @property
    def cells(self) -> DataFrame:
        """One row per cell that was measured in both runs."""
        import pandas as pd

        from llmbench.report.formats.flat import flat_row

        return pd.DataFrame([flat_row(row) for row in self.document["cells"]])

    @property
    def tables(self) -> list[Table]:
        """Differences between the machines, cells that cannot be paired, and changes."""
        from llmbench.report.tables.comparison import tables

        return tables(self.comparison)

    def markdown(self) -> str:
        """Return the comparison as Markdown that fits a pull-request comment."""
        from llmbench.report.tables.comparison import comment

        return comment(self.comparison)

    def __str__(self) -> str:
        from llmbench.report.tables import comparison

        return f"{text_of(self.tables)}{comparison.summary(self.comparison)}"

    def _repr_html_(self) -> str:
        from llmbench.report.formats.notebook import tables_html

        return tables_html(self.tables)


def text_of(tables: Sequence[Table]) -> str:
    """Return the tables as text, without colour."""
    from llmbench.report.formats import terminal

    out = io.StringIO()
    terminal.render(tables, out)
    return out.getvalue()


def settings_text(settings: Settings) -> tuple[str, ...]:
    """Return settings as `--set` takes them: `{"model": ["lstm", "gpt"]}` or `["model=lstm,gpt"]`."""
    import json

    if isinstance(settings, str):
        raise UserError(f'settings {settings!r}: give a mapping or a list, such as {{"model": "gpt"}} or ["model=gpt"]')
    if not isinstance(settings, Mapping):
        return tuple(settings)
    written = ((key, str(v) if isinstance(v, str | Path) else json.dumps(v)) for key, v in settings.items())
    return tuple(f"{key}={text}" for key, text in written)
