"""A learning study whose doublings leave something open runs more of each, once, and goes on where it was stopped."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmbench.analysis.studies.learning import learning_rows
from llmbench.contract.job import new_record
from llmbench.execution import follow_up
from llmbench.execution.scheduler import RunContext, Schedule, pairs_left
from llmbench.plugins.discovery import discover
from llmbench.records.run_dir import RunDir
from llmbench.suite.file import load_suite
from llmbench.suite.plan import plan_cells

SUITE = """
name: follow
matrix: {model: lstm, size: "tiny*0.1", task: classification, stage: finetune,
         dataset: "synthetic:train=900,validation=1,test=50"}
defaults: {train_examples: 100, steps: STEPS, seq_len: 32, vocab_size: 300}
learning: {seeds: 3, FOLLOW}
repeats: 1
verify: none
"""


class School:
    """An executor on which only steps teach: little in the first hundred, and nothing beyond a thousand."""

    def __init__(self, stop_after=math.inf):
        self.stop_after, self.jobs = stop_after, []

    def run(self, job):
        if len(self.jobs) >= self.stop_after:
            raise KeyboardInterrupt
        cell = job.cell
        self.jobs.append((cell.train_examples, cell.steps, cell.size, cell.seed))
        noise = np.random.default_rng([cell.seed, cell.steps, cell.train_examples, len(cell.size)]).normal(size=50)
        score = 0.25 + 0.7 / (1 + (300 / cell.steps) ** 4)
        each = [float(v) for v in score + 0.02 * noise]
        quality = {"values": {"accuracy": float(np.mean(each))}, "primary": "accuracy", "examples": 50}
        quality |= {"direction": {"accuracy": "higher"}, "each": {"accuracy": each}}
        made = {"steps": cell.steps, "examples": min(cell.train_examples, 900), "seconds": 1.0, "tokens": 1, "loss": []}
        rest = {"oracle": {"kind": "exact", "values": {"accuracy": 0.95}}, "baselines": {"m": {"accuracy": 0.25}}}
        return new_record(job, "ok", training=made, quality=quality, counts={"parameters": 10}, **rest)


def studied(tmp_path, machine, steps=60, follow_="follow: 8"):
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.replace("STEPS", str(steps)).replace(", FOLLOW", f", {follow_}" if follow_ else ""))
    registry = discover()
    plan = plan_cells(load_suite(str(path), []), registry)
    with RunDir.open(tmp_path / "run", write=True) as run_dir:
        with Schedule(RunContext(plan, run_dir, machine, registry)).interruptible() as schedule:
            schedule.run_plan()
            follow_up.run(schedule)
        assert not pairs_left(plan, run_dir) and not follow_up.repeats_left(plan, run_dir, registry)
        return learning_rows(run_dir.records())


def test_a_lack_that_doubling_does_not_show_is_found_by_eight_times_as_much(tmp_path):
    machine = School()
    (row,) = studied(tmp_path, machine)
    assert (row["verdict"], row["times"], row["seeds"]) == ("training", 8, 3)
    more = {(800, 60, "tiny*0.1"), (100, 480, "tiny*0.1"), (100, 60, "tiny*0.8")}
    assert {job[:3] for job in machine.jobs[12:]} == more
    assert len(machine.jobs) == 12 + 9
    again = School()
    assert studied(tmp_path, again)[0]["verdict"] == "training" and not again.jobs


def test_what_doubling_decides_and_what_is_not_to_be_followed_runs_nothing_more(tmp_path):
    solved, asked_once = School(), School()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert studied(tmp_path / "a", solved, steps=2000)[0]["verdict"] == "none"
    (row,) = studied(tmp_path / "b", asked_once, follow_="")
    assert (row["verdict"], row["times"]) == ("undecided", 2)
    assert len(solved.jobs) == len(asked_once.jobs) == 12


@pytest.mark.parametrize("stop", [5, 12, 15, 20])
def test_a_study_that_is_stopped_goes_on_where_it_stopped(tmp_path, stop):
    first, second = School(stop), School()
    with pytest.raises(KeyboardInterrupt):
        studied(tmp_path, first)
    (row,) = studied(tmp_path, second)
    assert row["verdict"] == "training" and not set(first.jobs) & set(second.jobs)
    assert len(first.jobs) + len(second.jobs) == 21


def test_a_factor_that_is_no_more_than_a_doubling_is_refused(tmp_path):
    from llmbench.contract.errors import SuiteError

    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.replace("STEPS", "60").replace("FOLLOW", "follow: 2"))
    with pytest.raises(SuiteError, match=r"suite.yaml:\d+: follow must be an integer of at least 3, not 2"):
        load_suite(str(path), [])
    assert load_suite("learning", ["learning.follow=4"]).learning["follow"] == 4
