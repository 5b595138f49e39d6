"""What `diagnose` prints: the verdict in words first, then every cause, the step and what the budget went to."""

from __future__ import annotations

import pytest

from llmbench.contract.cell import Budget, Cell
from llmbench.contract.job import Job, new_record
from llmbench.records.read import Run
from llmbench.report.formats.terminal import text
from llmbench.report.tables import diagnosis

CELL = Cell("Tagger", "own", "own", "mine.py:target", "finetune", batch_size=8, seq_len=20)
MEANINGS = {"padding": "tokens that are none"}


def tried(axis, ratio=None, outcome="measured", predicted=None, reason=None, spread=0.001):
    clean = [0.1 + 0.0001 * i for i in range(12)] if outcome == "measured" else []
    treated = [c / ratio * (1 + spread * (-1) ** i) for i, c in enumerate(clean)]
    row = {"axis": axis, "class": "data" if axis == "where" else "hardware", "outcome": outcome, "facts": {}}
    row |= {"reason": reason, "predicted_x": predicted, "advice": "shorter rows, CUDA graphs; remedies: bucketing"}
    return row | {"clean_s": clean, "treated_s": treated, "share": 1.0, "block_steps": 1}


def run(budget_s=60.0, step_s=0.1, wall_s=50.0, spent=None, health=None, **interventions):
    job = Job.single(CELL, Budget(seconds=budget_s))
    samples = {"step_s": [step_s] * 10, "step_tokens": [90.0] * 10, "step_padding_tokens": [70.0] * 10}
    samples |= {"step_examples": [8.0] * 10, "paired_step_s": [step_s] * 3}
    record = new_record(
        job,
        "ok",
        samples=samples,
        phases={"input_s": [0.2 * step_s] * 3, "forward_s": [0.8 * step_s] * 3},
        counts={"tokens": 90.0, "padding_tokens": 70.0, "examples": 8.0},
        memory={"peak_mib": 432.1, "capacity_mib": 1000.0},
        interventions=interventions,
        spent=spent or {"start_s": 4.0, "target_s": 0.01, "measure_s": 6.0, "verify_s": 39.0},
        health=health or {},
        wall_s=wall_s,
    )
    environment = {"cpu": "A CPU", "cores": 2, "usable_cores": 1, "packages": {"torch": "2.13.0"}}
    return Run("mine.py:target", [record], {"here": environment}, {}, {})


def test_a_verdict_is_said_first_with_its_numbers_and_what_to_change():
    found = run(padding=tried("where", 1.5, predicted=1.45), kernel=tried("why", 1.3, predicted=1.2))
    first, second, third, fourth, last = diagnosis.lines(found, MEANINGS)
    assert first.startswith(
        "A training step of Tagger (cpu, fp32; 100 ms) is bounded by padding (data: tokens that are"
    )
    assert second.startswith("Without it a step is 1.50x as fast (measured, 95 % interval 1.50 - 1.50; predicted 1.45x")
    assert third == "What to change: shorter rows."  # no CUDA on a CPU, and no option of `llmbench run`
    assert fourth.startswith("By resource: kernel, 1.30x (")
    assert last == "It took 50.0 s of the budget of 60 s: starting 4.0 s, the step 6.0 s, causes 39.0 s."


@pytest.mark.parametrize(("step_s", "budget"), [(0.01, "120"), (0.1, "120"), (0.5, "220"), (2.0, "820")])
def test_what_had_no_time_is_named_with_a_budget_for_it(step_s, budget):
    found = run(step_s=step_s, padding=tried("where", None, "out_of_time", 1.5, "no time was left to measure it"))
    said = "\n".join(diagnosis.lines(found))
    assert ": not decided." in said and diagnosis.BUSY not in said
    assert f"No time was left for padding (predicted 1.50x): try a budget of {budget} s." in said


def test_an_interval_that_is_too_wide_and_cores_that_others_took_are_said():
    health = {"wall_s": 10.0, "cores": 1, "other_cpu_s": 8.0, "run_wait_longest_s": 8.0}
    said = "\n".join(diagnosis.lines(run(padding=tried("where", 1.15, spread=0.3), health=health)))
    assert diagnosis.BUSY in said and "The interval of padding is too wide" in said
    assert "The largest is padding, 1." in said


def test_balance_says_that_nothing_gives_much():
    said = diagnosis.lines(run(padding=tried("where", 1.01), kernel=tried("why", 1.02)))
    assert "no single bottleneck. Nothing that was removed gives 1.10x with confidence." in said[0]
    assert "The largest is kernel, 1.02x" in said[0] and said[1].startswith("No single change will do")


def test_a_budget_that_the_target_took_is_said():
    spent = {"start_s": 3.0, "target_s": 60.0, "measure_s": 4.0, "verify_s": 3.0}
    found = run(wall_s=70.0, spent=spent, padding=tried("where", None, "out_of_time", None, "no time"))
    assert diagnosis.lines(found)[-1].endswith("Model and data left too little for the causes.")


def test_every_cause_has_its_row_or_is_in_the_note_and_nothing_speaks_of_run_directories():
    found = run(
        padding=tried("where", 1.5),
        attention=tried("where", None, "not_selected", 1.01),
        compute=tried("why", None, "unisolated", 1.3, "another kernel"),
        copy=tried("where", None, "does_not_apply", None, "nothing is copied"),
    )
    causes, step, *_ = diagnosis.tables(found)
    assert [row[0] for row in causes.rows] == ["padding", "attention", "compute"]
    assert "does not apply: copy (nothing is copied)" in causes.notes
    shown = text([causes, step])
    assert "cannot be removed alone" in shown and "another kernel" in shown
    assert "44 % of it padding" in shown and "A CPU, 1 of 2 cores, torch 2.13.0" in shown and "900 tokens/s" in shown
    assert "environment.json" not in shown and "finetune" not in shown
