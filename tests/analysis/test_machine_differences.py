"""What differs between two machines."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.analysis.costs import cost, joules_per_step, steps_to_pay_off, tokens_per_joule
from llmbench.analysis.machine_differences import different_facts

ENVIRONMENT = {
    "environment_id": "a",
    "cpu": "X",
    "packages": {"torch": "2.4", "numpy": None},
    "devices": [{"device": "cpu", "name": "X"}],
    "now": {"load_1min": 1.0},
}


def test_each_difference_is_named_once_and_nothing_else():
    other = copy.deepcopy(ENVIRONMENT)
    other["environment_id"], other["now"] = "b", {"load_1min": 9.0}
    assert different_facts(ENVIRONMENT, other) == []
    other["packages"]["torch"] = "2.5"
    other["devices"].append({"device": "cuda:0", "name": "G"})
    del other["packages"]["numpy"]  # None and absent are both "not known"
    other["kernel"] = "6"
    assert different_facts(ENVIRONMENT, other) == [
        ("packages.torch", "2.4", "2.5"),
        ("devices[1]", None, {"device": "cuda:0", "name": "G"}),
        ("kernel", None, "6"),
    ]


def test_a_changed_value_in_a_list_and_a_changed_kind_are_found():
    assert different_facts({"d": [{"n": 1}]}, {"d": [{"n": 2}]}) == [("d[0].n", 1, 2)]
    assert different_facts({"d": [1]}, {"d": {"n": 1}}) == [("d", [1], {"n": 1})]
    assert different_facts({"nowhere": 1}, {"nowhere": 2}) == [("nowhere", 1, 2)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=2), json_values, max_size=4))
def test_nothing_differs_from_itself(environment):
    assert different_facts(environment, copy.deepcopy(environment)) == []


@given(*[st.dictionaries(st.text("abc", min_size=1, max_size=2), json_values, max_size=4)] * 2)
def test_the_other_way_round_is_the_same_set(a, b):
    forth = {(path, repr(left), repr(right)) for path, left, right in different_facts(a, b)}
    assert forth == {(path, repr(right), repr(left)) for path, left, right in different_facts(b, a)}


def test_costs_are_arithmetic_and_unknown_stays_unknown():
    assert joules_per_step(50.0, 100) == 0.5 and tokens_per_joule(1000, 50.0) == 20.0
    assert cost(1800.0, 3.0) == pytest.approx(1.5) and cost(0.0, 3.0) == 0.0
    assert (
        joules_per_step(None, 100) is None and joules_per_step(50.0, 0) is None and joules_per_step(50.0, None) is None
    )
    assert tokens_per_joule(1000, None) is None and tokens_per_joule(None, 1.0) is None
    assert tokens_per_joule(1000, 0.0) is None
    assert cost(10.0, None) is None and cost(None, 2.0) is None


def test_compiling_pays_off_after_what_it_saves():
    assert steps_to_pay_off(30.0, 0.5, 0.2) == pytest.approx(100.0)
    assert steps_to_pay_off(0.0, 0.5, 0.2) == 0.0
    assert steps_to_pay_off(30.0, 0.2, 0.2) is None and steps_to_pay_off(30.0, 0.2, 0.5) is None
    assert steps_to_pay_off(None, 0.5, 0.2) is None and steps_to_pay_off(1.0, None, 0.2) is None
    assert steps_to_pay_off(1.0, 0.5, None) is None
