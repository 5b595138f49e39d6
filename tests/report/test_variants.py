"""Cells that tables would show alike are told apart by what varies between them, and by nothing else."""

from __future__ import annotations

import dataclasses

from support.records import record

from llmbench.contract.cell import Cell
from llmbench.report.cells.summary import failures, summarise
from llmbench.report.cells.variants import find_variants


def cell(**fields):
    made = Cell("m", "tiny", "t", "file:news@1", "finetune")
    return dataclasses.asdict(dataclasses.replace(made, **fields))


def test_nothing_varies():
    assert find_variants([cell(), cell(stage="eval", parent="x"), cell(model="n", seq_len=8)]) == ["", "", ""]


def test_options_that_vary_among_cells_alike_are_named():
    found = find_variants([cell(), cell(compile=True, seed=1), cell(stage="eval", seed=2)])
    assert found == ["seed=0 compile=false", "seed=1 compile=true", ""]


def test_data_sets_are_named_shortly_unless_only_their_content_differs():
    assert find_variants([cell(), cell(dataset="file:spam@2")]) == ["news", "spam"]
    assert find_variants([cell(), cell(dataset="file:news@2")]) == ["file:news@1", "file:news@2"]


def test_summaries_and_failures_carry_it():
    other = record("error", error={"type": "E", "message": "x"})
    other = {**other, "cell": {**other["cell"], "compile": True}, "cell_id": "other"}
    assert [c["variant"] for c in summarise([record(), other])] == ["compile=false", "compile=true"]
    assert [f["variant"] for f in failures([record(), other])] == ["compile=true"]
