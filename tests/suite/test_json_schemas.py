"""The JSON Schemas say what the checker of suites and the writer of records do."""

from __future__ import annotations

import copy
import dataclasses
import json
import typing
from importlib.resources import files

import pytest
import yaml
from json_schemas import FIXED, comments_of, meaning_of
from support.commands import SMALL
from support.interventions import trial
from support.paths import ROOT
from support.records import record, scored

from llmbench.contract.cell import DEFAULTS, SETTABLE_FIELDS, Budget, Cell
from llmbench.contract.errors import SuiteError
from llmbench.contract.record import Record
from llmbench.suite import fields as suite
from llmbench.suite.file import load_suite, suite_names

jsonschema = pytest.importorskip("jsonschema", reason="llmbench[test] is not installed")

RECORDED = sorted((ROOT / "results").rglob("records.jsonl"))


def validator(name):
    schema = json.loads(files("llmbench").joinpath("schemas", f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def suites():
    return validator("suite")


@pytest.fixture(scope="module")
def records():
    return validator("record")


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_are_valid(name, suites):
    suites.validate(yaml.safe_load(files("llmbench_suites").joinpath(f"{name}.yaml").read_text()))


@pytest.mark.parametrize("text", [SMALL, "{}", "budget: {ci_pct: 1e-1}", "defaults: {learning_rate: 3e-4, lora: null}"])
def test_what_the_checker_takes_is_valid(text, suites, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    load_suite(str(tmp_path / "s.yaml"))
    suites.validate(yaml.safe_load(text))


WRONG = [
    "matrx: {}",
    "name: two words",
    "matrix: {modle: lstm}",
    "matrix: {stage: train}",
    "matrix: {device: gpu}",
    "matrix: {model: []}",
    "matrix: {model: {}}",
    "matrix: {model: 3}",
    "matrix: {parent: x}",
    "defaults: {batch_size: 0}",
    "defaults: {batch_size: 1.5}",
    "defaults: {seq_len: {qa: 4, default: 64}}",
    "defaults: {bucketing: 1}",
    "defaults: {learning_rate: 0}",
    "defaults: {learning_rate: -1e-3}",
    "defaults: {batch_size: null}",
    "exclude: [{model: {qa: lstm}}]",
    "exclude: [{}]",
    "include: {model: lstm}",
    "repeats: 0",
    "verify: some",
    "budget: {second: 1}",
    "budget: {seconds: null}",
    "budget: {max_repeats: 1}",
    "learning: {double: tokens}",
    "learning: {seeds: 1}",
    "learning: {ample: {model: lstm}}",
    "scaling: {}",
    "scaling: {seq_len: [64]}",
    "scaling: {model: [1, 2]}",
    "scaling: {layers: [0, 2]}",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_the_schema_refuses_the_checker_refuses_and_the_other_way_round(text, suites, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SuiteError):
        load_suite(str(tmp_path / "s.yaml"))
    assert not suites.is_valid(yaml.safe_load(text))


def test_every_field_and_key_has_a_meaning():
    names = [f.name for f in (*dataclasses.fields(Cell), *dataclasses.fields(Budget))]
    assert all(map(meaning_of, names)) and all(comments_of(Record).values())
    assert set(suite.BUDGET_KEYS) <= set(names)


def test_the_schema_fixes_types_of_fields_that_parts_have():
    assert all(set(names) <= typing.get_type_hints(part).keys() for part, names in FIXED.items())


def test_fields_of_suites_have_the_types_of_cells_and_budgets():
    hints = {**typing.get_type_hints(Cell), **typing.get_type_hints(Budget)}
    others = {*suite.SCALARS, "seeds", "follow"}
    assert suite.FIELDS.keys() == {*SETTABLE_FIELDS, *suite.BUDGET_KEYS, *others}
    for name in suite.FIELDS.keys() - others:
        one = suite.FIELDS[name]
        assert (one.type | None if one.nullable else one.type) == hints[name], name
        default = DEFAULTS.get(name)
        assert one.type is not int or default is None or default >= one.least, name


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_published_records_are_valid(path, records):
    older = {"remedy": None, "repeats": 1, "budget": {}, "spent": {}, "together": None}
    for line in path.read_text().splitlines():
        records.validate({**older, **json.loads(line)})


def test_records_as_they_are_written_are_valid(records):
    tried = {"a": trial(1.5)}
    failed = record("oom", error={"type": "E", "message": "m", "traceback": "t"})
    for one in (scored(interventions=tried), failed, record(repeat=1)):
        records.validate(json.loads(json.dumps(one)))


@pytest.mark.parametrize(
    "path, value",
    [
        (("status",), "fine"),
        (("cell_id",), "XYZ"),
        (("wall_s",), "3 s"),
        (("extra",), 1),
        (("cell", "stage"), "train"),
        (("cell", "batch_size"), "16"),
        (("phases", "thinking_s"), [1.0]),
        (("samples", "step_s"), 0.1),
    ],
)
def test_other_records_are_not(path, value, records):
    one = copy.deepcopy(scored())
    *outer, last = path
    target = one
    for key in outer:
        target = target[key]
    target[last] = value
    assert records.is_valid(scored()) and not records.is_valid(one)
