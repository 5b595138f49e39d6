"""Summaries and their renderers, from records as a worker writes them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import record, scored

from llmbench.contract.record import CellSummary
from llmbench.records.read import Run
from llmbench.report.cells.summary import best_baseline, oracle_pct, summarise, summarise_run
from llmbench.report.formats import csv as csv_report
from llmbench.report.formats import json as json_report
from llmbench.report.formats import markdown, terminal
from llmbench.report.table import Column, Table
from llmbench.report.tables.overview import bottleneck_table, quality_table, run_tables

CONTRACT = {
    "cell_id",
    "model",
    "size",
    "task",
    "dataset",
    "stage",
    "device",
    "precision",
    "status",
    "step_ms",
    "step_ms_ci",
    "steps",
    "tokens_per_s",
    "samples_per_s",
    "shares",
    "mfu_pct",
    "ceiling_pct",
    "bandwidth_pct",
    "padding_pct",
    "peak_memory_mib",
    "energy_j_per_step",
    "verdict",
    "verdict_class",
    "verdict_where",
    "verdict_why",
    "repeats",
    "headroom_predicted_x",
    "headroom_measured_x",
    "headroom_ci",
    "quality",
    "oracle",
    "oracle_kind",
    "baseline",
    "reproduce",
    "batch_size",
    "seq_len",
    "seed",
    "seconds",
    "repeats_wanted",
    "ci_pct_wanted",
    "ci_pct_reached",
    "largest_batch",
    "largest_batch_tried",
    "kv_cache_mib",
    "price_per_hour",
    "cost_per_million_tokens",
    "cost_per_million_generated_tokens",
    "cost_of_training",
}


def test_the_contract_and_a_summary_have_the_fields_of_the_type():
    fields = CellSummary.__required_keys__ | CellSummary.__optional_keys__
    assert fields >= CONTRACT
    (cell,) = summarise_run(Run("r", [scored()]))
    assert set(cell) == fields


def test_every_contract_field_is_there_and_null_has_a_reason():
    for made in (scored(), record("crashed"), record(samples={}, phases={}, counts={}, memory={})):
        (cell,) = summarise([made], {made["cell_id"]: "llmbench run s"})
        assert set(cell) >= CONTRACT
        missing = [k for k in CONTRACT if cell[k] is None and k not in cell["reasons"]]
        missing += [p for p, share in cell["shares"].items() if share is None and f"shares.{p}" not in cell["reasons"]]
        assert missing == []
        assert [k for k in cell["reasons"] if "." not in k and cell[k] is not None] == []


def test_numbers_are_what_was_measured():
    (cell,) = summarise([scored(), record(repeat=1, step_s=(0.4,) * 4)])
    assert cell["step_ms"] == pytest.approx(200.0)  # geometric mean of 100 and 400
    assert cell["steps"] == 8 and cell["repeats"] == 2 and cell["seconds"] == 6.0
    assert cell["tokens_per_s"] == pytest.approx(400 / 2.0) and cell["samples_per_s"] == pytest.approx(32 / 2.0)
    assert cell["padding_pct"] == pytest.approx(75.0) and cell["peak_memory_mib"] == 101.0
    assert cell["shares"]["input"] == pytest.approx(0.6) and cell["shares"]["comm"] is None
    assert (cell["suspect"], cell["suspect_class"], cell["suspect_verified"]) == ("input", "data", False)
    assert cell["verdict"] is None and "not a proof" in cell["reasons"]["verdict"]
    assert cell["baseline"] == {"acc": 0.5, "ppl": 40.0}


def test_a_hopeless_interval_is_not_printed_to_the_digit():
    (row,) = bottleneck_table(summarise([record(), record(repeat=1, step_s=(0.4,) * 4)])).rows
    assert ">100" in row


def test_cells_of_a_run_lend_each_other_what_they_know_of_processes():
    made = []
    for i in range(8):
        for repeat in range(2):
            one = record(repeat=repeat, step_s=(0.1 * (1 + 0.01 * ((3 * i + repeat) % 5)),) * 4)
            made.append(one | {"cell_id": f"c{i}"})
    cells = summarise(made)
    assert {cell["step_ms_ci_kind"] for cell in cells} == {"moderated"}
    assert "what all cells show" in " ".join(bottleneck_table(cells).notes)
    alone = [summarise([r for r in made if r["cell_id"] == cell["cell_id"]])[0] for cell in cells]
    assert {cell["step_ms_ci_kind"] for cell in alone} == {"processes"}
    assert [cell["step_ms"] for cell in alone] == [cell["step_ms"] for cell in cells]
    width = [max(c["step_ms_ci"][1] - c["step_ms_ci"][0] for c in found) for found in (cells, alone)]
    assert width[0] < width[1]


def test_inference_phases_are_forward():
    phases = {"input_s": [0.1], "prefill_s": [0.2], "decode_s": [0.5, 0.2]}
    (cell,) = summarise([record(stage="eval", phases=phases)])
    assert cell["shares"]["forward"] == pytest.approx(0.9)
    assert cell["shares"]["backward"] is None and cell["suspect"] == "forward"


def test_the_latest_ok_attempt_counts():
    slow, fast = record(step_s=(9.0,) * 4), record(attempt=1, step_s=(0.1,) * 4)
    (cell,) = summarise([slow, fast])
    assert cell["step_ms"] == pytest.approx(100.0) and cell["repeats"] == 1
    (cell,) = summarise([record("oom"), record(attempt=1)])
    assert cell["status"] == "ok" and cell["attempts"] == 2
    (cell,) = summarise([record(), record("crashed", repeat=1)])
    assert cell["status"] == "ok" and cell["warnings"] == ["repeat 1 is crashed"]


def test_oracle_percent_and_baselines_know_which_side_is_better():
    assert oracle_pct(0.6, 0.8, "higher") == pytest.approx(75.0)
    assert oracle_pct(20.0, 10.0, "lower") == pytest.approx(50.0)
    assert oracle_pct(1.0, 0.0, "higher") is None and oracle_pct(1.0, 1.0, None) is None
    assert best_baseline({"a": {"x": 1.0}}, {}) == {}


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.sampled_from(["input_s", "copy_s", "forward_s", "decode_s"]), st.lists(st.floats(0, 1e3))))
def test_shares_sum_to_one_or_are_unknown(phases):
    (cell,) = summarise([record(phases=phases)])
    known = [share for share in cell["shares"].values() if share is not None]
    assert not known or sum(known) == pytest.approx(1.0)
    assert (cell["suspect"] is None) == (not known)


def the_run():
    failed = record("error", repeat=1, error={"type": "E", "message": "line\nbreak | pipe", "traceback": "x"})
    made = scored()
    return Run("demo", [made, failed], {"e1": {"cpu": "c"}}, {}, {made["cell_id"]: "llmbench run s"})


def test_tables():
    cells = summarise(the_run().records)
    titles = [table.title for table in run_tables(the_run())]
    assert titles[:-1] == ["Run", "Where the time goes", "Quality", "Warnings", "Not measured"]
    assert titles[-1] == "How the numbers were obtained"
    row = dict(zip([c.name for c in bottleneck_table(cells).columns], bottleneck_table(cells).rows[0], strict=True))
    assert row["input"] == pytest.approx(60.0) and row["copy"] is None and row["suspect"] == "input"
    (first, second) = quality_table(cells).rows
    assert first[7:] == ("acc", 0.6, 0.8, pytest.approx(75.0), 0.5, 30) and second[7] == "ppl"
    with pytest.raises(ValueError):
        Table("t", (Column("a"),), ((1, 2),))


@pytest.mark.parametrize(
    "value, text",
    [(None, "n/a"), (0.0, "0.00"), (1234.5, "1,234.50"), (1e-7, "1e-07"), (3, "3"), ("x", "x")],
)
def test_values_as_people_read_them(value, text):
    assert Column("c").text(value) == text


def test_markdown_rows_have_one_cell_per_column():
    text = markdown.document([the_run()])
    assert "m\\|1" in text and "line break \\| pipe" in text
    assert f"llmbench run s -k {the_run().records[0]['cell_id']} -o " in text
    for block in text.split("\n\n"):
        rows = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_csv_reads_back():
    rows = list(csv.DictReader(io.StringIO(csv_report.document([the_run(), the_run()]))))
    assert len(rows) == 2 and rows[0]["model"] == "m|1" and float(rows[0]["shares.input"]) == pytest.approx(0.6)
    assert rows[0]["shares.comm"] == "" and rows[0]["quality.acc"] == "0.6" and "None" not in rows[0].values()


@pytest.mark.parametrize("name", ["=cmd|'/c calc'!A1", "+1+1", "-1+1", "@SUM(A1)", "\t=1+1", " =1+1", "＝1+1"])
def test_csv_holds_no_formula_and_no_control_characters(name):
    text = csv_report.render(Table("t", (Column(name), Column("n")), ((name, -1.5), ("a\x1b[31m-b", -2))))
    (head, first, second) = csv.reader(io.StringIO(text))
    assert head[0] == first[0] == "'" + name
    assert first[1] == "-1.5" and second == ["a\\x1b[31m-b", "-2"]  # numbers are numbers


def test_json_is_strict():
    made = record(samples={"step_s": [0.1], "step_tokens": [1]}, memory={"peak_mib": float("nan")})
    text = json_report.render([Run("r", [made])])
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["cells"][0]["peak_memory_mib"] is None and found["cells"][0]["run"] == "r"
    assert {"environments", "ceilings", "bottlenecks", "remedies", "learning", "scaling"} <= set(found)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_terminal_fits_and_has_no_colour_when_told(width, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    terminal.render(run_tables(the_run()), out, width)
    text = out.getvalue()
    assert re.search(r"\x1b\[(\d+;)*[349]\d[;m]", text) is None
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= width
    assert width == 60 or "suspect" in plain


def test_reading_a_run_directory(tmp_path: Path):
    from llmbench.records.read import read_runs
    from llmbench.records.run_dir import RunDir

    with RunDir.open(tmp_path / "r", write=True) as run_dir:
        for one in the_run().records:
            run_dir.append(one)
    (found,) = read_runs(tmp_path / "r")
    assert found.name == "r" and len(found.records) == 2
    (cell,) = summarise(found.records, found.commands)
    assert cell["reproduce"] is None and cell["reasons"]["reproduce"]
