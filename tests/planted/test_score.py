"""The score of planted cases: arithmetic on rows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.contract.errors import UserError
from llmbench.planted import cases, measurement, score


def row(cause="input", axis="where", where="input", why="balanced", planted=0.2, measured=2.0, predicted=1.8, work=1.0):
    return {
        "case": f"{cause}-{where}-{why}",
        "cause": cause,
        "axis": axis,
        "work": work,
        "in_turns": True,
        "planted_s": [[planted] * 5] * 3,
        "unplanted_s": [[0.1] * 5] * 3,
        "found": {"verdict_where": where, "verdict_why": why, "measured_x": measured, "predicted_x": predicted},
    }


def test_the_truth_is_planted_over_unplanted_per_piece_of_work():
    assert score.true_x(row()).value == pytest.approx(2.0)
    assert score.true_x(row(planted=0.08, work=2.0)).value == pytest.approx(1.6)


def test_a_disturbed_process_does_not_move_the_truth():
    disturbed = row()
    disturbed["unplanted_s"][1] = [0.19] * 5
    found = score.true_x(disturbed)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 0.2 / 0.19, 2.0))


def test_a_machine_that_slows_down_for_a_while_does_so_for_both_sides():
    slow = row()
    slow["planted_s"][0] = [0.2, 0.2, 0.4, 0.4, 0.4]
    slow["unplanted_s"][0] = [0.1, 0.1, 0.2, 0.2, 0.2]
    slow["planted_s"][1] = [0.2, 0.4, 0.2, 0.2, 0.2]  # within a pair: one of five
    found = score.true_x(slow)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_rows_of_processes_that_ran_one_after_the_other_are_read_still():
    old = row() | {"planted_s": [[0.2, 0.2, 0.9]] * 2, "unplanted_s": [[0.1] * 5] * 2}
    del old["in_turns"]
    assert score.true_x(old).value == pytest.approx(2.0)


@pytest.mark.parametrize(
    "fields, right",
    [
        ({}, True),
        ({"where": "padding"}, False),
        ({"where": "undecided"}, False),
        ({"cause": "kernel", "axis": "why", "where": "balanced", "why": "kernel"}, True),
        ({"cause": "kernel", "axis": "why", "where": "optimizer", "why": "kernel"}, True),
        ({"cause": "kernel", "axis": "why", "where": "balanced", "why": "host"}, False),
        ({"cause": None, "axis": None, "where": "balanced", "why": "compute"}, True),
        ({"cause": None, "axis": None, "where": "undecided"}, True),
        ({"cause": None, "axis": None, "where": "optimizer"}, False),
    ],
)
def test_a_verdict_is_right_on_the_axis_of_what_was_planted(fields, right):
    assert score.is_right(row(**fields)) is right


def test_the_matrix_counts_what_was_named_and_controls_are_a_row():
    rows = [row(), row(), row(where="padding"), row(cause=None, axis=None, where="balanced")]
    assert score.confusion(rows) == {"input": {"input": 2, "padding": 1}, "control": {"balanced": 1}}


@given(st.lists(st.sampled_from(["input", "padding", "balanced"]), min_size=1, max_size=20))
def test_the_matrix_loses_nobody(names):
    found = score.confusion(row(cause=a, where=b) for a, b in zip(names, reversed(names), strict=True))
    assert sum(n for line in found.values() for n in line.values()) == len(names)
    summary = score.summarize([row(cause=a, where=b) for a, b in zip(names, reversed(names), strict=True)])
    assert summary["right"] + len(summary["wrong"]) == len(names) == summary["cases"]


def test_errors_are_medians_and_percentiles_in_percent_per_cause_and_in_all():
    rows = [row(measured=2.0 * (1 + k / 100), predicted=None) for k in range(10)]
    rows.append(row(cause=None, axis=None, where="balanced"))
    own, every = score.errors(rows)
    assert own["cause"] == "input" and every["cause"] is None and every["cases"] == 10
    assert own["measured_pct"] == pytest.approx([4.5, 8.0]) and own["predicted_pct"] is None
    assert every["measured_cases"] == 10 and every["predicted_cases"] == 0


def test_the_tables_hold_every_cause_and_the_totals():
    text = score.markdown(score.summarize([row(), row(cause="kernel", axis="why", why="kernel", where="balanced")]))
    assert "Verdicts right: 2 of 2 (100 %)" in text and "| input | 1 |" in text and "| **all** | 2 | 2 |" in text


def test_rows_are_read_again_and_only_an_unfinished_last_line_is_forgiven(tmp_path):
    path = tmp_path / "cases.jsonl"
    assert measurement.read_rows(path) == []
    path.write_text(json.dumps(row()) + "\n" + '{"case": "x')
    assert [r["case"] for r in measurement.read_rows(path)] == [row()["case"]]
    path.write_text('{"case\n' + json.dumps(row()) + "\n")
    with pytest.raises(UserError, match=":1: no JSON"):
        measurement.read_rows(path)


def test_there_are_enough_cases_of_enough_causes_and_names_are_unique():
    runnable = cases.runnable()
    planted = [case for case in runnable if case.cause]
    assert len(planted) >= 100 and len({case.cause for case in planted}) >= 12
    assert len(runnable) - len(planted) == 16
    assert len({case.name for case in cases.every()}) == len(cases.every())
    assert all(case.name.isidentifier() for case in cases.every())


def test_any_first_part_of_the_order_samples_all_causes():
    order = cases.interleave(cases.runnable())
    causes = {case.cause for case in order}
    assert {case.cause for case in order[: len(causes)]} == causes and sorted(c.name for c in order) == sorted(
        c.name for c in cases.runnable()
    )
