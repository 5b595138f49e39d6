"""Cells: their ids, and their names for people."""

from __future__ import annotations

import pytest

from llmbench.contract.cell import Budget, Cell, label_of
from llmbench.contract.job import Job

CELL = Cell("bert", "tiny", "qa", "made@1", "finetune", device="cuda", precision="bf16")


@pytest.mark.parametrize(
    "fields, label",
    [
        (CELL.to_json(), "finetune/bert/tiny/qa/bf16/cuda"),
        ({**CELL.to_json(), "role": "screen:fused"}, "finetune/bert/tiny/qa/bf16/cuda/screen:fused"),
        (
            {"stage": "eval", "model": "bert", "size": "tiny", "task": "qa", "device": "cpu"},
            "eval/bert/tiny/qa/None/cpu",
        ),
    ],
)
def test_a_label_names_what_is_run_and_on_what(fields, label):
    assert label_of(fields) == label


def test_a_cell_has_the_label_of_its_fields():
    assert CELL.label == label_of(CELL.to_json())


def test_a_single_job_is_the_only_repeat_of_its_cell():
    assert Job.single(CELL) == Job(CELL, 0, 0, 1, Budget(), "", {})
    budget = Budget(seconds=1)
    job = Job.single(CELL, budget, "run", repeat=1, attempt=2, repeats=3, verify="all")
    assert job == Job(CELL, 1, 2, 3, budget, "run", {}, verify="all")
