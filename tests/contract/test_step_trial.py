"""What a trial hands from `probe` to `intervene`, and what plugins of version 1 of the API read of it."""

from __future__ import annotations

import dataclasses

import llmbench


def trial(**fields):
    return llmbench.StepTrial(None, None, "cpu", False, True, [], lambda batch: None, list, float, list, **fields)


def test_facts_are_scratch_with_what_became_fields():
    def one_pass(batch):
        return 3, lambda: None

    plain = trial(memory_used=0.8, one_pass=one_pass)
    plain.scratch["mine"] = 1
    assert plain.facts == {"mine": 1, "memory_used": 0.8, "teacher_forced": one_pass}
    plain.facts["kept"] = 2
    assert plain.scratch["kept"] == plain.facts["kept"] == 2


def test_facts_have_nothing_that_is_not_known():
    assert trial().facts == {}


def test_a_trial_derived_from_another_shares_its_scratch():
    plain = trial(memory_used=0.5)
    derived = llmbench.StepTrial(**vars(plain))
    derived.scratch["mine"] = 1
    assert plain.facts["mine"] == 1 and derived.memory_used == 0.5
    assert dataclasses.replace(plain).scratch is plain.scratch
