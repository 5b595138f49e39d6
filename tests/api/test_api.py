"""llmbench from a script: what the command line does, as functions and DataFrames."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from support.commands import SMALL
from support.interventions import trial, untried
from support.limits import HANG_S
from support.paths import ROOT
from support.records import record, scored
from support.remedy_runs import Machine, searched

import llmbench
from llmbench.cli import cli
from llmbench.plugins.discovery import discover
from llmbench.records.read import Run
from llmbench.records.run_dir import RunDir
from llmbench.report import COLUMNS, Column, Table
from llmbench.report.tables.column_meanings import meaning

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def run_path(tmp_path):
    path = tmp_path / "quick"
    with RunDir.open(path, write=True) as run_dir:
        for made in (scored(step_s=(0.1, 0.2, 0.3)), record(repeat=1, step_s=(0.2, 0.3))):
            run_dir.append(made)
    return path


@pytest.fixture(scope="module")
def registry():
    return discover()


@pytest.fixture(scope="module")
def published():
    return llmbench.load(ROOT / "results")


@pytest.fixture(scope="module")
def made(registry, tmp_path_factory):
    """A run with verdicts, interactions, remedies, failures: what the published ones may lack."""
    together = {"causes": ["a", "b"], **{k: trial(3.0, seed=9)[k] for k in ("clean_s", "treated_s")}}
    tried = {"a": trial(1.5), "b": trial(2.0, axis="why", seed=1), "c": untried("unisolated", 1.5)}
    _, found = searched(tmp_path_factory.mktemp("remedies") / "r", Machine())
    failed = record("oom", repeat=1, stage="eval", error={"type": "E", "message": HOSTILE})
    bad = [record(interventions=tried, together=together), failed]
    return llmbench.Results((Run("verdicts", bad), Run("remedies", found)), registry)


def printed(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False).output


def test_results_are_what_report_prints(run_path):
    results = llmbench.load(run_path)
    assert results.document == json.loads(printed("report", run_path, "--format", "json"))
    assert results.render("markdown").strip() == printed("report", run_path, "--format", "markdown").strip()
    (cell,) = results.cells.to_dict("records")
    assert cell["quality.acc"] == 0.6 and cell["shares.input"] == pytest.approx(0.6)
    assert list(results.samples["step_s"]) == [0.1, 0.2, 0.3, 0.2, 0.3] and results.ok
    assert results.bottlenecks.empty and "measured_x" in results.bottlenecks.columns
    assert "quick" in str(results) and repr(results) == "Results(quick: 1 cells)"


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_every_column_is_documented(name, published, made):
    for results in (published, made):
        columns = results.columns(name)
        assert columns["meaning"].notna().all(), columns[columns["meaning"].isna()]
    assert len(published.frame(name)) + len(made.frame(name)) > 0
    assert meaning("cells", "no_such_column") is None


@pytest.mark.parametrize("name", sorted(set(COLUMNS) - {"samples"}))
def test_no_column_is_documented_that_is_never_there(name, published, made):
    there = {*published.frame(name), *made.frame(name)}
    optional = {"cells": {"operators", "quality", "quality_direction", "oracle", "baseline", "baselines", "training"}}
    gone = {c for c in COLUMNS[name] if "*" not in c} - there - optional.get(name, set())
    empty = {c for c in gone if COLUMNS[name][c].startswith("empty where")}
    shared = {"learning": {"seq_len"}, "time_to_quality": {"cell_id"}, "scaling": {"cell_id", "dataset", "batch_size"}}
    assert gone - empty - shared.get(name, set()) == set()


def test_unknown_names_say_what_was_meant(run_path):
    results = llmbench.load(run_path)
    with pytest.raises(llmbench.UserError, match="did you mean 'cells'"):
        results.frame("cell")
    with pytest.raises(llmbench.UserError, match="no format has this suffix"):
        results.save(run_path / "x.docx")
    with pytest.raises(llmbench.UserError, match="give a mapping or a list"):
        llmbench.planned("quick", settings="model=gpt")
    with pytest.raises(llmbench.UserError, match="executor 'slurm'"):
        llmbench.run("quick", executor="slurm")
    with pytest.raises(llmbench.UserError, match="baseline"):
        llmbench.load(run_path, baseline="quik")
    with pytest.raises(llmbench.UserError, match="load what"):
        llmbench.load()


def test_save_and_export_are_the_command_lines(run_path, tmp_path):
    results = llmbench.load(run_path)
    assert results.save(tmp_path / "x.md").read_text() == printed("report", run_path, "--format", "markdown")
    assert results.save(tmp_path / "x.html").read_bytes().startswith(b"<!")
    bundle = results.export("bundle", tmp_path / "quick.llmbench.zip")
    assert llmbench.load(bundle).cells.equals(results.cells)
    with pytest.raises(llmbench.UserError, match="--samples goes with"):
        results.export("csv", samples=True)
    with pytest.raises(llmbench.UserError, match="did you mean 'parquet'"):
        results.export("parqet")


def test_compare_is_the_command_lines(run_path, tmp_path):
    with RunDir.open(tmp_path / "slow", write=True) as run_dir:
        for repeat in range(2):
            run_dir.append(record(repeat=repeat, step_s=(0.4, 0.4, 0.4)))
    found = llmbench.load(run_path).compare(llmbench.load(tmp_path / "slow"), fail_on_pct=5)
    words = ("compare", run_path, tmp_path / "slow", "--fail-on", 5, "--format")
    assert found.document == json.loads(printed(*words, "json").partition("\nregressed")[0])
    assert found.markdown().strip() in printed(*words, "markdown")
    assert len(found.cells) == 1 and found.cells["ratio"][0] > 1 and "<table" in found._repr_html_()
    with pytest.raises(llmbench.UserError, match="2 runs"):
        llmbench.load(run_path, tmp_path / "slow").compare(llmbench.load(run_path))


class Tags(HTMLParser):
    """Checks that tags nest, and collects them and the text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.seen, self.text = [], set(), ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_notebooks_show_tables_as_html_and_never_run_what_is_in_them(made):
    page = Tags(made._repr_html_())
    assert {"table", "details", "li"} <= page.seen and "script" not in page.seen
    assert HOSTILE in page.text and "What bounds each cell" in page.text
    table = Table(HOSTILE, (Column(HOSTILE, "ms"),), ((HOSTILE,), (None,)), (HOSTILE,))
    assert "script" not in Tags(table._repr_html_()).seen and "n/a" in Tags(table._repr_html_()).text
    assert list(table.frame().columns) == [f"{HOSTILE} (ms)"]
    assert made.tables["Remedies"].frame().shape[0] == len(made.tables["Remedies"].rows)
    frame = Tags(made.page()._repr_html_())
    assert frame.seen == {"iframe"} and "<canvas" in made.page().html


def test_long_tables_are_cut_in_notebooks_and_say_so():
    table = Table("long", (Column("n"),), tuple((i,) for i in range(500)))
    assert "60 of 500 rows are shown" in table._repr_html_() and table._repr_html_().count("<tr>") == 61


def test_planned_and_found_plugins(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cells = llmbench.planned("quick", settings={"model": ["lstm"], "precision": "fp32"}, keep="not eval")
    assert set(cells["model"]) == {"lstm"} and {"depends_on", "predicted_s", "cell_id"} <= set(cells.columns)
    assert llmbench.planned("quick", settings=["model=lstm"], keep="not eval")["cell_id"].equals(cells["cell_id"])
    plugins = llmbench.found_plugins()
    assert {"lstm", "html"} <= set(plugins["name"])


SCRIPT = """
import llmbench
results = llmbench.run("small.yaml", settings={"test_examples": 8}, output="out", quiet=True)
again = llmbench.run("small.yaml", settings={"test_examples": 8}, output="out", quiet=True)
assert again.cells["cell_id"].equals(results.cells["cell_id"]) and len(again.samples)
print(results.ok, list(results.cells["stage"]), results.folders[0], llmbench.load("out").cells.shape[0])
"""


def test_a_script_without_a_main_guard_runs_a_suite(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env=environment,
    )
    assert done.stdout == "True ['finetune', 'eval'] out 2\n", done.stdout + done.stderr
    commands = json.loads((tmp_path / "out" / "commands.json").read_text())
    assert set(commands.values()) == {"llmbench run small.yaml --set test_examples=8"}
