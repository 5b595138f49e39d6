"""The cache of features: exact values come back, and a run directory of somebody else runs no code."""

from __future__ import annotations

import json
import math
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.contract.job import Job
from llmbench.plugins.discovery import discover
from llmbench.suite.file import load_suite
from llmbench.suite.plan import plan_cells
from llmbench.worker.data import feature_cache
from llmbench.worker.data.feature_cache import SplitFeatures, from_column, read, to_column, write
from llmbench.worker.data.features import OnTheFly, load_cell_data

SUITE = """name: small
matrix: {model: bert, size: tiny, task: qa, stage: eval, dataset: synthetic}
defaults: {batch_size: 4, seq_len: 48, vocab_size: 400, train_examples: 30, test_examples: 10, steps: 1}
repeats: 1
"""
KEY = [3, "data@1", None, 16, True]
FEATURES = [
    {"ids": [5, 6, 7], "label": 1, "offsets": [(0, 2), (3, 4)], "start": None},
    {"ids": [], "label": 0, "offsets": [], "start": 2},
]
SPLIT = SplitFeatures({"labels": ["a", "b"], "notes": []}, FEATURES, 2)

plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    plain | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


def typed(value):
    """A value together with the type of each part, which `==` does not compare."""
    if isinstance(value, dict):
        return "dict", [(key, typed(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [typed(each) for each in value]
    return type(value), value


@pytest.fixture(params=["orjson", "json"])
def library(request, monkeypatch):
    """Each library that reads and writes JSON."""
    if request.param == "json":
        monkeypatch.setattr(feature_cache, "ORJSON", None)
    else:
        pytest.importorskip("orjson")


@given(st.lists(values, max_size=6))
def test_values_come_back_with_their_types(column):
    for library in (json, feature_cache.ORJSON or json):
        assert typed(from_column(library.loads(library.dumps(to_column(column))))) == typed(column)


@pytest.mark.usefixtures("library")
def test_features_come_back_as_they_were(tmp_path):
    write(tmp_path / "f.json", KEY, SPLIT)
    assert typed(read(tmp_path / "f.json", KEY)) == typed(SPLIT)
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]  # no temporary file is left


def test_features_of_another_key_or_none_are_missing(tmp_path):
    write(tmp_path / "f.json", KEY, SPLIT)
    assert read(tmp_path / "f.json", [*KEY[:-1], False]) is None
    assert read(tmp_path / "none.json", KEY) is None


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {1: 2}, b"bytes", {3}, [object()], type("Ints", (int,), {})(3), 2**80]
)
def test_values_that_json_would_change_are_not_written_or_come_back_as_they_were(tmp_path, value):
    write(tmp_path / "f.json", KEY, SplitFeatures({}, [{"ids": [1], "more": value}], 1))
    split = read(tmp_path / "f.json", KEY)
    assert split is None or typed(split.features[0]["more"]) == typed(value)


def documents():
    """What `write` leaves, with one thing wrong in each."""
    columns = {"info": to_column([{}]), "features": to_column(FEATURES)}
    good = {"format": feature_cache.FORMAT, "key": KEY, "examples": 2, **columns}
    lengths = {"lengths": [1, 1], "items": {"plain": [1, 2]}}
    for name, column in {
        "not a column": 3,
        "no kind of column": {},
        "no features": {"plain": []},
        "numbers for features": {"plain": [1, 2]},
        "containers for plain values": {"plain": [[1]]},
        "too long": {"keys": ["ids"], "fields": [{**lengths, "lengths": [1, 2]}]},
        "too short": {"keys": ["ids"], "fields": [{**lengths, "lengths": [1]}]},
        "negative": {"keys": ["ids"], "fields": [{**lengths, "lengths": [3, -1]}]},
        "no length": {"keys": ["ids"], "fields": [{**lengths, "lengths": [1, None]}]},
        "a key without a field": {"keys": ["ids", "label"], "fields": [lengths]},
        "a key that is a number": {"keys": [1], "fields": [lengths]},
        "fields of two lengths": {"keys": ["a", "b"], "fields": [{"plain": [1]}, {"plain": [1, 2]}]},
        "tuples of two lengths": {"tuples": [{"plain": [1]}, {"plain": [1, 2]}]},
        "two values for one": {"mixed": [{"plain": [1, 2]}]},
        "an unknown type": {"empty": ["object"]},
    }.items():
        yield pytest.param({**good, "features": column}, id=name)
    yield pytest.param({**good, "info": {"plain": [1]}}, id="info is no dict")
    yield pytest.param({**good, "examples": "2"}, id="examples are text")
    yield pytest.param({**good, "examples": 0}, id="no examples")
    yield pytest.param({**good, "format": 0}, id="another format")
    yield pytest.param({name: good[name] for name in good if name != "info"}, id="no info")
    yield pytest.param([good], id="a list")
    yield pytest.param(None, id="null")


@pytest.mark.parametrize("document", list(documents()))
def test_a_file_that_was_not_written_here_is_missing(tmp_path, document):
    path = tmp_path / "f.json"
    path.write_text(json.dumps(document))
    assert read(path, KEY) is None


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x05.", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}'])
def test_a_damaged_file_is_missing(tmp_path, content):
    (tmp_path / "f.json").write_bytes(content)
    assert read(tmp_path / "f.json", KEY) is None


def test_a_cut_file_is_missing_wherever_it_ends(tmp_path):
    path = tmp_path / "f.json"
    write(path, KEY, SPLIT)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert read(path, KEY) is None


class Attack:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def job_in(folder):
    (folder / "small.yaml").write_text(SUITE)
    plan = plan_cells(load_suite(str(folder / "small.yaml")), discover())
    return Job.single(plan.cells[0].cell, run_dir=str(folder), sources=plan.sources, corpora=tuple(plan.corpora))


def test_a_run_directory_of_somebody_else_runs_no_code(tmp_path):
    job, registry = job_in(tmp_path), discover()
    first = load_cell_data(job, registry)
    files = sorted((tmp_path / "cache").glob("features-*"))
    assert len(files) == 2 and {path.suffix for path in files} == {".json"}
    proof = tmp_path / "proof"
    attack = pickle.dumps((Attack(proof), first.train, 30))
    pickle.loads(attack)
    assert proof.is_dir()  # the attack works where a pickle is loaded
    proof.rmdir()
    for path in files:
        path.write_bytes(attack)
        path.with_suffix(".pickle").write_bytes(attack)
    second = load_cell_data(job, registry)
    assert not proof.exists()
    assert typed(second.train) == typed(first.train) and typed(second.test) == typed(first.test)
    assert all(json.loads(path.read_bytes())["format"] == feature_cache.FORMAT for path in files)  # made again


def test_features_are_made_once_for_each_run_directory(tmp_path, monkeypatch):
    job, registry = job_in(tmp_path), discover()
    first = load_cell_data(job, registry)
    monkeypatch.setattr("llmbench.worker.data.features.load_dataset", lambda *given: pytest.fail("read again"))
    second = load_cell_data(job, registry)
    assert typed(second.train) == typed(first.train) and second.train_examples == first.train_examples == 30
    assert second.info == first.info and not isinstance(second.train, OnTheFly)
