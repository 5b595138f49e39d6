from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from llmbench import DataError, DataRequest
from llmbench_plugins.datasets import hf
from llmbench_plugins.datasets._formats import FIELDS

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def request(task: str, argument) -> DataRequest:
    return DataRequest(SimpleNamespace(name=task, fields=tuple(FIELDS[task])), str(argument))


def repository(folder, splits: dict[str, list[dict]], features=None):
    """Write a data set repository: data/SPLIT.parquet where there are features, else data/SPLIT.jsonl."""
    (folder / "data").mkdir(parents=True)
    suffix = "parquet" if features else "jsonl"
    entries = "".join(f"  - split: {s}\n    path: data/{s}.{suffix}\n" for s in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{entries}---\n")
    for split, rows in splits.items():
        path = folder / "data" / f"{split}.{suffix}"
        if features:
            datasets.Dataset.from_list(rows, features=features).to_parquet(path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def numbered(n: int, **fields) -> list[dict]:
    return [{k: f"{v} {i}" for k, v in fields.items()} for i in range(n)]


def test_class_labels_keep_their_names_and_unlabelled_rows_go(tmp_path):
    label = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"idx": datasets.Value("int32"), "sentence": datasets.Value("string"), "label": label})
    rows = [{"idx": i, "sentence": f" s {i}", "label": i % 2} for i in range(8)]
    unlabelled = [{"idx": 0, "sentence": "x", "label": -1}]
    folder = repository(tmp_path / "sst", {"train": rows, "validation": rows[:4], "test": unlabelled}, features)
    data = hf.load(request("classification", folder))
    assert data.info["labels"] == ["neg", "pos"]
    assert data.test == [{"text": f"s {i}", "label": i % 2} for i in range(4)]
    assert "1 rows of test without a label are left out" in data.info["notes"]
    assert any("test is validation" in note for note in data.info["notes"])


def test_text_labels_and_split_option(tmp_path):
    rows = [{"Text": f"t {i}", "category": "ba"[i % 2]} for i in range(60)]
    folder = repository(tmp_path / "news", {"train": rows})
    data = hf.load(request("classification", f"{folder},split=train[:40]"))
    assert data.info["labels"] == ["a", "b"]
    assert len(data.train) + len(data.validation) + len(data.test) == 40
    assert all(r["label"] == 1 - int(r["text"].split()[1]) % 2 for r in data.train)


@pytest.mark.parametrize(
    ("row", "expected", "languages"),
    [
        ({"translation": {"de": "d", "en": "e"}}, ("e", "d"), ("en", "de")),
        ({"id": "x", "fr": "f", "en": "e"}, ("e", "f"), ("en", "fr")),
        ({"target": "t", "source": "s"}, ("s", "t"), (None, None)),
    ],
)
def test_translation(tmp_path, row, expected, languages):
    data = hf.load(
        request("translation", repository(tmp_path / "d", {s: [row] for s in ("train", "validation", "test")}))
    )
    assert data.train == [{"source": expected[0], "target": expected[1]}]
    assert (data.info["source_lang"], data.info["target_lang"]) == languages


def test_qa_checks_the_answers(tmp_path):
    row = {"id": "q", "question": "who?", "context": "by Bob", "answers": {"text": ["Bob"], "answer_start": [3]}}
    data = hf.load(request("qa", repository(tmp_path / "a", {s: [row] for s in ("train", "validation", "test")})))
    assert data.test == [{**row, "answers": [{"text": "Bob", "answer_start": 3}]}]
    wrong = {**row, "answers": {"text": ["Bob"], "answer_start": [2]}}
    with pytest.raises(DataError, match="question q: answer_start 2 should be 3"):
        hf.load(request("qa", repository(tmp_path / "b", {"train": [wrong]})))


def test_summaries_and_text(tmp_path):
    rows = numbered(50, article="a", highlights="h", url="u")
    folder = repository(tmp_path / "cnn", {"train": rows, "test": rows[:2]})
    data = hf.load(request("summarization", folder))
    assert data.test[1] == {"document": "a 1", "summary": "h 1", "references": ["h 1"]}
    texts = repository(tmp_path / "wiki", {"train": [*numbered(50, text="t"), {"text": " \n"}]})
    data = hf.load(request("pretraining", texts))
    assert len(data.train) + len(data.validation) + len(data.test) == 50


def test_identity_follows_the_rows_not_the_place_or_the_file_format(tmp_path):
    rows = numbered(30, text="t")
    features = datasets.Features({"text": datasets.Value("string")})
    one = hf.identify(request("pretraining", repository(tmp_path / "a" / "corpus", {"train": rows})))
    two = hf.identify(request("pretraining", repository(tmp_path / "b" / "corpus", {"train": rows}, features)))
    assert one == two
    assert one.startswith("hf:corpus@") and len(one) == len("hf:corpus@") + 12
    changed = repository(tmp_path / "c" / "corpus", {"train": [*rows[:-1], {"text": "other"}]})
    three = hf.identify(request("pretraining", changed))
    assert three != one
    (changed / "data" / "train.jsonl").write_text((tmp_path / "a/corpus/data/train.jsonl").read_text())
    assert hf.identify(request("pretraining", changed)) == one


def test_mistakes_are_one_line(tmp_path):
    folder = repository(tmp_path / "d", {"train": numbered(5, a="x", b="y")})
    gappy = repository(tmp_path / "g", {"train": [{"text": f"t{i}", "label": 2 * i} for i in range(5)]})
    for task, argument, message in [
        ("classification", folder, "its columns are a, b"),
        ("translation", folder, "its columns are a, b"),
        ("qa", folder, "its columns are a, b"),
        ("summarization", folder, "its columns are a, b"),
        ("pretraining", folder, "its columns are a, b"),
        ("classification", gappy, "not 0, 1, 2 ... without gaps"),
        ("pretraining", f"{folder},config=none", "cannot be loaded"),
        ("pretraining", f"{folder},splt=train", "is no option"),
        ("pretraining", "nobody/none-such", "hf:nobody/none-such: cannot be loaded"),
        ("pretraining", "", "needs a name"),
    ]:
        with pytest.raises(DataError) as error:
            hf.load(request(task, argument))
        assert message in str(error.value)
        assert "\n" not in str(error.value)
