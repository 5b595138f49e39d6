"""The types of records say what records hold."""

from __future__ import annotations

import subprocess
import sys
import typing

import pytest
from support.interventions import trial
from support.paths import ROOT
from support.records import record, scored

from llmbench.contract import record as types
from llmbench.contract.cell import LATER_FIELDS, Budget, Cell
from llmbench.contract.job import STATUSES
from llmbench.records.read import read_all
from llmbench.report.cells.summary import failures, summarise
from llmbench.report.formats.json import document

#: Runs that together have every kind of row.
RUNS = [
    ROOT / "results" / name
    for name in (
        "amd-epyc-2-cores/quick",
        "amd-epyc-avx512-2-cores/remedies",
        "amd-epyc-avx512-2-cores/scaling-length",
        "intel-xeon-avx512-2-cores/learning",
    )
]


def keys_of(kind):
    return list(typing.get_type_hints(kind))


def problems(value, kind, where=""):
    """Return where `value` is not what a type says: keys that it does not know or that are missing, and wrong types."""
    origin, given = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any or kind is object:
        return []
    if typing.is_typeddict(kind):
        if not isinstance(value, typing.Mapping):
            return [f"{where}: no object"]
        hints = typing.get_type_hints(kind)
        wrong = [f"{where}.{key}: unknown" for key in value.keys() - hints.keys()]
        wrong += [f"{where}.{key}: missing" for key in kind.__required_keys__ - value.keys()]
        return wrong + [p for key in hints if key in value for p in problems(value[key], hints[key], f"{where}.{key}")]
    if origin is typing.Literal:
        return [] if value in given else [f"{where}: {value!r}"]
    if origin in (list, dict):
        if not isinstance(value, origin):
            return [f"{where}: no {origin.__name__}"]
        items = value.values() if origin is dict else value
        return [p for item in items for p in problems(item, given[-1], f"{where}[]")]
    if given:  # a union
        return [] if any(not problems(value, one) for one in given) else [f"{where}: {value!r} is none of {kind}"]
    fits = isinstance(value, (int, float) if kind is float else kind)
    return [] if fits else [f"{where}: {value!r} is no {kind.__name__}"]


def test_a_cell_and_a_budget_have_the_fields_of_their_types():
    for one, kind in ((Cell, types.CellFields), (Budget, types.BudgetFields)):
        assert typing.get_type_hints(kind) == typing.get_type_hints(one)
    assert types.CellFields.__optional_keys__ == LATER_FIELDS.keys()


def test_statuses_are_those_of_the_type():
    assert typing.get_args(types.Status) == STATUSES


def test_new_records_hold_the_fields_of_the_type_in_its_order():
    assert list(record()) == keys_of(types.Record)
    hints, part = typing.get_type_hints(types.Record), typing.get_type_hints(types.Measurements)
    assert {name: hints[name] for name in part} == part
    for one in (record(), scored(interventions={"a": trial(1.5)}), record("oom", error={"type": "E", "message": "m"})):
        assert problems(one, types.Record) == []


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: "/".join(folder.parts[-2:]))
def test_published_records_are_what_the_type_says(folder):
    older = {"remedy": None, "repeats": 1, "budget": {}, "spent": {}, "together": None}
    (run,) = read_all([folder])
    assert [p for one in run.records for p in problems({**older, **one}, types.Record)][:10] == []


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: "/".join(folder.parts[-2:]))
def test_reports_of_published_runs_are_what_the_types_say(folder):
    (run,) = read_all([folder])
    cells = summarise(run.records, run.commands, run.ceilings)
    assert {key for cell in cells for key in cell} | {"run"} == set(keys_of(types.CellSummary))
    assert [p for cell in cells for p in problems(cell, types.CellSummary)][:10] == []
    rows = document([run])
    kinds = {
        "bottlenecks": types.BottleneckRow,
        "interactions": types.InteractionRow,
        "remedies": types.RemedyRow,
        "recommendations": types.RecommendationRow,
        "learning": types.LearningRow,
        "time_to_quality": types.TimeToQualityRow,
        "scaling": types.ScalingRow,
    }
    for name, kind in kinds.items():
        assert [p for row in rows[name] for p in problems(row, kind, name)][:10] == []
    assert [p for one in rows["ceilings"].values() for p in problems(one, types.Ceilings, "ceilings")][:10] == []


def test_failures_are_what_the_type_says():
    rows = failures([record("oom", error={"type": "E", "message": "m"})])
    assert len(rows) == 1 and problems(rows[0], types.FailureRow) == []


def test_the_check_of_types_sees():
    one = {**record(), "extra": 1, "status": "fine", "warnings": [1]}
    del one["counts"]
    one["samples"] = {"step_s": [0.1, "0.1"]}
    assert sorted(problem.split(":")[0] for problem in problems(one, types.Record)) == [
        ".counts",
        ".extra",
        ".samples.step_s[]",
        ".status",
        ".warnings[]",
    ]


def test_types_of_records_are_not_made_where_they_are_not_needed():
    modules = "llmbench.cli, llmbench.api.runs, llmbench.execution.local, llmbench.records.lazy, llmbench.contract.job"
    code = f"import sys, {modules}\nassert 'llmbench.contract.record' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
