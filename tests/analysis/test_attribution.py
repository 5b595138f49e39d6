"""Verdicts from trials of causes: which cause, how sure, and what is said when nothing can be."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interventions import trial, untried
from support.records import record

from llmbench.analysis import attribution
from llmbench.records.read import Run
from llmbench.report.cells.summary import summarise
from llmbench.report.formats import json as json_report
from llmbench.report.tables.overview import run_tables


def judged(**trials):
    rows = attribution.bottlenecks([record(interventions=trials)])
    return attribution.verdict(rows)


def test_the_largest_material_cause_of_each_axis_is_named_and_the_headline_is_where():
    found = judged(
        a=trial(1.3, seed=1), b=trial(1.8, seed=2), c=trial(4.0, axis="why", seed=3), d=trial(1.0, axis="why", seed=4)
    )
    assert (found["verdict_where"], found["verdict_why"], found["verdict"]) == ("b", "c", "b")
    assert found["verdict_class"] == "algorithm" and found["advice"] == "change it"
    assert found["headroom_measured_x"] == pytest.approx(1.8, rel=0.02) and found["headroom_predicted_x"] == 1.8
    low, high = found["headroom_ci"]
    assert low < 1.8 < high or abs(low - 1.8) < 0.02


def test_the_headline_is_why_where_no_component_is_material():
    assert judged(a=trial(1.02), c=trial(1.5, axis="why", seed=3))["verdict"] == "c"


def test_nothing_material_is_balanced_and_nothing_tried_is_no_verdict():
    assert judged(a=trial(1.03, noise=0.005), c=trial(1.0, axis="why", seed=3))["verdict"] == "balanced"
    assert judged(a=untried("does_not_apply"), b=untried("not_selected", 1.01))["verdict"] == "balanced"
    assert attribution.verdict([]) == {}


def test_a_large_point_estimate_that_is_not_sure_is_undecided():
    found = judged(a=trial(1.25, noise=0.4, pairs=8, seed=5))
    assert found["verdict"] == "undecided" and "a:" in found["verdict_notes"]["where"]
    assert found["leading"] == "a" and found["headroom_measured_x"] > 1.1 and found["advice"] is None


def test_balanced_says_how_much_the_largest_cause_gives():
    found = judged(a=trial(1.02), b=trial(1.06, noise=0.005, seed=1))
    assert (found["verdict"], found["verdict_class"], found["leading"]) == ("balanced", None, "b")
    low, high = found["headroom_ci"]
    assert low < 1.06 < high and found["headroom_measured_x"] == pytest.approx(1.06, abs=0.01)


@pytest.mark.parametrize("outcome", ["out_of_time", "failed"])
def test_a_suspect_that_was_not_settled_is_undecided_unless_its_prediction_is_small(outcome):
    assert judged(a=untried(outcome, 1.5))["verdict"] == "undecided"
    assert judged(a=untried(outcome, None))["verdict"] == "undecided"
    assert judged(a=untried(outcome, 1.05))["verdict"] == "balanced"


def test_a_leading_suspect_without_a_clean_intervention_is_unisolated_and_never_guessed():
    assert judged(a=untried("unisolated", 2.0))["verdict"] == "unisolated"
    assert judged(a=untried("unisolated", 2.0), b=trial(1.4))["verdict"] == "b"
    nothing = judged(a=untried("unisolated", None))
    assert (nothing["verdict"], nothing["verdict_notes"]["where"]) == ("unisolated", "because")
    assert judged(a=untried("unisolated", None), b=trial(1.0))["verdict"] == "balanced"


def test_a_share_of_a_cause_is_scaled_to_all_of_it():
    (row,) = attribution.bottlenecks([record(interventions={"a": trial(2.0, share=0.75, noise=0.001)})])
    assert row["measured_x"] == pytest.approx(2.0, rel=0.01)


def test_selection_and_estimate_use_different_pairs():
    row = trial(1.0, pairs=20, noise=0.0)
    row["treated_s"] = [t / (1.5 if i % 2 == 0 else 1.2) for i, t in enumerate(row["treated_s"])]
    (found,) = attribution.bottlenecks([record(interventions={"a": row})])
    assert found["rank_x"] == pytest.approx(1.5) and found["headroom_x"] == pytest.approx(1.2)


def test_several_repeats_are_processes():
    records = [record(repeat=i, interventions={"a": trial(1.5, seed=i)}) for i in range(3)]
    (row,) = attribution.bottlenecks(records)
    assert row["ci_kind"] != "within" and row["pairs"] == 60
    (row,) = attribution.bottlenecks(records[:1])
    assert row["ci_kind"] == "within"


def test_interaction_and_prediction_errors():
    together = {"causes": ["a", "b"], **{k: trial(3.0, seed=9)[k] for k in ("clean_s", "treated_s")}}
    made = record(interventions={"a": trial(1.5, predicted=1.8), "b": trial(2.0, seed=1)}, together=together)
    (row,) = attribution.interactions([made])
    assert row["measured_x"] == pytest.approx(3.0, rel=0.02) and row["product_x"] == pytest.approx(3.0, rel=0.02)
    median, worst, count = attribution.prediction_errors(attribution.bottlenecks([made]))
    assert count == 2 and worst == pytest.approx(20, abs=1.5) and 0 <= median <= worst
    assert attribution.prediction_errors([]) is None


def test_no_false_verdict_and_no_missed_one_in_simulated_cells():
    """At the threshold one of four causes is called material in about 5 % of cells; a headroom of 1.25 is found."""
    false = sum(
        judged(**{f"c{i}": trial(1.10, seed=100_000 + 10 * n + i, noise=0.03) for i in range(4)})["verdict"].startswith(
            "c"
        )
        for n in range(400)
    )
    found = sum(
        judged(a=trial(1.25, seed=n, noise=0.03), b=trial(1.0, seed=-n % 997))["verdict"] == "a" for n in range(50)
    )
    assert false <= 32 and found >= 48  # 32 of 400: the 6 % of a trimmed mean of 20 pairs, and two standard errors


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("where", "why")),
            st.sampled_from(("measured", "does_not_apply", "unisolated", "not_selected", "out_of_time", "failed")),
            st.one_of(st.none(), st.floats(0.2, 9)),
            st.floats(0.3, 9),
            st.integers(0, 9),
            st.sampled_from((1.0, 0.5, 0.9)),
        ),
        max_size=6,
    )
)
def test_any_trials_give_a_verdict_that_json_can_hold(drawn):
    trials = {}
    for i, (axis, outcome, predicted, headroom, pairs, share) in enumerate(drawn):
        made = trial(headroom, axis, pairs, 0.1, predicted, seed=i, share=share)
        trials[f"c{i}"] = made if outcome == "measured" else untried(outcome, predicted, axis)
    made = record(interventions=trials)
    (cell,) = summarise([made])
    names = {*trials, "balanced", "undecided", "unisolated", None}
    assert cell["verdict"] in names and (cell["verdict"] is None) == (not trials)
    for key in ("verdict", "verdict_class", "headroom_measured_x", "headroom_ci"):
        assert cell[key] is not None or key in cell["reasons"]
    document = json.loads(json_report.render([Run("r", [made])]))
    assert len(document["bottlenecks"]) == len(trials)
    assert {"cell_id", "cause", "class", "predicted_x", "measured_x", "ci"} <= set(
        itertools.chain.from_iterable(document["bottlenecks"] or [dict.fromkeys(("cell_id", "cause", "class"), 0)])
    ) | {"predicted_x", "measured_x", "ci"}


def test_the_tables_say_what_bounds_a_cell_and_what_was_tried():
    made = record(interventions={"a": trial(1.8), "b": untried("unisolated", 1.5, reason="no way")})
    tables = {table.title: table for table in run_tables(Run("r", [made]))}
    (row,) = tables["What bounds each cell"].rows
    assert {"a", "algorithm", "change it"} <= set(row)
    assert any("median" in note for note in tables["What bounds each cell"].notes)
    (tried,) = tables["Causes tried"].rows
    assert "a" in tried and 20 in tried
    assert tables["Causes not measured"].rows == ((1, "b", "unisolated", 1.5, "no way"),)
    assert "suspect" not in [c.name for c in tables["Where the time goes"].columns]
