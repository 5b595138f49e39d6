"""All formats say the same, from recorded runs alone."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from support.limits import HANG_S
from support.paths import ROOT
from support.records import record, scored

from llmbench.plugins.discovery import discover
from llmbench.records.read import Run, read_all
from llmbench.report import UNKNOWN, Column, Report, Table
from llmbench.report.cells.summary import summarise
from llmbench.report.findings import derive_findings
from llmbench.report.report import merge
from llmbench.report.table import with_cells
from llmbench.report.tables.side_by_side import build_side_by_side

MATRIX = ROOT / "results" / "amd-epyc-2-cores" / "matrix"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \\input{x} $&%#_{}~^ | `b` é 中"


@pytest.fixture(scope="module")
def registry():
    return discover()


@pytest.fixture(scope="module")
def matrix():
    return Report(read_all([MATRIX], stored=True))


def rendered(registry, report, name):
    return registry.get("reporter", name).render(report)


class Cells(HTMLParser):
    """The rows of the static tables of a page, as texts."""

    def __init__(self):
        super().__init__()
        self.tables, self._text, self._inside = [], None, False

    def handle_starttag(self, tag, attributes):
        if tag == "tbody":
            self.tables.append([])
            self._inside = True
        elif tag == "tr" and self._inside:
            self.tables[-1].append([])
        elif tag == "td":
            self._text = ""

    def handle_data(self, data):
        if self._text is not None:
            self._text += data

    def handle_endtag(self, tag):
        if tag == "tbody":
            self._inside = False
        if tag == "td":
            self.tables[-1][-1].append(self._text)
            self._text = None


def page_data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def unpacked(data):
    """The tables of a page's data, as texts."""
    found = []
    for table in data["tables"]:
        columns = []
        for column in table["columns"]:
            form = Column("", digits=column.get("d", 2))
            if column["k"] == "s":
                columns.append([data["unknown"] if v is None else data["strings"][v] for v in column["v"]])
            else:
                kind = float if column["k"] == "f" else int
                columns.append([form.text(None if v is None else kind(v)) for v in column["v"]])
        found.append([list(row) for row in zip(*columns, strict=True)])
    return found


def test_the_page_holds_every_table_to_the_digit(registry, matrix):
    page = rendered(registry, matrix, "html")
    wanted = [
        [[c.text(v) for c, v in zip(small.columns, row, strict=True)] for row in small.rows]
        for small, _ in (table.without_constants() for table in matrix.tables)
    ]
    assert unpacked(page_data(page)) == wanted
    parser = Cells()
    parser.feed(page)
    static = [[row[: len(want[0])] for row in got] for got, want in zip(parser.tables, wanted, strict=True)]
    assert static == [rows[:30] for rows in wanted]


def test_markdown_and_latex_hold_every_table_to_the_digit(registry, matrix):
    markdown = rendered(registry, matrix, "markdown")
    lines = [re.sub(r"\\(.)", r"\1", line) for line in markdown.splitlines() if line.startswith("| ")]
    latex = rendered(registry, matrix, "latex")
    escape = __import__("llmbench_plugins.reporters.latex", fromlist=["escape"]).escape
    for table in (one.with_ids() for one in matrix.tables):
        small, _ = table.without_constants()
        for row in table.rows:
            assert "| " + " | ".join(" ".join(c.text(v).split()) for c, v in zip(table.columns, row)) + " |" in lines
        for row in small.rows:
            assert " & ".join(escape(c.text(v)) for c, v in zip(small.columns, row)) + r" \\" in latex


def test_the_terminal_holds_every_number(registry, matrix):
    text = rendered(registry, matrix, "terminal")
    for table in matrix.tables:
        for row in table.rows:
            numbers = [c.text(v) for c, v in zip(table.columns, row) if isinstance(v, int | float)]
            assert all(number in text for number in numbers)


def test_csv_json_and_parquet_hold_every_digit(registry, matrix):
    pq = pytest.importorskip("pyarrow.parquet")
    cells = json.loads(rendered(registry, matrix, "json"), parse_constant=pytest.fail)["cells"]
    rows = list(csv.DictReader(io.StringIO(rendered(registry, matrix, "csv"))))
    table = pq.read_table(io.BytesIO(rendered(registry, matrix, "parquet"))).to_pylist()
    assert len(cells) == len(rows) == len(table) == 27
    for cell, row, typed in zip(cells, rows, table, strict=True):
        for name in ("step_ms", "tokens_per_s", "padding_pct", "peak_memory_mib", "ceiling_pct"):
            assert cell[name] == float(row[name]) == typed[name]
        for phase, share in cell["shares"].items():
            assert share == typed[f"shares.{phase}"] == (float(row[f"shares.{phase}"]) if share is not None else None)
        assert cell["reproduce"] == row["reproduce"] == typed["reproduce"]


def test_no_format_needs_torch(tmp_path):
    names = ["terminal", "markdown", "html", "latex", "csv", "json", "parquet"]
    code = (
        "import sys, llmbench.cli as c\n"
        f"for name in {names}:\n"
        f"    try: c.main(['report', {str(MATRIX)!r}, '--format', name, '-o', name])\n"
        "    except SystemExit as e: assert e.code == 0, e.code\n"
        "    loaded = {m.split('.')[0] for m in sys.modules}\n"
        "    assert not loaded & {'torch', 'transformers', 'evaluate', 'datasets'}, (name, loaded)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_S, cwd=tmp_path)
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)


def hostile_run():
    made = scored(warnings=[HOSTILE])
    made["cell"]["model"] = HOSTILE
    failed = record("error", repeat=1, error={"type": HOSTILE, "message": HOSTILE, "traceback": ""})
    return Run(HOSTILE, [made, failed], {"e1": {"cpu": HOSTILE}}, {}, {made["cell_id"]: HOSTILE})


def test_hostile_text_is_no_markup(registry):
    page = rendered(registry, Report([hostile_run()], descriptions={"x": HOSTILE}), "html")
    assert "<img" not in page and page.count("<script") == 3 == page.count("</script>")
    assert page_data(page)["points"][0]["model"] == HOSTILE


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here (Debian: texlive-latex-recommended)")
@pytest.mark.parametrize("runs", ["matrix", "hostile"])
def test_latex_compiles(registry, matrix, runs, tmp_path):
    report = matrix if runs == "matrix" else Report([hostile_run()])
    (tmp_path / "report.tex").write_text(rendered(registry, report, "latex"), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"]
    done = subprocess.run(
        command, check=False, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=HANG_S
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "report.pdf").stat().st_size > 10_000


# --- several runs, and what stands beside what ---


def other(step_s, precision="fp32", name="r"):
    made = record(step_s=step_s)
    made["cell"]["precision"] = precision
    made["cell_id"] = f"{made['cell_id']}-{precision}"
    again = {**made, "repeat": 1}
    return [made, again]


def test_runs_are_held_against_the_baseline():
    runs = [Run("a", other((0.2,) * 4)), Run("b", other((0.1,) * 4))]
    for baseline, speeds in (("a", {"a": 1.0, "b": 2.0}), ("b", {"b": 1.0, "a": 0.5})):
        (table,) = [t for t in Report(runs, baseline=baseline).tables if t.title == "Runs side by side"]
        names = [column.name for column in table.columns]
        found = {row[names.index("run")]: row[names.index("speed")] for row in table.rows}
        assert found == pytest.approx(speeds)
        assert table.rows[0][names.index("run")] == baseline


def test_what_runs_ran_on_is_side_by_side():
    runs = [Run("a", [record()], {"e1": {"cpu": "x", "cores": 2}}), Run("b", [record()], {"e2": {"cpu": "y"}})]
    table = Report(runs).tables[0]
    assert [column.name for column in table.columns] == ["what", "a", "b"]
    assert ("cpu", "x", "y") in table.rows and ("cores", "2", None) in table.rows


def test_of_many_runs_each_has_a_row():
    runs = [Run(f"r{i}", [record()], {f"e{i}": {"cpu": "x", **({"cores": i} if i else {})}}) for i in range(6)]
    report = Report(runs)
    assert report.title == "6 runs" and Report(runs[:5]).title == "r0, r1, r2, r3, r4"
    table = report.tables[0]
    assert [column.name for column in table.columns] == ["run", "cells", "environment", "cpu", "cores"]
    assert [row[0] for row in table.rows] == [run.name for run in runs]
    assert table.rows[0][3:] == ("x", None) and table.rows[5][3:] == ("x", "5")


def test_precisions_are_held_against_fp32():
    run = Run("r", other((0.1,) * 4, "bf16") + other((0.3,) * 4, "fp32"))
    table = build_side_by_side([(run, summarise(run.records))], "precision")
    names = [column.name for column in table.columns]
    assert [row[names.index("precision")] for row in table.rows] == ["fp32", "bf16"]
    assert table.rows[1][names.index("speed")] == pytest.approx(3.0)
    assert "precision" not in names[:5]


def test_merged_tables_keep_each_runs_order_and_fill_what_is_missing():
    a = [Table("x", (Column("p"),), ((1,),)), Table("y", (Column("q"),), ((2,),))]
    b = [Table("x", (Column("p"), Column("s")), ((3, 4),)), Table("z", (Column("q"),), ((5,),))]
    merged = merge(["A", "B"], [a, b])
    assert [table.title for table in merged] == ["x", "z", "y"] or [t.title for t in merged] == ["x", "y", "z"]
    assert merged[0].rows == (("A", 1, None), ("B", 3, 4))


def test_a_row_knows_its_cell_unless_two_have_its_name():
    cells = [dict(zip(("stage", "model", "size", "task", "device", "precision", "variant"), "abcdefg"))]
    columns = tuple(Column(name) for name in cells[0])
    table = Table("t", columns, (tuple("abcdefg"), tuple("xbcdefg")))
    assert with_cells([table], [{**cells[0], "cell_id": "1"}])[0].cells == ("1", None)
    twice = [{**cells[0], "cell_id": "1"}, {**cells[0], "cell_id": "2"}]
    assert with_cells([table], twice)[0].cells == ()
    assert with_cells([table], [{**cells[0], "cell_id": "1"}])[0].with_ids().rows[0][-1] == "1"


# --- what a report says first ---


def tried(gain, pairs=8):
    clean = [0.1 + 0.0001 * i for i in range(pairs)]
    trial = {"axis": "where", "class": "algorithm", "outcome": "measured", "advice": "fuse it", "share": 1.0}
    trial |= {"predicted_x": gain, "clean_s": clean, "treated_s": [c / gain for c in clean]}
    return record(interventions={"optimizer": trial})


def test_the_finding_names_the_cause_the_gain_and_what_to_do():
    (found,) = derive_findings(summarise([tried(2.0, 20)]), {"optimizer": "updating the parameters"})
    assert found.cause == "optimizer" and found.measured_x == pytest.approx(2.0)
    assert "2.00x as fast (measured, 95 % interval" in found.text and "predicted 2.00x" in found.text
    assert "What to do: fuse it." in found.text and "updating the parameters" in found.text


def test_what_was_tried_comes_before_what_is_only_advised():
    made = tried(2.0, 20)
    cells = summarise([made])
    row = {"cell_id": made["cell_id"], "remedies": ["bf16", "compile"], "measured_x": 1.7, "ci": [1.6, 1.8]}
    (found,) = derive_findings(cells, recommended=[row])
    assert "bf16 and compile: tried here, it makes finetune t 1.70x as fast (measured, 95 %" in found.advice
    assert found.advice.endswith("in general: fuse it")
    (other,) = derive_findings(cells, recommended=[{**row, "measured_x": None}])
    assert other.advice == "fuse it"


def test_scaling_curves_are_relative_to_their_smallest_point():
    charts = __import__("llmbench_plugins.reporters._charts", fromlist=["scaling"])
    row = {"model": "m", "stage": "eval", "axis": "seq_len", "part": "step", "points": [64, 128], "ms": [1.0, 2.0]}
    (curve,) = charts.scaling([{**row, "held_out": 256, "predicted_ms": 4.0}, {**row, "part": "attention"}])
    assert curve["points"] == [{"x": 1.0, "y": 1.0}, {"x": 2.0, "y": 2.0}]
    assert curve["predicted"] == {"x": 4.0, "y": 4.0}


def test_of_several_runs_what_is_proven_comes_first():
    runs = [Run("a", [record()]), Run("b", [tried(1.01)]), Run("c", [tried(2.0, 20)])]
    assert [one.where.split(",")[0] for one in Report(runs).findings] == ["c", "b", "a"]


def test_what_is_not_proven_is_not_claimed():
    (balanced,) = derive_findings(summarise([tried(1.01)]))
    assert balanced.cause is None and "no single cause" in balanced.text and "1.01x" in balanced.text
    (suspected,) = derive_findings(summarise([record()]))
    assert suspected.cause is None and "not a proof" in suspected.text and "verify=verdict" in suspected.text
    assert derive_findings([]) == []


def test_unknown_is_said(registry):
    assert UNKNOWN in rendered(registry, Report([Run("r", [record(phases={"forward_s": [0.1]})])]), "markdown")


def test_brief_ends_with_the_findings_and_leaves_details_out(registry):
    report = Report([Run("r", [tried(2.0, 20)])], descriptions={"optimizer": "updating the parameters"})
    brief, whole = (rendered(registry, report, form) for form in ("brief", "terminal"))
    assert brief.rstrip().splitlines()[-1].startswith("- ") and whole.startswith("- ")
    assert "Causes tried" in whole and "Causes tried" not in brief and "How the numbers" not in brief
    assert "What bounds each cell" in brief and "2.00" in brief and len(brief) < len(whole)


def test_the_summary_holds_what_was_tried_and_one_command_per_run(registry):
    made = tried(2.0, 20)
    commands = {made["cell_id"]: "llmbench run s"}
    report = Report([Run("a", [made], commands=commands), Run("b", [record()])])
    text = rendered(registry, report, "summary")
    assert "bounded by optimizer" in text and "1 other kinds of work" in text and "not a proof" not in text
    assert text.count("llmbench run s -k CELL") == 1 and made["cell_id"] in text
    for form in ("terminal", "brief"):
        text = rendered(registry, report, form)
        assert text.count("llmbench run s -k CELL") == 1 and made["cell_id"] in text


def test_a_cause_of_few_workloads_is_not_made_to_sound_like_all():
    made = [tried(gain, 20) | {"cell_id": str(i)} for i, gain in enumerate((2.0, 1.0, 1.0))]
    (found,) = derive_findings(summarise(made))
    assert found.headline == "no single cause in 2 of 3 workloads, optimizer in 1" and found.cause == "optimizer"
    assert [(w.verdict.partition(";")[0], w.names_cause) for w in found.workloads] == [
        *[("optimizer", True), ("no single cause", False), ("no single cause", False)]
    ]
    assert len(made) == 3 and derive_findings(summarise(made[:1]))[0].headline == "bounded by optimizer"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_narrow_terminal_breaks_no_number_and_no_word(width):
    from llmbench.report.formats import terminal

    report = Report([Run("r", [tried(2.0, 20), tried(1.3, 20) | {"cell_id": "1"}])])
    for table in report.tables:
        out = io.StringIO()
        terminal.render([table], out, width)
        body = out.getvalue()
        assert max(map(len, body.splitlines())) <= width
        shown, _ = table.without_constants()
        words = {w for row in shown.rows for c, v in zip(shown.columns, row, strict=True) for w in c.text(v).split()}
        found = {word.rstrip(";") for word in body.split()}
        assert {w.rstrip(";") for w in words if len(w) < width - 8} <= found, table.title
        if terminal.least_width(shown) > width:
            assert "─" not in body and all(f"{c.name}: " in " ".join(body.split()) for c in shown.columns[9:])


def test_every_cause_of_a_finding_says_what_it_is_and_what_to_change():
    other = tried(1.5, 20) | {"cell_id": "2"}
    other["interventions"]["kernel"] = other["interventions"].pop("optimizer") | {"advice": "compile it", "axis": "why"}
    open_ = tried(1.2, 6) | {"cell_id": "3"}
    open_["interventions"]["optimizer"]["treated_s"] = [0.05, 0.12, 0.06, 0.12, 0.07, 0.11]
    made = [tried(2.0, 20), tried(2.1, 20) | {"cell_id": "1"}, other, open_]
    said = {"optimizer": "updating the parameters", "kernel": "operators too small"}
    (found,) = derive_findings(summarise(made), said)
    assert found.headline == "optimizer in 2 of 4 workloads, kernel in 1, not decided in 1"
    assert [(a.name, a.meaning, a.change) for a in found.answers[:2]] == [
        ("optimizer", "updating the parameters", "fuse it"),
        ("kernel", "operators too small", "compile it"),
    ]
    assert found.answers[2].name == "not decided" and "verify_seconds" in found.answers[2].change
    assert "kernel (operators too small), up to 1.50x in finetune t, to do: compile it" in found.text


class Findings(HTMLParser):
    """The text of the findings of a page, as it reads without any layout."""

    def __init__(self):
        super().__init__()
        self.text, self._inside = "", False

    def handle_starttag(self, tag, attributes):
        self._inside = self._inside or ("id", "findings") in attributes

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "section"

    def handle_data(self, data):
        self.text += data if self._inside else ""


def test_words_of_a_card_do_not_run_together(registry):
    settled, undecided = tried(2.0, 20), tried(1.2, 6) | {"cell_id": "1"}
    undecided["interventions"]["optimizer"]["treated_s"] = [0.05, 0.12, 0.06, 0.12, 0.07, 0.11]
    other = tried(1.5, 20) | {"cell_id": "2"}
    other["interventions"]["kernel"] = other["interventions"].pop("optimizer") | {"advice": "compile it", "axis": "why"}
    again = [settled, settled | {"cell_id": "3"}, other, undecided]
    report = Report([Run("r", again)], descriptions={"kernel": "operators too small"})
    (finding,) = report.findings
    parser = Findings()
    parser.feed(rendered(registry, report, "html"))
    text = " ".join(parser.text.split())
    assert [answer.name for answer in finding.answers] == ["optimizer", "kernel", "not decided"]
    assert "optimizer algorithm: fuse it" in text and "kernel algorithm operators too small compile it" in text
    assert "not decided: measure longer" in text
    for workload in finding.workloads:
        assert f"{workload.label} {workload.verdict} " in text
    assert re.search(r"2\.00x \d\.\d\d - \d\.\d\d ", text)


def test_the_page_names_machines_and_keeps_options_whole(registry):
    def run(name, cores, model="CPU X"):
        devices = [{"device": "cpu", "name": model}]
        return Run(name, [tried(2.0, 20)], {"e1": {"devices": devices, "usable_cores": cores}})

    def heading(*runs):
        return rendered(registry, Report(runs), "html").partition("<h1>")[2].partition("</h1>")[0]

    assert heading(run("a", 1)).endswith("on CPU X CPU (1 core)")
    assert heading(run("a", 1), run("b", 2), run("c", 2, "Y")).endswith("on CPU X CPU, Y CPU (2 cores)")
    assert heading(*(run(n, 2, n) for n in "abcd")).endswith("on 4 kinds of machines")
    options = __import__("llmbench_plugins.reporters.html", fromlist=["_options"])._options
    assert options("<b> add --set a.b=60; end") == ('&lt;b&gt; add <code class="option">--set</code> a.b=60; end')


def test_advice_is_for_the_device_and_names_no_remedies_by_heart():
    trial = tried(2.0, 20)
    trial["interventions"]["optimizer"]["advice"] = "CUDA graphs, fuse it; remedies: fused, batch-2x"
    (found,) = derive_findings(summarise([trial]))
    assert found.advice == "fuse it; llmbench tries what it can of this with --remedies"
