"""The contract of a format of reports: a document of any report, whatever text is in it."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.conformance.common import ask_fresh_process
from llmbench.conformance.subject import Failed, NotHere, Subject, check
from llmbench.contract.cell import Cell
from llmbench.contract.job import Job, new_record

if TYPE_CHECKING:
    from llmbench.contract.record import Record

MARK = "llmbenchmark"
HOSTILE = (
    f"</script><script>{MARK}()</script><img src=x onerror={MARK}> \\input{{/etc/passwd}} $&%#_{{}}~^ | `b` "
    "\x1b[31mred\x1b[0m \x07 a\r\nb\tc é 中 '\""
)
TEXTS = (".csv", ".tsv", ".json", ".html", ".htm", ".xml", ".md", ".org", ".tex", ".txt", ".rst")
FORMULAS = ("=cmd|'/c calc'!A1", "+1+cmd", "-1+cmd", "@SUM(A1)")  # spreadsheets compute them (OWASP: CSV injection)


def record(model: str = "made", status: str = "ok", **fields: object) -> Record:
    """Return a record as a worker writes it."""
    cell = Cell(model, "tiny", "made", "made@1", "finetune")
    job = Job.single(cell, environment_id="e1")
    if status == "ok":
        fields = {
            "wall_s": 3.0,
            "samples": {"step_s": [0.1, 0.11, 0.1, 0.12], "step_tokens": [500] * 4, "step_examples": [16] * 4},
            "phases": {
                "input_s": [0.02] * 4,
                "forward_s": [0.03] * 4,
                "backward_s": [0.04] * 4,
                "optimizer_s": [0.01] * 4,
            },
            "counts": {"tokens": 500.0, "padding_tokens": 300.0, "examples": 16.0},
            "memory": {"peak_mib": 300.0, "capacity_mib": 8000.0},
            "quality": {
                "values": {"score": 0.5},
                "examples": 100,
                "primary": "score",
                "direction": {"score": "higher"},
            },
            **fields,
        }
    return new_record(job, status, **fields)


def report(subject: Subject, text: str = "made", *, several: bool = False) -> Any:
    """Return a report with `text` in every place where people's text can be."""
    from llmbench.records.read import Run
    from llmbench.report import Report

    failed = record(text, "error", error={"type": text, "message": text, "traceback": ""})
    records = [record(text, warnings=[text]), failed]
    runs = [Run(text, records, {"e1": {"cpu": text}}, {}, {records[0]["cell_id"]: text})]
    if several:
        runs.append(Run("other", [record()], {"e1": {"cpu": "other"}}, {}, {}))
    return Report(runs, descriptions={"x": text})


def render(subject: Subject, one: Any) -> str | bytes:
    """Return the document. Raises Failed where it is none."""
    document: str | bytes = subject.spec.render(one)
    kind = type(document).__name__
    subject.require(kind in ("str", "bytes", "bytearray"), f"render returns a {kind}; return a text, or bytes")
    subject.require(len(document) > 0, "render returns an empty document")
    return document


@check("reporter", says="its files have a suffix")
def spec(subject: Subject) -> None:
    """Look at the fields."""
    good = re.fullmatch(r"\.[a-z0-9.]+", subject.spec.suffix)
    subject.require(bool(good), f"suffix {subject.spec.suffix!r}: write the end of a file's name, such as .md")


@check("reporter", says="it renders any report: of one run, of several, of none that is ok")
def renders(subject: Subject) -> None:
    """Render small reports."""
    from llmbench.records.read import Run
    from llmbench.report import Report

    failed = [record(status="oom", error={"type": "x", "message": "y", "traceback": ""})]
    unknown = record()
    unknown["counts"] = {"tokens": None, "padding_tokens": None, "examples": None}
    shown = {
        "one run": report(subject),
        "two runs": report(subject, several=True),
        "a run without a good cell": Report([Run("run", failed, {}, {}, {})]),
        "a run without records": Report([Run("run", [], {}, {}, {})]),
        "no quality and no environment": Report([Run("run", [record(quality=None)], {}, {}, {})]),
    }
    for what, one in shown.items():
        try:
            render(subject, one)
        except Failed as error:
            raise Failed(f"{what}: {error}") from None
        except Exception as error:
            raise Failed(f"{what}: {type(error).__name__}: {error}"[:300]) from None


@check("reporter", says="what it shows is what was measured")
def content(subject: Subject) -> None:
    """Render two reports that differ in one measured number, or in one name: of one run, or where it compares runs."""
    from llmbench.records.read import Run
    from llmbench.report import Report

    def document_of(*step_s: float) -> str | bytes:
        records = [record() for _ in step_s]
        for one, seconds in zip(records, step_s, strict=True):
            one["samples"]["step_s"] = [seconds, 1.05 * seconds, seconds, 1.1 * seconds]
        runs = [Run(f"made{n}", [one], {"e1": {"cpu": "made"}}, {}, {}) for n, one in enumerate(records)]
        return render(subject, Report(runs))

    differs = document_of(0.1) != document_of(0.2) or document_of(0.1, 0.1) != document_of(0.1, 0.2)
    subject.require(differs, "half the speed gives the same document")
    first = render(subject, report(subject))
    named = render(subject, report(subject, MARK))
    subject.require(named != first, "another model gives the same document")
    if isinstance(named, str):
        subject.require(MARK in named.replace("\\", ""), "the model's name is not in the document")


@check("reporter", says="the same report gives the same document, and stays as it is")
def repeats(subject: Subject) -> None:
    """Render twice."""
    import copy

    one = report(subject)
    before = copy.deepcopy([run.records for run in one.runs])
    first, again = render(subject, one), render(subject, one)
    subject.require([run.records for run in one.runs] == before, "render changes the records of the report")
    subject.require(
        first == again == render(subject, report(subject)), "the same report gives another document the second time"
    )


class _Page(HTMLParser):
    """Collects markup that comes from a name."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.bad += [f"<{tag} {name}>" for name, value in attrs if name.startswith("on") and MARK in (value or "")]
        self.script = tag == "script" and not any(
            name == "type" and value == "application/json" for name, value in attrs
        )

    def handle_data(self, data: str) -> None:
        if self.script and f"{MARK}()" in data:
            self.bad.append("<script>")

    def handle_endtag(self, tag: str) -> None:
        self.script = False


@check("reporter", says="names and messages of others are no markup, no commands and no formulas")
def hostile(subject: Subject) -> None:
    """Render text that means something to browsers, terminals, LaTeX and spreadsheets."""
    document = render(subject, report(subject, HOSTILE))
    suffix, require = subject.spec.suffix, subject.require
    if not isinstance(document, str):
        if suffix not in TEXTS:
            raise NotHere("its document is binary")
        document = bytes(document).decode()
    controls = sorted({c for c in document if ord(c) < 32 and c not in "\n\t\r"})
    require(not controls, f"control characters of a name are in the document as they are: {controls!r}")
    if suffix in (".html", ".htm", ".xml"):
        page = _Page()
        page.feed(document)
        require(not page.bad, f"a name becomes markup: {', '.join(page.bad[:1])}; escape it")
    if suffix == ".tex":
        require("\\input{/etc" not in document, "a name becomes a command of LaTeX; escape it")
    if suffix == ".json":
        json.loads(document)
    if suffix in (".md", ".org"):
        _tables(subject, document)
    if suffix in (".csv", ".tsv"):
        _cells(subject)


def _tables(subject: Subject, document: str) -> None:
    """Every row of a table has the columns of the row before it."""
    before = None
    for line in document.splitlines():
        bars = len(re.findall(r"(?<!\\)\|", line)) if line.lstrip().startswith("|") else None
        broken = bars is not None and before is not None and bars != before and not re.fullmatch(r"[|\s:+-]*", line)
        subject.require(
            not broken, f"a name breaks a table: {line[:60]!r} has {bars} bars, and the row before {before}"
        )
        before = bars if bars is None or not re.fullmatch(r"[|\s:+-]*", line) else before


def _cells(subject: Subject) -> None:
    for formula in FORMULAS:
        text = render(subject, report(subject, formula))
        subject.require(isinstance(text, str), "its document is binary")
        rows = list(csv.reader(io.StringIO(str(text)), delimiter="\t" if subject.spec.suffix == ".tsv" else ","))
        formulas = [cell for row in rows for cell in row if cell.strip().startswith(formula)]
        why = f"a name becomes a formula of spreadsheets: {formulas[:1]}; put an apostrophe before it"
        subject.require(not formulas, why)
        widths = {len(row) for row in rows}
        subject.require(len(widths) <= 1, f"rows have {sorted(widths)} cells; quote what holds commas and lines")


@check("reporter", says="it needs no torch")
def light(subject: Subject) -> None:
    """Render in a fresh process, and look whether torch was loaded."""
    answer = ask_fresh_process("render_report", subject.name, list(subject.files), str(Path.cwd()))
    subject.require("error" not in answer, answer.get("error", ""))
    subject.require(not answer["torch"], "rendering imports torch, which takes seconds; a report needs none")
