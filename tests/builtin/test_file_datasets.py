from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.paths import ROOT

from llmbench import DataError, DataRequest
from llmbench_plugins.datasets import _splits, file
from llmbench_plugins.datasets._formats import FIELDS

DATA = Path(os.environ.get("LLMBENCH_DATA") or ROOT.parent / "shared" / "data")


def request(task: str, argument) -> DataRequest:
    return DataRequest(SimpleNamespace(name=task, fields=tuple(FIELDS.get(task, ()))), str(argument))


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def squad(*questions) -> str:
    """Return SQuAD JSON of (id, context, answer, answer_start)."""
    paragraphs = [
        {"context": c, "qas": [{"id": i, "question": "who?", "answers": [{"text": a, "answer_start": s}]}]}
        for i, c, a, s in questions
    ]
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]})


def lines(n: int, start: int = 0) -> str:
    return "".join(f"text number {i}\n" for i in range(start, start + n))


def test_ag_news_csv(tmp_path):
    rows = '"1","Oil, and","he said ""no"""\n"3","","two\nlines"\n'
    write(
        tmp_path,
        {"train.csv": rows, "val.csv": '"2","a","b"\n', "test.csv": '"3","c",""\n', "classes.txt": "W\nS\nB\n"},
    )
    data = file.load(request("classification", tmp_path))
    assert data.train == [{"text": 'Oil, and he said "no"', "label": 0}, {"text": "two\nlines", "label": 2}]
    assert data.validation == [{"text": "a b", "label": 1}]
    assert data.test == [{"text": "c", "label": 2}]
    assert data.info == {"labels": ["W", "S", "B"], "notes": []}
    (tmp_path / "classes.txt").unlink()
    assert file.load(request("classification", tmp_path)).info["labels"] == ["1", "2", "3"]


def test_label_tsv_sorts_the_labels(tmp_path):
    write(tmp_path, {"train.tsv": "spam\tbuy\nham\thi\u2028there\n", "dev.tsv": "ham\tx\n", "test.tsv": "spam\ty"})
    data = file.load(request("classification", tmp_path))
    assert data.info["labels"] == ["ham", "spam"]
    assert data.train == [{"text": "buy", "label": 1}, {"text": "hi\u2028there", "label": 0}]


def test_parallel_text_puts_english_first(tmp_path):
    files = {f"{s}.{c}": f"{c} 1\n\n{c} 3\n" for s in ("train", "val", "test_2016_flickr") for c in ("en", "de")}
    data = file.load(request("translation", write(tmp_path, files)))
    assert data.train == [{"source": "en 1", "target": "de 1"}, {"source": "en 3", "target": "de 3"}]
    assert (data.info["source_lang"], data.info["target_lang"]) == ("en", "de")


@pytest.mark.parametrize(
    ("folder", "target", "languages"),
    [
        ("x", "你好。", (None, "zh")),
        ("t_cmn_eng", "你好。", ("en", "zh")),
        ("x", "こんにちは世界", (None, "ja")),
        ("wmt_en_de", "Hallo", ("en", "de")),
        ("x", "Hallo", (None, None)),
    ],
)
def test_languages_of_pairs(tmp_path, folder, target, languages):
    text = f"Hello\t{target}\tby somebody\n"
    data = file.load(
        request("translation", write(tmp_path / folder, {f"{s}.tsv": text for s in ("train", "dev", "test")}))
    )
    assert data.train == [{"source": "Hello", "target": target}]
    assert (data.info["source_lang"], data.info["target_lang"]) == languages


def test_summaries(tmp_path):
    text = '{"document": "d", "summary": "s"}\n{"document": "d2", "summary": "s2", "references": ["r1", "r2"]}\n'
    data = file.load(request("summarization", write(tmp_path, {f"{s}.jsonl": text for s in ("train", "dev", "test")})))
    assert [r["references"] for r in data.train] == [["s"], ["r1", "r2"]]


def test_dev_becomes_test_and_validation_comes_from_train(tmp_path):
    train = squad(*[(f"q{i}", f"context {i // 2} of Ann", "Ann", len(f"context {i // 2} of ")) for i in range(200)])
    write(tmp_path, {"train.json": train, "dev.json": squad(("d", "by Bob", "Bob", 3))})
    data = file.load(request("qa", tmp_path))
    assert [r["id"] for r in data.test] == ["d"]
    assert data.test[0]["answers"] == [{"text": "Bob", "answer_start": 3}]
    assert len(data.train) + len(data.validation) == 200
    assert 1 <= len(data.validation) <= 30
    assert not {r["context"] for r in data.train} & {r["context"] for r in data.validation}
    assert "test is dev.json" in data.info["notes"][0] and "5% of train.json" in data.info["notes"][1]


def test_a_single_file_is_split_by_content(tmp_path):
    one, other = tmp_path / "a.txt", tmp_path / "b.txt"
    one.write_text(lines(1000) + "\n\n" + lines(50))
    other.write_text("".join(reversed((lines(1000) + lines(50)).splitlines(keepends=True))))
    data, turned = (file.load(request("pretraining", path)) for path in (one, other))
    sizes = [len(data.train), len(data.validation), len(data.test)]
    assert sum(sizes) == 1050
    assert sizes[0] > 900 and 20 < sizes[1] < 90 and 20 < sizes[2] < 90
    for split in ("train", "validation", "test"):
        assert sorted(r["text"] for r in getattr(data, split)) == sorted(r["text"] for r in getattr(turned, split))
    splits = [{r["text"] for r in part} for part in (data.train, data.validation, data.test)]
    assert not (splits[0] & splits[1] or splits[0] & splits[2] or splits[1] & splits[2])


def test_three_examples_fill_three_splits_and_two_do_not(tmp_path):
    (tmp_path / "a.txt").write_text("x\ny\nz\n")
    data = file.load(request("pretraining", tmp_path / "a.txt"))
    assert len(data.train) == len(data.validation) == len(data.test) == 1
    (tmp_path / "a.txt").write_text("x\ny\n")
    with pytest.raises(DataError, match="too few to split"):
        file.load(request("pretraining", tmp_path / "a.txt"))


def test_identity_follows_content_and_task_and_holds_no_path(tmp_path, monkeypatch):
    files = {"train.tsv": "a\tb\n", "dev.tsv": "a\tc\n", "test.tsv": "b\td\n", "notes.md": "x"}
    here, there = write(tmp_path / "corpus", files), write(tmp_path / "more", {})
    there = write(there / "corpus", files)
    identity = file.identify(request("classification", here))
    assert (
        identity
        == file.identify(request("classification", there))
        == file.load(request("classification", here)).identity
    )
    monkeypatch.chdir(here)
    assert file.identify(request("classification", ".")) == identity
    assert identity.startswith("file:corpus@") and len(identity) == len("file:corpus@") + 12
    assert file.identify(request("translation", here)) != identity
    write(here, {"notes.md": "y"})
    assert file.identify(request("classification", here)) == identity
    write(here, {"test.tsv": "b\te\n"})
    assert file.identify(request("classification", here)) != identity
    assert str(tmp_path) not in json.dumps(dict(file.load(request("classification", here)).info))


BAD = [
    ("classification", {"train.csv": '"1","a","b"\n"2","a\nb","c"\n"1","a"\n'}, "train.csv:4: 2 column"),
    ("classification", {"train.csv": "label,title,text\n"}, "train.csv:1: class 'label' is not"),
    ("classification", {"train.csv": '"0","a","b"\n'}, "train.csv:1: class '0' is not"),
    (
        "classification",
        {"train.csv": '"1","a","b"\n"3","a","b"\n', "classes.txt": "x\ny\n"},
        "train.csv:2: class 3, but",
    ),
    ("classification", {"train.csv": '"1","a","b"\n"3","a","b"\n'}, "class 3 occurs but class 2 never does"),
    ("classification", {"train.csv": '"1","a","b"\n"1","a" b","c"\n'}, "train.csv:2: not CSV"),
    ("classification", {"train.tsv": "ham\thello\nham hello\n"}, "train.tsv:2: 1 column(s), not 2"),
    ("classification", {"train.tsv": b"ham\thi\nham\t\xff\n"}, "train.tsv:2: byte 0xff is not UTF-8"),
    ("classification", {"train.tsv": "a\tb\n", "test.csv": '"1","a","b"\n'}, "has .csv and .tsv files"),
    ("classification", {"train.tsv": "\n"}, "train.tsv: no examples"),
    ("classification", {"test.tsv": "a\tb\n"}, "no train file"),
    ("classification", {"train.parquet": "x"}, "unknown format for classification: found train.parquet"),
    ("classification", {}, "the folder is empty"),
    ("translation", {"train.en": "a\nb\n", "train.de": "a\n"}, "train.en:2: line without a partner"),
    ("translation", {"train.en": "a\n", "train.de": "a\n", "val.en": "a\n"}, "val.en: has no partner val.de"),
    ("translation", {"train.en": "a\n", "train.de": "a\n", "train.fr": "a\n"}, "keep the files of two languages"),
    ("translation", {"train.tsv": "a\tb\tc\td\n"}, "train.tsv:1: 4 column"),
    (
        "summarization",
        {"train.jsonl": '{"document": "d", "summary": "s"}\n{"document": \n'},
        "train.jsonl:2: malformed JSON",
    ),
    ("summarization", {"train.jsonl": '{"document": "d"}\n'}, "train.jsonl:1: summary is missing"),
    ("summarization", {"train.jsonl": '{"document": "\\ud800", "summary": "s"}\n'}, "train.jsonl:1: holds half"),
    ("qa", {"train.json": '{"data": [\n{,\n'}, "train.json:2: malformed JSON"),
    ("qa", {"train.json": '{"version": 1}'}, 'needs a list "data"'),
    (
        "qa",
        {"train.json": squad(("q7", "Ann met Bob. Ann left", "Ann", 12))},
        "question q7: answer_start 12 should be 13",
    ),
    ("qa", {"train.json": squad(("q7", "by Bob", "Ann", 3))}, "question q7: the answer 'Ann' does not occur"),
    ("qa", {"train.json": squad(("q7", "by Bob", "Bob", -3))}, "question q7: answer_start -3 should be 3"),
    ("ranking", {"train.tsv": "a\tb\n"}, "task 'ranking': no known format"),
]


@pytest.mark.parametrize(("task", "files", "message"), BAD, ids=[b[2][:40] for b in BAD])
def test_bad_data_is_one_line_that_says_where(tmp_path, task, files, message):
    with pytest.raises(DataError) as error:
        file.load(request(task, write(tmp_path / "d", files)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_paths(tmp_path):
    (tmp_path / "x.parquet").write_text("x")
    (tmp_path / "train.en").write_text("x")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "inner").mkdir()
    for argument, message in [
        ("", "needs a path"),
        (tmp_path / "gone", "no such file"),
        (tmp_path / "x.parquet", "unknown format"),
        (tmp_path / "train.en", "parallel text is two files"),
        (tmp_path / "only", "name one of its folders"),
    ]:
        with pytest.raises(DataError, match=message):
            file.identify(request("translation", argument))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_unreadable_file(tmp_path):
    write(tmp_path, {"train.txt": "a\n"})
    (tmp_path / "train.txt").chmod(0)
    with pytest.raises(DataError, match=r"train\.txt: cannot be read: Permission denied"):
        file.identify(request("pretraining", tmp_path))


def test_split_names():
    names = ["train-v1.1.json", "dev.tsv", "wiki.valid.tokens", "ag_news_test.csv", "trainer.txt", "classes.txt"]
    assert [_splits.split_of(n) for n in names] == ["train", "validation", "validation", "test", None, None]


REAL = [
    ("classification", "ag_news", 11601, 2000),
    ("classification", "sms_spam", 4150, 725),
    ("translation", "multi30k", 10000, 1000),
    ("translation", "tatoeba_cmn_eng", 10000, 1000),
    ("summarization", "scitldr", 1992, 308),
    ("qa", "squad", 3000, 936),
    ("pretraining", "wikitext2", None, None),
]


@pytest.mark.skipif(not DATA.is_dir(), reason="no folder of real data: set LLMBENCH_DATA")
@pytest.mark.parametrize(("task", "name", "train", "test"), REAL)
def test_real_data(task, name, train, test):
    if not (DATA / name).is_dir():
        pytest.skip(f"LLMBENCH_DATA has no {name}")
    data = file.load(request(task, DATA / name))
    assert set(data.train[0]) == FIELDS[task]
    assert data.identity.startswith(f"file:{name}@")
    if train is not None:
        carved = len(data.validation) if data.info["notes"] else 0
        assert (len(data.train) + carved, len(data.test)) == (train, test)
    if name == "tatoeba_cmn_eng":
        assert (data.info["source_lang"], data.info["target_lang"]) == ("en", "zh")
