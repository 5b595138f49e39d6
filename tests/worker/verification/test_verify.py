"""Trials of causes: how many pairs of blocks, by their spread and never by what they say; and who gets which time."""

import dataclasses
import itertools
import random

import pytest

from llmbench import stats
from llmbench.contract import errors, specs, step_trial
from llmbench.worker.verification import paired_blocks
from llmbench.worker.verification import verify as verify_module
from llmbench.worker.verification.policy import DEFAULT_POLICY, Selection
from llmbench.worker.verification.verify import verify_causes


def pairs_needed(clean_s, treated_s, share):
    return paired_blocks.pairs_needed(clean_s, treated_s, share, DEFAULT_POLICY)


def pairs(spread, headroom, count=12, seed=0):
    rng = random.Random(seed)
    clean = [0.1 * (1 + rng.gauss(0, spread)) for _ in range(count)]
    return clean, [0.1 / headroom * (1 + rng.gauss(0, spread)) for _ in range(count)]


def test_more_spread_takes_more_pairs():
    calm, noisy = (pairs_needed(*pairs(spread, 1.3), 1.0) for spread in (0.005, 0.05))
    assert calm <= 12 < noisy


@pytest.mark.parametrize("headroom", [1.02, 1.1, 3.0])
def test_what_they_say_of_the_headroom_does_not_count(headroom):
    assert pairs_needed(*pairs(0.05, headroom), 1.0) == pytest.approx(pairs_needed(*pairs(0.05, 1.3), 1.0), abs=1)


def test_so_many_pairs_are_close_enough():
    wide = []
    for seed in range(40):
        count = pairs_needed(*pairs(0.04, 1.3, seed=seed), 1.0)
        clean, treated = pairs(0.04, 1.3, count=max(12, count), seed=1000 + seed)
        found = stats.ratio_interval([clean], [treated], paired=True)
        wide.append((found.high / found.low) ** 0.5 - 1)
    assert sorted(wide)[20] == pytest.approx(DEFAULT_POLICY.half_width, rel=0.35)


def test_a_cause_of_which_little_is_removed_takes_more():
    assert pairs_needed(*pairs(0.02, 1.3), 0.5) > pairs_needed(*pairs(0.02, 1.3), 1.0)


def test_too_few_to_tell_take_all():
    assert pairs_needed([0.1] * 3, [0.09] * 3, 1.0) == DEFAULT_POLICY.most_pairs


class Clock:
    """A clock that stands still but for what a step takes."""

    def __init__(self):
        self.now = 0.0
        self.pace = 1.0

    def spend(self, seconds):
        self.now += seconds * self.pace


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (verify_module, step_trial):
        monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    return clock


def trial_on(clock, step_s=0.05, batches=16):
    return step_trial.StepTrial(
        module=None,
        optimizer=None,
        device="cpu",
        trains=True,
        generates=False,
        pool=list(range(batches)),
        take_step=lambda batch: clock.spend(step_s),
        make_fresh=lambda: iter(()),
        mark=lambda: clock.now,
        between=lambda marks: [b - a for a, b in itertools.pairwise(marks)],
    )


def cause(name, axis, predicted_x, clock, treated_s, steps=None):
    def treated(batches):
        for _ in batches:
            clock.spend(treated_s)

    return specs.CauseSpec(
        name=name,
        axis=axis,
        cause_class="data",
        probe=lambda trial: {},
        predict=lambda record, facts: predicted_x,
        intervene=lambda trial: specs.Intervention(treated=treated, steps=steps, burn=0),
        engines=None,
    )


RECORD = {"samples": {"step_s": [0.05] * 9}, "phases": {"input_s": [0.0] * 9}}


def test_the_leading_component_is_tried_though_its_fewest_pairs_take_nearly_all_of_the_time(clock):
    long = cause("padding", "where", 1.8, clock, 0.025, steps=16)  # six pairs: 7.2 s
    others = [cause(f"why{i}", "why", 1.5, clock, 0.04) for i in range(3)]
    found, _ = verify_causes(trial_on(clock), RECORD, [long, *others], mode="verdict", seconds=9.5)
    assert found["padding"]["outcome"] == "measured" and len(found["padding"]["clean_s"]) >= 6


def test_what_was_too_long_for_its_share_gets_what_the_others_left(clock):
    first = cause("first", "why", 3.0, clock, 0.01)
    long = cause("long", "why", 1.5, clock, 0.025, steps=16)
    found, _ = verify_causes(trial_on(clock), RECORD, [first, long], mode="verdict", seconds=16.0)
    assert clock.now < 16.0 * 1.2
    assert found["long"]["outcome"] == "measured" and found["long"]["reason"] is None


def test_the_leading_component_comes_first_and_the_others_by_size():
    rows = {"where1": ("where", 1.2), "why1": ("why", 3.0), "where2": ("where", 1.15), "why2": ("why", None)}
    found = {name: {"axis": axis, "predicted_x": x, "outcome": "not_selected"} for name, (axis, x) in rows.items()}
    calm = Selection(2, 1.04, 1.04)
    assert verify_module.choose_suspects(found, "verdict", calm) == ["where1", "why2", "why1", "where2"]
    promising = found["where2"]["predicted_x"] + 0.01  # in haste what promises less is left out behind the first
    in_haste = Selection(2, 1.04, promising)
    assert verify_module.choose_suspects(found, "verdict", in_haste) == ["where1", "why2", "why1"]


def test_what_starts_slowly_once_is_not_taken_for_long(clock):
    waits = iter([6.0])  # loader processes

    def treated(batches):
        clock.spend(next(waits, 0.0))
        for _ in batches:
            clock.spend(0.03)

    slow = dataclasses.replace(
        cause("input", "where", 1.5, clock, 0.0), intervene=lambda trial: specs.Intervention(treated=treated, burn=0)
    )
    found, _ = verify_causes(trial_on(clock), RECORD, [slow], mode="verdict", seconds=20.0)
    assert found["input"]["outcome"] == "measured"


@pytest.mark.parametrize(("ends_at", "outcome"), [(3.0, "measured"), (1.0, "unisolated")])
def test_what_was_measured_before_the_budget_ended_stands(clock, ends_at, outcome):
    trial = trial_on(clock)
    step = trial.take_step

    def bounded(batch):
        if clock.now > ends_at:
            raise errors.Unisolated("no time was left to measure it")
        step(batch)

    trial.take_step = bounded
    one = cause("input", "where", 1.5, clock, 0.025)
    found, _ = verify_causes(trial, RECORD, [one], mode="verdict", seconds=60.0)
    row = found["input"]
    assert row["outcome"] == outcome
    assert len(row["clean_s"]) == len(row["treated_s"]) == len(row["clean_first"])
    assert (len(row["clean_s"]) >= DEFAULT_POLICY.short_pairs) is (outcome == "measured")


def test_no_trial_is_planned_beyond_the_end_of_the_budget(clock):
    trial = trial_on(clock)
    trial.until = 6.0
    long = cause("padding", "where", 1.8, clock, 0.025, steps=16)  # six pairs: 7.2 s
    found, _ = verify_causes(trial, RECORD, [long], mode="verdict", seconds=60.0)
    assert found["padding"]["outcome"] == "out_of_time" and clock.now < 6.0


def test_looking_at_causes_leaves_time_to_try_the_leading_one(clock):
    trial = trial_on(clock)
    trial.until = 6.0
    first = cause("input", "where", 1.8, clock, 0.025)
    slow = [
        dataclasses.replace(cause(f"why{i}", "why", 1.2, clock, 0.04), probe=lambda trial: clock.spend(1.5) or {})
        for i in range(4)
    ]
    found, _ = verify_causes(trial, RECORD, [first, *slow], mode="verdict", seconds=6.0)
    assert found["input"]["outcome"] == "measured" and found["why3"]["outcome"] == "out_of_time"


def test_what_no_time_is_left_for_says_so(clock):
    long = cause("long", "where", 1.5, clock, 2.0, steps=16)
    found, _ = verify_causes(trial_on(clock), RECORD, [long], mode="verdict", seconds=9.0)
    assert found["long"]["outcome"] == "out_of_time" and "pairs would take" in found["long"]["reason"]


def test_a_part_is_held_against_a_step_next_to_it(clock):
    trial = trial_on(clock)
    trial.settle()
    trial.pace_s = 0.05
    clock.pace = 2.0  # the machine is slower from now on

    def part():
        begin = clock.now
        clock.spend(0.01)
        return clock.now - begin

    assert trial.paced(part, trial.pool[0]) == pytest.approx(0.01)


def test_the_pace_is_that_of_clean_steps_without_the_wait():
    assert verify_module.pace_of(RECORD) == pytest.approx(0.05)
    assert verify_module.pace_of(RECORD | {"phases": {"input_s": [0.02] * 3}}) == pytest.approx(0.03)
    assert verify_module.pace_of({"samples": {}}) is None
    assert verify_module.pace_of(RECORD | {"phases": {"input_s": [0.06]}}) is None
