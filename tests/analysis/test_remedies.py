"""Which remedies are tried, what trials show, and how a search goes on: on made records, without torch."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import record
from support.remedy_runs import CELL, Machine, _has_it, made, remedy, searched, verified

from llmbench.analysis import remedy_choice, remedy_trials
from llmbench.analysis.remedy_trials import CONFIRM, SCREEN, Trials, quality_change, round_and_names, trials_of
from llmbench.cli import main
from llmbench.contract.cell import Cell
from llmbench.contract.errors import DoesNotApply
from llmbench.execution.progress import Progress
from llmbench.execution.remedy_search import plain_of, settings_for
from llmbench.plugins.discovery import discover
from llmbench.records.read import Run
from llmbench.report.formats import json as report_json
from llmbench.report.tables.overview import run_tables
from llmbench.report.tables.remedies import recommendation_rows, remedy_rows
from llmbench.suite.file import load_suite
from llmbench.suite.plan import plan_cells


def test_gain_is_throughput_in_pairs_and_a_stall_does_not_move_it():
    found = []
    for repeat, drift in enumerate((1.0, 1.3, 0.8)):  # of the machine, both arms alike
        stalled = [drift * 0.1] * 19 + [5.0]
        found.append(made(CELL, "screen:", repeat, stalled))
        found.append(made(CELL, "screen:larger", repeat, [drift * 0.2] * 20, tokens=40.0))
    trials = trials_of(found)[CELL.cell_id]
    estimate = remedy_trials.gain(trials, SCREEN, (), ("larger",))
    assert estimate.value == pytest.approx(2.0) and estimate.low == pytest.approx(2.0) == pytest.approx(estimate.high)
    assert remedy_trials.gain(trials, CONFIRM, (), ("larger",)) is None


def test_only_good_pairs_count_and_the_latest_good_attempt():
    found = [made(CELL, "screen:", i, [0.1] * 10) for i in range(3)]
    found += [made(CELL, "screen:x", i, [0.05] * 10) for i in (0, 1)]
    found += [
        made(CELL, "screen:x", 2, [0.1] * 10, status="crashed"),
        made(CELL, "screen:x", 2, [0.05] * 10, attempt=1),
    ]
    trials = trials_of([*found, record()])[CELL.cell_id]
    assert len(trials.pairs(SCREEN, (), ("x",))) == 3
    trials = trials_of(found[:-1])[CELL.cell_id]
    assert len(trials.pairs(SCREEN, (), ("x",))) == 2 and trials.first(SCREEN, ("x",))["status"] == "crashed"


def test_a_turn_in_which_others_took_the_cores_does_not_count():
    found = [made(CELL, role, i, [0.1] * 10) for role in ("screen:", "screen:x") for i in range(3)]
    found[4]["samples"]["step_s"] = [9.0] * 10
    found[4]["health"] = {"wall_s": 10.0, "cores": 2, "other_cpu_s": 5.0, "steal_s": 0.0}
    trials = trials_of(found)[CELL.cell_id]
    assert len(trials.pairs(SCREEN, (), ("x",))) == 2
    assert remedy_trials.gain(trials, SCREEN, (), ("x",)).value == pytest.approx(1.0)
    for change in ({"other_cpu_s": 1.0}, {"other_cpu_s": 10.0, "run_wait_longest_s": 1.0}):  # on a core of their own
        found[4]["health"] |= change
        assert len(trials_of(found)[CELL.cell_id].pairs(SCREEN, (), ("x",))) == 3
    for one in found:
        one["health"] = {"wall_s": 1.0, "cores": 1, "steal_s": 1.0}
    trials = trials_of(found)[CELL.cell_id]  # where no turn was quiet, all count
    assert len(trials.pairs(SCREEN, (), ("x",))) == 3 and trials.quiet_pairs(SCREEN, (), ("x",)) == []
    for one in found:
        one["health"] = {}
    found[4]["health"] = {"wall_s": 10.0, "cores": 2, "other_cpu_s": 10.0, "steal_s": 0.0}
    for change in ({"run_wait_longest_s": 2.0}, {"run_wait_longest_s": 0.1, "steal_s": 4.0}):
        found[4]["health"] |= change
        assert len(trials_of(found)[CELL.cell_id].pairs(SCREEN, (), ("x",))) == 2


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ((0.0, 0.0, 0.0), "unchanged"),
        ((0.01, -0.012, 0.004), "unchanged"),
        ((-0.1, -0.11, -0.09), "worse"),
        ((0.1, 0.11, 0.09), "better"),
        ((-0.002, -0.0021, -0.0019), "unchanged"),  # surely worse, by a fourth of a percent
        ((0.2, -0.2, 0.0), "undecided"),
        ((0.0,), "unchanged"),
        ((0.1,), "undecided"),
    ],
)
def test_quality_is_judged_by_its_interval_over_seeds(changes, outcome):
    found = []
    for seed, change in enumerate(changes):
        found.append(made(CELL, "learn:", seed, [0.1], quality=0.8 + 0.01 * seed))
        found.append(made(CELL, "learn:x", seed, [0.1], quality=0.8 + 0.01 * seed + change))
    change = quality_change(trials_of(found)[CELL.cell_id], ("x",))
    assert change["outcome"] == outcome and change["seeds"] == len(changes)
    assert change["delta"] == pytest.approx(sum(changes) / len(changes))


def test_a_model_that_is_not_scored_by_the_primary_metric_is_judged_by_its_own():
    found = []
    for role in ("learn:", "learn:x"):
        one = made(CELL, role, 0, [0.1], quality=0.8)
        found.append({**one, "quality": {**one["quality"], "primary": "perplexity"}})
    assert quality_change(trials_of(found)[CELL.cell_id], ("x",))["metric"] == "acc"


def test_a_metric_that_should_be_low_is_worse_when_it_rises():
    found = []
    for seed in range(3):
        for role, value in (("learn:", 20.0), ("learn:x", 25.0 + 0.1 * seed)):
            one = made(CELL, role, seed, [0.1], quality=value)
            found.append({**one, "quality": {**one["quality"], "direction": {"acc": "lower"}}})
    assert quality_change(trials_of(found)[CELL.cell_id], ("x",))["outcome"] == "worse"


names = st.lists(st.text("abcdefghij-0123456789", min_size=1, max_size=8), max_size=4)


@given(st.sampled_from(["screen", "confirm", "learn", "add-x"]), names)
def test_a_role_says_round_and_names(round_, found):
    assert round_and_names(remedy_trials.role_of(round_, found)) == (round_, tuple(found))


def test_trials_are_no_cells_of_a_report_and_have_ids_of_their_own():
    trial = remedy_trials.trial_cell(CELL, CELL.cell_id, SCREEN, [remedy("quick")])
    assert trial.cell_id != CELL.cell_id and trial.remedy_of == CELL.cell_id and trial.threads == 1
    run = Run("r", [record(), made(Cell("m|1", "tiny", "t", "made@1", "finetune"), "screen:", 0, [0.1])])
    assert len(report_json.document([run])["cells"]) == 1


# --- what is suggested ----------------------------------------------------------------------------------


def test_what_answers_the_verdict_is_suggested_and_the_rest_is_not():
    specs = [
        remedy("answer", 1.5, general=False),
        remedy("other", 3.0, general=False, answers=("input",)),
        remedy("everywhere", None, answers=("input",)),
        remedy("little", 1.01),
        remedy("elsewhere", 2.0, devices=("cuda",)),
        remedy("has-it", 2.0, change=_has_it),
        dataclasses.replace(remedy("broken"), predict=lambda *_: 1 / 0),
    ]
    found = {s.spec.name: s.why_not for s in remedy_choice.suggest(CELL, [verified()], {}, specs)}
    assert set(found) == {"answer", "everywhere", "little", "elsewhere", "has-it", "broken"}
    assert found["answer"] is None and found["everywhere"] is None
    assert found["elsewhere"] == "does not apply on cpu" and found["has-it"] == "does not apply: it has it"
    assert "1.01x" in found["little"] and "ZeroDivisionError" in found["broken"]
    quiet = {s.spec.name for s in remedy_choice.suggest(CELL, [verified(ratio=1.0)], {}, specs)}
    assert "answer" not in quiet and "everywhere" in quiet
    asked = remedy_choice.suggest(CELL, [verified()], {}, specs, everything=True)
    assert "other" in {s.spec.name for s in asked}


# --- the search -----------------------------------------------------------------------------------------


def test_turns_that_are_made_up_for_are_in_the_count_of_what_is_left(tmp_path):
    class Busy(Machine):
        def run(self, job):
            waited = 0.5 if job.cell.remedy_of is not None and job.repeat == 0 else 0.0
            return super().run(job) | {"health": {"wall_s": 1.0, "cores": 1, "steal_s": waited}}

    said = io.StringIO()
    searched(tmp_path / "r", Busy(), [remedy("quick", 1.8)], Progress(1, stream=said))
    counts = [tuple(map(int, line[1:].partition("]")[0].split("/"))) for line in said.getvalue().splitlines()]
    assert all(done <= total for done, total in counts) and counts[-1][0] == counts[-1][1] > 1 + 2 * 3 + 2 * 3 + 2 * 4


def test_a_search_combines_what_gains_and_tells_what_became_of_the_rest(tmp_path):
    better, found = searched(tmp_path / "r", Machine())
    assert {k for k, v in better.to_json().items() if v != CELL.to_json()[k]} == {"threads", "precision", "bucketing"}
    assert better.learning_rate is None and better.remedy_of is None and better.role is None
    run = Run("r", found, commands={better.cell_id: "llmbench run s --set threads=1"})
    rows = {row["remedy"]: row for row in remedy_rows(run)}
    assert {name: row["outcome"] for name, row in rows.items()} == {
        **{"quick": "kept", "mild": "kept", "rough": "kept"},
        **{"same": "not added", "idle": "no gain", "pinned": "not tried"},
    }
    assert rows["quick"]["measured_x"] == pytest.approx(2, rel=0.01) and rows["quick"]["predicted_x"] == 1.8
    assert rows["quick"]["ci"][0] <= rows["quick"]["measured_x"] <= rows["quick"]["ci"][1]
    assert rows["quick"]["quality_delta"] == {} and rows["rough"]["quality_delta"] == {"acc": 0.0}
    assert rows["quick"]["memory_change_mib"] == 5 and rows["pinned"]["reason"] == "does not apply on cpu"
    (whole,) = recommendation_rows(run)
    assert whole["measured_x"] == pytest.approx(2 * 1.2 * 1.5, rel=0.01) and whole["quality_outcome"] == "unchanged"
    assert whole["predicted_x"] == pytest.approx(1.8 * 1.4 * 1.2, rel=0.01)  # nothing was predicted of `mild`
    assert whole["changed_per_s"] / whole["plain_per_s"] == pytest.approx(3.6, rel=0.02)
    assert whole["reproduce"].startswith(f"llmbench run s --set threads=1 -k {better.cell_id}")
    document = json.loads(report_json.render([run]))
    assert {"cell_id", "remedy", "predicted_x", "measured_x", "ci", "quality_delta"} <= set(document["remedies"][0])
    titles = {table.title: table for table in run_tables(run)}
    assert len(titles["Remedies"].rows) == 6 and len(titles["Recommended"].rows) == 1


def test_a_remedy_that_harms_quality_is_not_recommended(tmp_path):
    better, found = searched(tmp_path / "r", Machine(harm=0.1))
    assert better.precision == "fp32" and better.threads == 1
    rows = {row["remedy"]: row for row in remedy_rows(Run("r", found))}
    assert rows["rough"]["outcome"] == "quality" and rows["rough"]["quality_outcome"] == "worse"
    assert rows["rough"]["quality_delta"]["acc"] == pytest.approx(-0.1)


def test_where_nothing_gains_nothing_is_recommended(tmp_path):
    better, found = searched(tmp_path / "r", Machine(), [remedy("idle")])
    assert better is None and recommendation_rows(Run("r", found)) == []


def test_a_search_that_is_stopped_anywhere_goes_on_where_it_stopped(tmp_path):
    whole = Machine()
    best, _ = searched(tmp_path / "whole", whole)
    for stop in (1, 9, 20, 31, len(whole.jobs) - 1):
        first, second = Machine(stop_after=stop), Machine()
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path / f"at{stop}", first)
        again, _ = searched(tmp_path / f"at{stop}", second)
        assert again == best and sorted(first.jobs + second.jobs) == sorted(whole.jobs)
    third = Machine()
    assert searched(tmp_path / "whole", third)[0] == best and third.jobs == []


def test_trials_of_nothing_are_empty():
    assert Trials({}).recommendation() is None and trials_of([record()]) == {}


@pytest.mark.timed
def test_a_real_run_recommends_what_it_measured_and_its_command_plans_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tempfile.mkdtemp(dir=tmp_path))  # another one for each try
    capsys.readouterr()
    sets = ["steps=10", "test_examples=16", "train_examples=200", "repeats=1", "seconds=0.2", "verify=none"]
    sets += ["remedy_seconds=0.2", "remedy_pairs=6", "remedy_seeds=2"]
    sets += ["size=tiny:layers=1", "seq_len=128"]  # much of a step is logits: a gain that a busy machine does not hide
    asked = ["--remedy", "labelled-logits", "--remedy", "batch-2x"]  # of which the second leaves too few steps
    words = ["run", "remedies", "-k", "bert", *(w for text in sets for w in ("--set", text)), *asked, "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and {row["remedy"] for row in found["remedies"]} == set(asked[1::2])
    outcomes = {row["remedy"]: row["outcome"] for row in found["remedies"]}
    assert outcomes == {"labelled-logits": "kept", "batch-2x": "not tried"}
    (whole,) = found["recommendations"]
    assert whole["ci"][0] > 1 and whole["quality_outcome"] == "unchanged"
    command = shlex.split(whole["reproduce"])
    with pytest.raises(SystemExit):
        main(["plan", *command[2:-2], "--json"])
    (cell,) = json.loads(capsys.readouterr().out)["plans"][0]["cells"]
    assert cell["cell_id"] == whole["recommended_cell_id"]


# --- the command that reproduces ------------------------------------------------------------------------


@pytest.mark.parametrize("suite", ["quick", "remedies"])
def test_the_settings_plan_the_recommended_cell_whatever_it_descends_from(suite):
    registry = discover()
    plan = plan_cells(load_suite(suite), registry)

    def replan(more):
        return plan_cells(load_suite(suite, more), registry)

    tried = 0
    for planned in plan.cells[:: 9 if suite == "quick" else 1]:
        cell = planned.cell
        plain = plain_of(cell, registry)
        for name in ("batch-2x", "one-thread", "bf16", "bucketing", "fused-optimizer"):
            try:
                changed = registry.get("remedy", name).change(plain)
            except DoesNotApply:
                continue
            better = remedy_trials.apply_differences(cell, plain, changed)
            settings = settings_for(cell, better, plan, replan)
            assert settings is not None, (cell.label, name)
            assert better in [one.cell for one in replan(settings).cells]
            tried += 1
    assert tried >= 5
