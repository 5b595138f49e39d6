"""Tests of `llmbench.suite.plan`, with light specs of its own: nothing here needs torch."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.contract.cell import Cell, content_id
from llmbench.contract.errors import DataError, PluginError, SuiteError, UserError
from llmbench.contract.specs import Dataset, DatasetSpec, MetricSpec, ModelSpec, PrecisionSpec, TaskSpec
from llmbench.layouts import CausalBlocks, EncoderDecoder, Single
from llmbench.plugins.registry import KINDS, Owner, Provided, Registry
from llmbench.suite.file import load_suite
from llmbench.suite.plan import Plan, plan_cells
from llmbench.suite.selection import parse_selection

LAYOUTS = {"classify": Single(), "generate": EncoderDecoder(), "pretrain": CausalBlocks()}
BASE = {
    "name": "t",
    "matrix": {
        "model": ["net", "gru"],
        "size": "tiny",
        "task": ["sort", "copy"],
        "stage": ["pretrain", "finetune", "eval"],
    },
    "defaults": {"steps": {"pretrain": 9, "finetune": 5}},
}


def _task(name: str, head: str, **fields: object) -> TaskSpec:
    nothing = lambda *_: []  # noqa: E731
    return TaskSpec(name, head, ("text",), nothing, nothing, nothing, nothing, ("exact",), "exact", **fields)


def _data(name: str, train: int = 1, **fields: object) -> DatasetSpec:
    def identify(request):
        return f"{name}{request.argument and ':' + Path(request.argument).name}@{request.task.name}"

    def load(request):
        return Dataset(identify(request), [{}] * train, [], [{}])

    return DatasetSpec(name, identify, load, **fields)


def registry(**extra: list) -> Registry:
    found = {
        "model": [
            ModelSpec("net", {"tiny": {}, "base": {}}, LAYOUTS, None, max_len=lambda size: 512),
            ModelSpec("gru", {"tiny": {}}, LAYOUTS, None),
            ModelSpec("bag", {"tiny": {}}, {"classify": Single()}, None),
        ],
        "task": [_task("sort", "classify"), _task("copy", "generate"), _task("lm", "pretrain", stages=("pretrain",))],
        "dataset": [_data("synthetic"), _data("file"), _data("only", tasks=("sort",))],
        "metric": [MetricSpec("exact", None, {"exact": "higher"})],
        "precision": [PrecisionSpec("fp32"), PrecisionSpec("bf16"), PrecisionSpec("tf32", devices=("cuda",))],
    }
    owner = Owner("llmbench", "1", "test")
    return Registry({k: {s.name: Provided(s, owner) for s in [*found.get(k, []), *extra.get(k, [])]} for k in KINDS})


def plan(tmp_path: Path, *sets: str, keep: str | None = None, devices=(), reg: Registry | None = None, **doc) -> Plan:
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump({**BASE, **doc}, sort_keys=False))
    return plan_cells(load_suite(str(path), sets), reg or registry(), keep, devices)


def at(found: Plan, **fields: object) -> list[Cell]:
    return [p.cell for p in found.cells if all(getattr(p.cell, k) == v for k, v in fields.items())]


def test_tasks_share_one_pretraining_and_chains_are_linked(tmp_path: Path) -> None:
    found = plan(tmp_path)
    assert [len(at(found, stage=s)) for s in ("pretrain", "finetune", "eval")] == [2, 4, 4]
    by_id = {p.cell.cell_id: p.cell for p in found.cells}
    assert len(by_id) == len(found.cells)
    seen: set[str] = set()
    for cell in by_id.values():
        assert cell.parent is None or cell.parent in seen
        seen.add(cell.cell_id)
    for cell in at(found, stage="eval"):
        finetune = by_id[cell.parent]
        pretrain = by_id[finetune.parent]
        assert (finetune.stage, pretrain.stage, pretrain.task) == ("finetune", "pretrain", "lm")
        assert (pretrain.model, finetune.task, cell.steps) == (cell.model, cell.task, 0)
        assert cell.pretrain_dataset == finetune.pretrain_dataset == pretrain.dataset == "synthetic@lm"
        assert pretrain.pretrain_dataset is None and (pretrain.steps, finetune.steps) == (9, 5)
    assert [c.stage for c in by_id.values()] == ["pretrain"] * 2 + ["finetune"] * 4 + ["eval"] * 4
    assert [(c.model, c.task) for c in at(found, stage="eval")][:2] == [("net", "sort"), ("net", "copy")]


def test_tokenizer_is_of_the_whole_suite(tmp_path: Path) -> None:
    whole = plan(tmp_path)
    assert whole.corpora == ("synthetic@copy", "synthetic@lm", "synthetic@sort")
    assert whole.cells[0].cell.tokenizer == f"bpe-2048@{content_id(sorted(whole.corpora))}"
    part = plan(tmp_path, keep="sort and net", exclude=[{"stage": "pretrain"}])
    assert part.corpora == whole.corpora and len(part.cells) == 2
    assert whole.sources["synthetic@lm"].task == "lm"


def test_without_stages_there_are_no_parents(tmp_path: Path) -> None:
    assert {c.parent for c in at(plan(tmp_path, "stage=eval"))} == {None}
    found = plan(tmp_path, "stage=finetune,eval")
    assert {c.pretrain_dataset for c in at(found)} == {None}
    assert len(found.cells) == 8


def test_include_replaces_axes_and_exclude_needs_all_keys(tmp_path: Path) -> None:
    found = plan(
        tmp_path,
        include=[{"model": "net", "size": "base", "stage": "pretrain"}],
        exclude=[{"model": "gru", "task": "copy"}, {"stage": "eval", "task": ["sort"]}],
    )
    assert [c.stage for c in at(found, size="base")] == ["pretrain"]
    assert not at(found, model="gru", task="copy") and at(found, model="gru", task="sort")
    assert {c.task for c in at(found, stage="eval")} == {"copy"}


def test_an_included_stage_finds_its_parent_in_the_matrix(tmp_path: Path) -> None:
    found = plan(tmp_path, "stage=pretrain", include=[{"model": "net", "task": "sort"}])
    assert len(at(found, stage="pretrain")) == 2
    matrix = {**BASE["matrix"], "stage": "pretrain"}
    found = plan(tmp_path, matrix=matrix, include=[{"model": "net", "task": "sort", "stage": "finetune"}])
    [cell] = at(found, stage="finetune")
    assert cell.parent == at(found, stage="pretrain", model="net")[0].cell_id


def test_mappings_nest_and_may_hold_lists(tmp_path: Path) -> None:
    steps = {"pretrain": 7, "finetune": {"sort": {"net": [1, 2], "default": 3}, "default": 4}}
    found = plan(tmp_path, matrix={**BASE["matrix"], "steps": steps})
    at_finetune = [(c.model, c.task, c.steps) for c in at(found, stage="finetune")]
    assert sorted(at_finetune) == sorted(
        [("net", "sort", 1), ("net", "sort", 2), ("net", "copy", 4), ("gru", "sort", 3), ("gru", "copy", 4)]
    )
    assert len(at(found, stage="eval")) == 5 and len(at(found, stage="pretrain")) == 2


def test_stages_that_share_a_list_go_together(tmp_path: Path) -> None:
    found = plan(tmp_path, defaults={"batch_size": {"pretrain": 64, "default": [8, 16]}})
    by_id = {c.cell_id: c for c in at(found)}
    assert all(by_id[c.parent].batch_size == c.batch_size for c in at(found, stage="eval"))
    assert len(at(found, stage="eval")) == 8 and {c.batch_size for c in at(found, stage="pretrain")} == {64}


def test_data_sets_by_task_and_values_by_data_set(tmp_path: Path) -> None:
    dataset = {"sort": ["file:/x/news", "file:/x/sms"]}
    defaults = {"seq_len": {"news": 32, "file": 48, "default": 64}, "pretrain_dataset": "file:/x/wiki"}
    found = plan(tmp_path, matrix={**BASE["matrix"], "dataset": dataset}, defaults=defaults)
    assert {(c.dataset, c.seq_len) for c in at(found)} == {
        *{("file:news@sort", 32), ("file:sms@sort", 48), ("synthetic@copy", 64), ("file:wiki@lm", 48)}
    }


BLOCKED = [
    (["model=bag", "task=copy", "stage=finetune"], "no layout for head 'generate'"),
    (["dataset=only", "task=copy", "stage=finetune"], "data set only does not serve task copy"),
    (["precision=tf32"], "precision tf32 is not for cpu (only cuda)"),
    (["precision=fp8"], "no plugin brings precision fp8"),
    (["model=net", "seq_len=513"], "seq_len 513 is longer than net/tiny reads (512)"),
    (["task=lm", "stage=finetune"], "task lm has no stage finetune"),
]


@pytest.mark.parametrize(("sets", "reason"), BLOCKED)
def test_blocked_cells_stay_and_say_why(tmp_path: Path, sets: list[str], reason: str) -> None:
    found = plan(tmp_path, *sets)
    assert found.cells and all(reason in p.obstacle for p in found.cells)


def test_precision_is_not_blocked_where_it_runs(tmp_path: Path) -> None:
    assert {p.obstacle for p in plan(tmp_path, "precision=tf32", "device=cuda:1").cells} == {None}
    assert {p.obstacle for p in plan(tmp_path, "seq_len=512").cells} == {None}


def test_what_cannot_be_pretrained_is_finetuned_from_scratch(tmp_path: Path) -> None:
    found = plan(tmp_path, "model=bag", "task=sort")
    assert [bool(p.obstacle) for p in found.cells] == [True, False, False]
    assert found.cells[1].cell.parent is None and found.cells[1].cell.pretrain_dataset is None


def test_auto_takes_the_best_device(tmp_path: Path) -> None:
    assert {c.device for c in at(plan(tmp_path, "device=auto"))} == {"auto"}
    assert {c.device for c in at(plan(tmp_path, "device=auto", devices=["cpu", "cuda:0"]))} == {"cuda:0"}


ERRORS = [
    ({"matrix": {**BASE["matrix"], "model": ["net", "gruu"]}}, "t.yaml:5: unknown model 'gruu' (did you mean 'gru'?)"),
    ({"matrix": {**BASE["matrix"], "task": "srot"}}, ": unknown task 'srot' (did you mean 'sort'?)"),
    ({"matrix": {**BASE["matrix"], "size": "tny"}}, "t.yaml:6: unknown size 'tny' (did you mean 'tiny'?)"),
    ({"matrix": {**BASE["matrix"], "size": "base"}}, "model 'gru' has no size 'base'"),
    ({"defaults": {"precision": "bf61"}}, ": unknown precision 'bf61' (did you mean 'bf16'?)"),
    ({"defaults": {"dataset": "fil:/x"}}, ": unknown dataset 'fil' (did you mean 'file'?)"),
    ({"defaults": {"steps": {"finetun": 3}}}, "t.yaml:16: unknown key 'finetun' of steps (did you mean 'finetune'?)"),
    ({"defaults": {"steps": {"finetune": 3, "gru": 2}}}, ": unknown key 'gru' of steps"),
    ({"exclude": [{"model": "gruu"}]}, ": unknown model 'gruu'"),
    ({"matrix": {"model": "net", "size": "tiny", "task": "sort"}}, ": the matrix says nothing about 'stage'"),
    ({"defaults": {"batch_size": {"8": 2}, "seq_len": {"2": 8}}}, "depend on each other"),
]


@pytest.mark.parametrize(("doc", "message"), ERRORS)
def test_mistakes_are_one_line_with_a_place(tmp_path: Path, doc: dict, message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        plan(tmp_path, **doc)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "t.yaml") + ":")


def test_a_setting_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"^--set model=gruu: unknown model 'gruu' \(did you mean 'gru'\?\)$"):
        plan(tmp_path, "model=gruu")


def test_data_is_validated_once_and_refused(tmp_path: Path) -> None:
    empty = registry(dataset=[_data("empty", train=0, validate=True)])
    with pytest.raises(DataError, match="'empty' for sort: the train split is empty"):
        plan(tmp_path, "dataset=empty", reg=empty)
    same = DatasetSpec("same", lambda request: "same@1", None)
    with pytest.raises(PluginError, match="one identity, same@1"):
        plan(tmp_path, "dataset=same", reg=registry(dataset=[same]))
    calls: list[str] = []
    spec = _data("counted", validate=True)
    load = lambda request: calls.append(request.task.name) or spec.load(request)  # noqa: E731
    counted = DatasetSpec("counted", spec.identify, load, validate=True)
    plan(tmp_path, "dataset=counted", reg=registry(dataset=[counted]))
    assert sorted(calls) == ["copy", "sort"]


def test_unknown_metric_of_a_task(tmp_path: Path) -> None:
    task = TaskSpec("odd", "classify", (), *[lambda *_: []] * 4, ("exat",), "exat")
    with pytest.raises(PluginError, match=r"unknown metric 'exat' \(did you mean 'exact'\?\)"):
        plan(tmp_path, "task=odd", reg=registry(task=[task]))


def test_keep_keeps_parents(tmp_path: Path) -> None:
    found = plan(tmp_path, keep="eval and net and not copy")
    assert [(c.stage, c.task) for c in at(found)] == [("pretrain", "lm"), ("finetune", "sort"), ("eval", "sort")]
    with pytest.raises(UserError, match="no cell of suite 't' matches"):
        plan(tmp_path, keep="lstm")
    assert len(plan(tmp_path, keep=" ").cells) == 10


@pytest.mark.parametrize("bad", ["and", "a or", "(a", "a)", "not", "a b", "()", "a and and b"])
def test_bad_expressions_are_one_line(bad: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_selection(bad)
    assert "\n" not in str(caught.value) and f"-k {bad}:" in str(caught.value)


WORDS = {"net": True, "sort": True, "fp32": True, "16": True, "news": True, "copy": False, "gru": False, "so": False}
CELL = Cell("net", "tiny", "sort", "file:ag_news@1", "eval")
EXPRESSIONS = st.recursive(
    st.sampled_from(sorted(WORDS)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({' '.join(t)})"),
        inner.map(lambda e: f"not {e}"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
    ),
)


@given(EXPRESSIONS)
def test_keep_agrees_with_python(expression: str) -> None:
    tokens = expression.replace("(", " ( ").replace(")", " ) ").split()
    python = " ".join(str(WORDS[t]) if t in WORDS else t for t in tokens)
    assert parse_selection(expression)(CELL) is eval(python)


AXES = {"batch_size": [1, 2, 3, 4], "seq_len": [8, 9, 10], "seed": [0, 1, 2], "precision": ["fp32", "bf16"]}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_product_size_and_ids_do_not_depend_on_order(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    tmp_path = tmp_path_factory.mktemp("plan")
    axes = {k: data.draw(st.lists(st.sampled_from(v), min_size=1, unique=True)) for k, v in AXES.items()}
    matrix = {**BASE["matrix"], "stage": "finetune", **axes}
    size = 4
    for values in axes.values():
        size *= len(values)
    first = plan(tmp_path, matrix=matrix)
    assert len(first.cells) == size
    shuffled = {k: random.sample(v, len(v)) if isinstance(v, list) else v for k, v in matrix.items()}
    keys = data.draw(st.permutations(list(shuffled)))
    second = plan(tmp_path, matrix={k: shuffled[k] for k in keys})
    assert {p.cell.cell_id for p in first.cells} == {p.cell.cell_id for p in second.cells}
    again = plan_cells(load_suite(str(_resolved(tmp_path, second))), registry())
    assert again.cells == second.cells


def _resolved(tmp_path: Path, found: Plan) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(found.suite.to_yaml())
    return path


def test_ids_are_the_same_on_every_machine(tmp_path: Path) -> None:
    cell = plan(tmp_path).cells[-1].cell
    assert Cell.from_json(cell.to_json()).cell_id == cell.cell_id
    assert len(cell.cell_id) == 12


# --- studies --------------------------------------------------------------------------------------------


def scalable() -> Registry:
    net = ModelSpec(
        "net",
        {"tiny": {"hidden": 8, "layers": 2}},
        LAYOUTS,
        None,
        parameters=lambda request: request.config["hidden"] ** 2,
        wider=lambda config, x: {**config, "hidden": round(config["hidden"] * x)},
    )
    return registry(model=[net])


STUDY = {"matrix": {"model": "net", "size": "tiny", "task": "sort", "stage": ["finetune", "eval"]}}


def test_a_learning_study_is_ordinary_cells(tmp_path: Path) -> None:
    doc = {**STUDY, "defaults": {"steps": 10, "train_examples": 50}}
    study = {"seeds": 2, "ample": {"steps": 90, "size": "tiny*4"}}
    found = at(plan(tmp_path, reg=scalable(), learning=study, **doc), stage="finetune")
    points = {(c.train_examples, c.steps, c.size) for c in found}
    doubled = {(100, 10, "tiny"), (50, 20, "tiny"), (50, 10, "tiny*2")}
    assert points == {(50, 10, "tiny"), *doubled, (50, 90, "tiny"), (50, 10, "tiny*4"), (50, 90, "tiny*4")}
    assert {c.seed for c in found} == {0, 1} and len(found) == 14
    scored = at(plan(tmp_path, reg=scalable(), learning=study, **doc), stage="eval")
    assert {c.parent for c in scored} == {c.cell_id for c in found}


def test_all_of_the_data_cannot_be_doubled_and_pretraining_is_studied_alone(tmp_path: Path) -> None:
    doc = {"matrix": {**STUDY["matrix"], "stage": "pretrain"}, "defaults": {"steps": {"pretrain": 4}}}
    found = at(plan(tmp_path, reg=scalable(), learning={"seeds": 2}, **doc))
    assert {(c.steps, c.size) for c in found} == {(4, "tiny"), (8, "tiny"), (4, "tiny*2")}


def test_a_pretraining_is_shared_by_seeds_and_follows_the_size(tmp_path: Path) -> None:
    doc = {"matrix": {**STUDY["matrix"], "stage": ["pretrain", "finetune"]}, "defaults": {"steps": 4}}
    found = plan(tmp_path, reg=scalable(), learning={"seeds": 2}, **doc)
    assert sorted(c.size for c in at(found, stage="pretrain")) == ["tiny", "tiny*2"]
    assert {c.steps for c in at(found, stage="pretrain")} == {4}


def test_a_scaling_study_changes_one_axis_at_a_time(tmp_path: Path) -> None:
    axes = {"seq_len": [16, 32, 64], "hidden": [8, 16, 32]}
    doc = {**STUDY, "matrix": {**STUDY["matrix"], "stage": "finetune"}, "defaults": {"seq_len": 32}}
    found = at(plan(tmp_path, reg=scalable(), scaling=axes, **doc))
    assert {(c.seq_len, c.size) for c in found} == {
        *((n, "tiny:hidden=8") for n in (16, 32, 64)),
        *((32, f"tiny:hidden={n}") for n in (8, 16, 32)),
    }


@pytest.mark.parametrize(
    ("study", "told"),
    [
        ({"learning": {"seed": 3}}, "unknown key 'seed' in learning (did you mean 'seeds'?)"),
        ({"learning": {"seeds": 1}}, "seeds must be an integer of at least 2"),
        ({"learning": {"double": ["date"]}}, "cannot double 'date' (did you mean 'data'?)"),
        ({"learning": {"ample": {"seed": 3}}}, "ample takes no 'seed'"),
        ({"learning": {"ample": {"size": "huge"}}}, "has no size 'huge'"),
        ({"scaling": {"seq_len": 3}}, "seq_len must be a list of at least two values"),
        ({"scaling": {"seq_len": [8, "x"]}}, "seq_len must be an integer of at least 8, not 'x'"),
        ({"scaling": {"precision": ["fp32", "bf16"]}}, "needs an axis of whole numbers"),
        ({"scaling": {"hiden": [1, 2]}}, "has no 'hiden' (did you mean 'hidden'?)"),
    ],
)
def test_a_wrong_study_is_told_in_one_line(tmp_path: Path, study: dict, told: str) -> None:
    with pytest.raises(SuiteError) as error:
        plan(tmp_path, reg=scalable(), **STUDY, **study)
    assert told in str(error.value) and "\n" not in str(error.value)
