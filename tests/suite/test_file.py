"""Tests of `llmbench.suite.file`: what a suite file may say, and that each mistake is one line with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.contract.cell import Budget, Cell
from llmbench.contract.errors import SuiteError
from llmbench.contract.job import Job, new_record
from llmbench.records.read import read_runs
from llmbench.records.run_dir import RunDir
from llmbench.suite.file import Suite, load_suite, suite_names

GOOD = "matrix: {model: [a, b], size: tiny, task: t, stage: [finetune]}\n"


def load(tmp_path: Path, text: str, *sets: str, name: str = "s.yaml") -> Suite:
    path = tmp_path / name
    path.write_text(text)
    return load_suite(str(path), sets)


BAD = [
    ("matrix: [model\nname: x\n", ":2: not valid YAML: "),
    ("matrix: {model: a}\nmodl: 3\n", ":2: unknown key 'modl'"),
    ("repeat: 3\n", ":1: unknown key 'repeat' (did you mean 'repeats'?)"),
    ("matrix:\n  modle: a\n", ":2: unknown field 'modle' in matrix (did you mean 'model'?)"),
    ("matrix:\n  parent: a\n", ":2: unknown field 'parent'"),
    ("matrix: 3\n", ":1: matrix must be a mapping"),
    ("defaults:\n  batch_size: 0\n", ":2: batch_size must be an integer of at least 1, not 0"),
    ("defaults:\n  batch_size:\n    - 4\n    - -1\n", ":4: batch_size must be an integer of at least 1, not -1"),
    ("defaults:\n  batch_size: {a: 1, b: 2.5}\n", ":2: batch_size must be an integer of at least 1, not 2.5"),
    ("defaults:\n  batch_size: true\n", ":2: batch_size must be an integer"),
    ("defaults: {steps: -1}\n", "steps must be an integer of at least 0, not -1"),
    ("defaults: {learning_rate: fast}\n", "learning_rate must be a number above 0, not 'fast'"),
    ("defaults: {learning_rate: .nan}\n", "learning_rate must be a number above 0"),
    ("defaults: {compile: 1}\n", "compile must be true or false, not 1"),
    ("defaults: {model: 3}\n", "model must be a name, not 3"),
    ("defaults: {seed: []}\n", "seed is an empty list"),
    ("defaults: {seed: {}}\n", "seed is an empty mapping"),
    ("defaults: {seed: [[1]]}\n", "seed must be an integer"),
    ("defaults:\n  world_size: 2\n", ":2: world_size 2: a cell cannot be split over processes yet; write"),
    ("matrix:\n  world_size:\n    - 1\n    - 2\n", ":4: world_size 2: a cell cannot be split over processes yet"),
    ("matrix: {world_size: {pretrain: 4, default: 1}}\n", ":1: world_size 4: a cell cannot be split"),
    ("include:\n  - strategy: ddp\n", ":2: strategy 'ddp': a cell cannot be split over processes yet"),
    ("scaling:\n  world_size:\n    - 1\n    - 2\n", ":4: world_size 2: a cell cannot be split over processes yet"),
    ("matrix: {stage: [finetun]}\n", "unknown stage 'finetun' (did you mean 'finetune'?)"),
    ("matrix: {device: cdua}\n", "unknown device 'cdua' (did you mean 'cuda'?)"),
    ("repeats: 0\n", ":1: repeats must be an integer of at least 1, not 0"),
    ("verify: verdcit\n", "unknown verify 'verdcit' (did you mean 'verdict'?)"),
    ("measure: sped\n", "unknown measure 'sped' (did you mean 'speed'?)"),
    ("measure: speed\nlearning: {double: [data], seeds: 2}\n", "which a study of learning needs; leave it out"),
    ("budget:\n  seconds: 0\n", ":2: seconds must be a number above 0, not 0"),
    ("budget:\n  ci_pct: -2\n", ":2: ci_pct must be a number above 0, not -2"),
    ("budget:\n  second: 1\n", ":2: unknown key 'second' in budget (did you mean 'seconds'?)"),
    ("budget: 3\n", "budget must be a mapping"),
    ("budget:\n  larges_batch: true\n", ":2: unknown key 'larges_batch' in budget (did you mean 'largest_batch'?)"),
    ("budget:\n  largest_batch: 64\n", ":2: largest_batch must be true or false, not 64"),
    ("budget:\n  price_hour: 2\n", ":2: unknown key 'price_hour' in budget (did you mean 'price_per_hour'?)"),
    ("budget:\n  price_per_hour: 0\n", ":2: price_per_hour must be a number above 0, not 0"),
    ("budget:\n  max_repeats: 1\n", ":2: max_repeats must be an integer of at least 2, not 1"),
    ("repeats: 4\nbudget:\n  max_repeats: 3\n", ":3: max_repeats must be at least repeats (4), not 3"),
    ("repeats: 1\nbudget: {max_repeats: 3}\n", ":2: max_repeats needs repeats of at least 2"),
    ("include: {model: a}\n", "include must be a list"),
    ("exclude:\n  - {}\n", ":2: exclude must be a mapping"),
    ("exclude:\n  - model: {a: b}\n", ":2: exclude takes a value or a list"),
    ("name: x\nname: y\n", ":2: 'name' is given twice"),
    ("name: ../x\n", "name must be one word"),
    ("- a\n", ":1: a suite is a mapping"),
    ("", ":1: a suite is a mapping"),
    ("? [a]\n: 1\n", ":1: a key must be one word"),
    ("a: !!python/object:os.system x\n", ":1: not valid YAML"),
    ("defaults: &a {steps: *a}\n", "nested too deeply"),
    ("name: \x00\n", ": not valid YAML"),
    ("extends: s.yaml\n", ":1: suite 's.yaml' extends itself"),
    ("name: x\nextends: quik\n", ":2: unknown suite 'quik' (did you mean 'quick'?)"),
    ("extends: gone.yaml\n", ":1: no such suite file: "),
    ("name: x\nmatrix: {dataset: 'file:${data}/x'}\n", ":2: ${data} is not set; add --set data=DIR"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_every_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "s.yaml") + ":")


def test_cycles_missing_files_and_unknown_suites(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("name: b\nextends: a.yaml\n")
    with pytest.raises(SuiteError, match=r"b.yaml:2: suite 'a.yaml' extends itself"):
        load_suite(str(tmp_path / "a.yaml"))
    with pytest.raises(SuiteError, match=r"no such suite file: gone/quick.yaml \(shipped: 'quick'\)"):
        load_suite("gone/quick.yaml")
    with pytest.raises(SuiteError, match=r"unknown suite 'quik' \(did you mean 'quick'\?\)"):
        load_suite("quik")
    (tmp_path / "c.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(SuiteError, match="not UTF-8"):
        load_suite(str(tmp_path / "c.yaml"))
    with pytest.raises(SuiteError, match=r"is a folder; give a \.yaml file"):
        load_suite(f"{tmp_path}/")


def test_extends_overrides_per_field(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD + "defaults: {batch_size: 4, seed: [1, 2]}\nbudget: {seconds: 3}\n")
    text = "extends: base.yaml\nmatrix: {batch_size: [1, 2]}\ndefaults: {task: u}\nbudget: {steps: 7, ci_pct: 5}\n"
    suite = load(tmp_path, text, name="child.yaml")
    assert suite.name == "child"
    assert suite.axes == {"model": ["a", "b"], "size": "tiny", "stage": ["finetune"], "batch_size": [1, 2]}
    assert suite.defaults == {"seed": [1, 2], "task": "u", "steps": 7}
    assert (suite.budget.seconds, suite.budget.ci_pct) == (3.0, 5.0)
    assert suite.where("matrix", "batch_size", 1) == f"{tmp_path}/child.yaml:2"
    assert suite.where("matrix", "model", 0) == f"{tmp_path}/base.yaml:1"
    assert suite.where("defaults", "steps") == f"{tmp_path}/child.yaml:4"


def test_settings(tmp_path: Path) -> None:
    text = GOOD + "defaults: {batch_size: 4, steps: {a: 1, b: 2}, seed: 3}\ninclude: [{model: a, seed: 1}]\n"
    sets = ["model=c,d", "seed=[4, 5]", "steps.a=9", "budget.seconds=2", "ci_pct=3", "repeats=1", "verify=all"]
    suite = load(tmp_path, text, *sets, "matrix.size=base", "defaults.batch_size=8", "learning_rate=1e-3")
    assert suite.axes["model"] == ["c", "d"] and suite.axes["size"] == "base"
    assert suite.defaults == {"batch_size": 8, "steps": {"a": 9, "b": 2}, "seed": [4, 5], "learning_rate": 0.001}
    assert suite.include == ({},)
    assert (suite.budget.seconds, suite.budget.ci_pct, suite.repeats, suite.verify) == (2.0, 3.0, 1, "all")
    assert suite.where("matrix", "model", 1) == "--set model=c,d"
    more = load(tmp_path, text, "largest_batch=true", "price_per_hour=2.5", "budget.max_repeats=8").budget
    assert (more.largest_batch, more.price_per_hour, more.max_repeats) == (True, 2.5, 8)
    assert load(tmp_path, text, "max_repeats=null", "memory_mib=null").budget == Budget()
    assert load(tmp_path, text, "steps=20").defaults["steps"] == 20
    assert load(tmp_path, text, "budget.steps=20").defaults["steps"] == 20
    assert load(tmp_path, text, "steps={a: 1, default: 2}").defaults["steps"] == {"a": 1, "default": 2}
    assert load(tmp_path, text, "train_examples=null").defaults["train_examples"] is None


BAD_SETTINGS = [
    ("batch_size=-4", "batch_size must be an integer of at least 1, not -4"),
    ("batch_size=1,-4", "batch_size must be an integer of at least 1, not -4"),
    ("steps=-1", "steps must be an integer of at least 0"),
    ("budget.seconds=-1", "seconds must be a number above 0, not -1"),
    ("max_repeats=2", "max_repeats must be at least repeats (3), not 2"),
    ("largest_batch=2", "largest_batch must be true or false, not 2"),
    ("price_per_hou=2", "unknown key 'price_per_hou' (did you mean 'price_per_hour'?)"),
    ("repeats=0", "repeats must be an integer of at least 1"),
    ("batchsize=4", "unknown key 'batchsize' (did you mean 'batch_size'?)"),
    ("budget.second=4", "unknown key 'budget.second' (did you mean 'seconds'?)"),
    ("matrix.modle=a", "unknown key 'matrix.modle' (did you mean 'model'?)"),
    ("data=/x", "unknown key 'data'"),
    ("parent=x", "unknown key 'parent'"),
    ("world_size=2", "world_size 2: a cell cannot be split over processes yet; write world_size: 1"),
    ("world_size=1,2", "world_size 2: a cell cannot be split over processes yet"),
    ("strategy=ddp", "strategy 'ddp': a cell cannot be split over processes yet; write strategy: single"),
    ("model", "write --set KEY=VALUE"),
    ("model=", "write --set KEY=VALUE"),
    ("=x", "write --set KEY=VALUE"),
    ("model=[a", "the value is not valid YAML"),
    ("seed.a=3", "the suite does not set 'seed'"),
    ("repeats.x=3", "unknown key 'repeats.x'"),
    ("steps.=3", "write --set KEY=VALUE"),
]


@pytest.mark.parametrize(("setting", "message"), BAD_SETTINGS)
def test_bad_settings_name_themselves(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        load(tmp_path, GOOD + "defaults: {steps: 3}\n", setting)
    assert str(caught.value).startswith(f"--set {setting}: {message}")
    assert "\n" not in str(caught.value)


def test_one_process_may_be_asked_for(tmp_path: Path) -> None:
    suite = load(tmp_path, GOOD + "defaults: {strategy: single}\n", "world_size=1")
    assert suite.defaults == {"strategy": "single", "world_size": 1}


def test_a_record_of_a_cell_that_asked_for_several_processes_is_read(tmp_path: Path) -> None:
    cell = Cell("m", "tiny", "t", "made@1", "finetune", world_size=2, strategy="ddp")
    with RunDir.open(tmp_path / "run", write=True) as run_dir:
        run_dir.append(new_record(Job.single(cell), "ok"))
    (run,) = read_runs(tmp_path / "run")
    assert Cell.from_json(run.records[0]["cell"]) == cell


def test_variables_are_filled_and_not_published(tmp_path: Path) -> None:
    text = GOOD + "defaults: {dataset: {t: ['file:${data}/x', 'file:${other}/y']}}\n"
    suite = load(tmp_path, text, "data=/d,1", "other=/o")
    assert suite.defaults["dataset"] == {"t": ["file:/d,1/x", "file:/o/y"]}
    assert "/d,1" not in suite.to_yaml()
    assert load(tmp_path, suite.to_yaml(), "data=/d,1", "other=/o", name="s.yaml") == suite
    assert load(tmp_path, text, "dataset=synthetic", "data=/d").defaults["dataset"] == "synthetic"


def test_shipped_suites_load() -> None:
    assert {"quick", "matrix", "precision", "real"} <= set(suite_names())
    quick = load_suite("quick")
    assert quick.budget.seconds == 0.8 and quick.repeats == 2 and quick.verify == "verdict"
    with pytest.raises(SuiteError, match=r"real.yaml:\d+: \$\{data\} is not set; add --set data=DIR"):
        load_suite("real")
    assert load_suite("real", ["data=/d"]).axes["pretrain_dataset"] == "file:/d/wikitext2"
    assert load_suite("precision").defaults == quick.defaults


CLASSICS = {
    "rnn",
    "gru",
    "lstm",
    "word2vec",
    "sentence2vec",
    "attention-rnn",
    "bert",
    "gpt",
    "t5",
    "llama",
    "keras-lstm",
}


@pytest.mark.parametrize("name, sets", [("classics", []), ("classics-real", ["data=/d"])])
def test_the_classics_are_all_there_and_every_cell_has_its_causes_tried(name: str, sets: list[str]) -> None:
    suite = load_suite(name, sets)
    assert {*CLASSICS, "encoder-decoder-rnn"} == set(suite.axes["model"]) and suite.verify == "verdict"
    assert set(suite.axes["stage"]) == {"pretrain", "finetune", "eval"}
    (without,) = [set(entry["model"]) for entry in suite.exclude if "keras-lstm" in entry["model"]]
    assert without == {"word2vec", "sentence2vec", "keras-lstm"}  # they classify


WORD = st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True)
EXPRESSION = st.recursive(
    st.one_of(st.integers(1, 99), st.lists(st.integers(1, 99), min_size=1, max_size=3)),
    lambda inner: st.dictionaries(WORD, inner, min_size=1, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {"matrix": st.fixed_dictionaries({"model": st.lists(WORD, min_size=1), "size": WORD})},
        optional={
            "name": WORD,
            "defaults": st.fixed_dictionaries({}, optional={"batch_size": EXPRESSION, "steps": EXPRESSION}),
            "include": st.lists(st.fixed_dictionaries({"model": WORD})),
            "repeats": st.integers(1, 9),
            "budget": st.fixed_dictionaries({"seconds": st.floats(0.1, 1e3)}, optional={"steps": EXPRESSION}),
        },
    )
)
def test_to_yaml_round_trip(tmp_path_factory: pytest.TempPathFactory, doc: dict) -> None:
    tmp_path = tmp_path_factory.mktemp("suite")
    suite = load(tmp_path, yaml.safe_dump(doc))
    assert load(tmp_path, suite.to_yaml()) == suite


def test_speed_alone_verifies_nothing_and_says_so_in_the_file(tmp_path):
    suite = load_suite("quick", ["measure=speed", "verify=all"])
    assert suite.speed_only and suite.verify == "none" and not load_suite("quick").speed_only
    (tmp_path / "again.yaml").write_text(suite.to_yaml())
    assert load_suite(str(tmp_path / "again.yaml")).speed_only
