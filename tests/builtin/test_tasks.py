"""Tasks: text to features, predictions to answers, and the baselines."""

from __future__ import annotations

import importlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmbench
from llmbench.worker.data.tokenizer import train as train_tokenizer
from llmbench_plugins.metrics.perplexity import perplexities
from llmbench_plugins.tasks import classification, pretraining, qa, summarization, translation

TEXTS = [
    "Denver Broncos won the Super Bowl in 2016.",
    "The game was played at Levi's Stadium, in the San Francisco Bay Area.",
    "小猫坐在垫子上。 Die Katze saß auf der Matte.",
]
TOKENIZER = train_tokenizer(TEXTS * 4, 320)


def context(seq_len=16, train=False, info=None):
    return llmbench.EncodeContext(TOKENIZER, seq_len=seq_len, target_len=8, info=info or {}, train=train)


def baseline(task, train, test, name, seed=0):
    data = llmbench.Dataset("test@0", train, [], test)
    features = task.encode(test, context())
    return task.baselines[name](llmbench.BaselineContext(data, test, TOKENIZER, features, seed))


def question(text, answer, start=None):
    answers = [{"text": answer, "answer_start": text.index(answer) if start is None else start}]
    return {"id": "1", "question": "Who?", "context": text, "answers": answers}


@pytest.mark.parametrize("name", ["classification", "summarization", "translation", "qa", "pretraining"])
def test_specs_fit_the_hooks(name):
    module = importlib.import_module(f"llmbench_plugins.tasks.{name}")
    assert module.llmbench_tasks() == [module.TASK]
    assert module.TASK.name == name
    values = set()
    for plugin in ("classification", "text", "qa", "perplexity"):
        for spec in importlib.import_module(f"llmbench_plugins.metrics.{plugin}").llmbench_metrics():
            values |= set(spec.values) if spec.name in module.TASK.metrics else set()
    assert module.TASK.primary in values


def test_classification():
    task, examples = classification.TASK, [{"text": "Denver won", "label": 1}, {"text": "", "label": 0}]
    features = task.encode(examples, context())
    assert [f["label"] for f in features] == [1, 0] and TOKENIZER.decode(features[0]["ids"]) == "Denver won"
    assert task.decode(1, examples[0], features[0], TOKENIZER) == task.reference(examples[0]) == 1
    assert task.num_labels({"labels": ["ham", "spam"]}) == 2
    with pytest.raises(llmbench.DataError, match="labels"):
        task.num_labels({})
    train = [{"text": "", "label": label} for label in (2, 1, 2, 1, 0)]
    assert baseline(task, train, examples, "majority") == [1, 1]


@pytest.mark.parametrize("text", TEXTS)
def test_generation_decodes_what_it_encoded(text):
    example = {"source": "x", "target": text}
    (feature,) = translation.TASK.encode([example], context())
    assert translation.TASK.decode(feature["target"], example, feature, TOKENIZER) == text
    assert translation.TASK.reference(example) == text
    assert baseline(translation.TASK, [example], [example], "copy") == ["x"]


def test_summarization():
    train = [{"document": "d", "summary": s} for s in ("odd one", "the cat sat", "the cat sat down", "the cat ran")]
    test = [
        {"document": "It cost 3.5 dollars. Then more.", "summary": "s", "references": ["r1", "r2"]},
        {"document": "小猫坐着。大猫走了。", "summary": "s"},
        {"document": "no end", "summary": "s"},
        {"document": "", "summary": "s"},
    ]
    lead = baseline(summarization.TASK, train, test, "lead")
    assert lead == ["It cost 3.5 dollars.", "小猫坐着。", "no end", ""]
    assert baseline(summarization.TASK, train, test, "constant") == ["the cat sat"] * 4
    assert summarization.TASK.reference(test[0]) == ["r1", "r2"] and summarization.TASK.reference(test[1]) == ["s"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [(TEXTS[0], "Denver Broncos"), (TEXTS[0], "2016"), (TEXTS[1], "San Francisco"), ("a b c", "c")],
)
def test_qa_decodes_the_answer_it_encoded(text, answer):
    example = question(text, answer)
    (feature,) = qa.TASK.encode([example], context())
    decoded = qa.TASK.decode((feature["start"], feature["end"]), example, feature, TOKENIZER)
    assert answer in decoded and len(decoded) <= len(answer) + 4  # tokens may reach beyond the answer, not far
    assert qa.TASK.reference(example) == [answer]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_qa_span_is_the_shortest_that_covers_any_answer(data):
    text = data.draw(st.text(alphabet="ab 猫é😀.", min_size=1).filter(str.strip))
    first = data.draw(st.integers(0, len(text) - 1))
    last = data.draw(st.integers(first + 1, len(text)))
    example = question(text, text[first:last], first)
    (feature,) = qa.TASK.encode([example], context())
    if not text[first:last].strip():
        assert feature["start"] is None
        return
    offsets, start, end = feature["offsets"], feature["start"], feature["end"]
    assert start <= end
    covered = set().union(*(range(*offsets[i]) for i in range(start, end + 1)))
    wanted = {i for i in range(first, last) if not text[i].isspace()}
    assert wanted <= covered
    for i in (start, end):
        assert set(range(*offsets[i])) & set(range(first, last))


def test_qa_without_an_answer_and_with_a_wrong_place():
    (feature,) = qa.TASK.encode([{**question("a b c", "c"), "answers": []}], context())
    assert feature["start"] is feature["end"] is None
    (feature,) = qa.TASK.encode([question("a b c", "zebra", 0)], context())
    assert feature["start"] is None
    example = question("a b c", "c", 0)
    (feature,) = qa.TASK.encode([example], context())
    assert qa.TASK.decode((feature["start"], feature["end"]), example, feature, TOKENIZER) == "c"
    assert qa.TASK.decode((2, 1), example, feature, TOKENIZER) == ""
    assert qa.TASK.decode((0, 99), example, feature, TOKENIZER) == "a b c"
    assert qa.TASK.decode((99, 99), example, feature, TOKENIZER) == ""


def test_qa_random_span_has_the_length_of_training_answers():
    train = [question("one two three four", "two three")]
    test = [question("a b c d e", "c"), question("x", "x"), {**question("x", "x"), "context": ""}]
    answers = baseline(qa.TASK, train, test * 20, "random_span")
    assert {len(a.split()) for a in answers[::3]} == {2} and set(answers[1::3]) == {"x"} and set(answers[2::3]) == {""}
    assert all(a in "a b c d e" for a in answers[::3]) and len(set(answers[::3])) == 4
    assert answers == baseline(qa.TASK, train, test * 20, "random_span")
    assert answers != baseline(qa.TASK, train, test * 20, "random_span", seed=1)


def test_pretraining_packs_documents_into_whole_blocks():
    special = TOKENIZER.special
    features = pretraining.TASK.encode([{"text": t} for t in TEXTS], context(seq_len=10, train=True))
    stream = [i for ids in TOKENIZER.encode_batch(TEXTS) for i in (special.bos, *ids, special.eos)]
    assert all(len(f["ids"]) == 10 for f in features)
    assert [i for f in features for i in f["ids"]] == stream[: len(stream) // 10 * 10]
    (short,) = pretraining.TASK.encode([{"text": "a"}], context(seq_len=10, train=True))
    assert short["ids"] == [special.bos, *TOKENIZER.encode("a"), special.eos]


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab \n猫é😀.", max_size=60), st.integers(2, 12))
def test_pretraining_windows_hold_the_document_and_its_words_once(text, seq_len):
    special = TOKENIZER.special
    features = pretraining.TASK.encode([{"text": text}], context(seq_len=seq_len))
    assert all(f["ids"][0] == special.bos and len(f["ids"]) <= seq_len for f in features)
    assert [i for f in features for i in f["ids"][1:]] == [*TOKENIZER.encode(text), special.eos]
    assert sum(f["words"] for f in features) == len(text.split()) + 1
    assert features[-1]["words"] >= 1


def test_pretraining_counts_a_word_where_it_begins():
    text = "Denver Broncos won the Super Bowl"
    for seq_len in (2, 3, 5, 8):
        features = pretraining.TASK.encode([{"text": text}], context(seq_len=seq_len))
        read, words = [], 0
        for feature in features:
            read += feature["ids"][1:]
            begun = len(TOKENIZER.decode(read).split())
            assert feature["words"] == begun - words + (feature is features[-1])
            words = begun


def test_pretraining_decodes_with_the_words_of_the_feature():
    engine = {"nll": 2.0, "tokens": 3, "masked": False, "nll_backward": 1.0}
    decoded = pretraining.TASK.decode(engine, {}, {"ids": [], "words": 4}, TOKENIZER)
    assert decoded == {**engine, "words": 4} and pretraining.TASK.reference({"text": "a"}) is None


def test_unigram_baselines():
    special, vocab = TOKENIZER.special, TOKENIZER.vocab_size
    train = [{"text": "aaa"}, {"text": "b"}]
    train_ids = [i for e in train for i in TOKENIZER.encode(e["text"])]
    test = [{"text": "ab"}]
    (causal,) = baseline(pretraining.TASK, train, test, "unigram")
    ids = [*TOKENIZER.encode("ab"), special.eos]
    total = len(train_ids) + len(train) + vocab
    expected = -sum(math.log(([*train_ids, special.eos, special.eos].count(i) + 1) / total) for i in ids)
    assert causal == {"nll": pytest.approx(expected), "words": 2, "tokens": len(ids), "masked": False}
    (masked,) = baseline(pretraining.TASK, train, test, "unigram_masked")
    assert masked["masked"] and masked["tokens"] == len(ids) - 1 and masked["nll"] < causal["nll"]
    assert set(perplexities([causal, masked])) == {"perplexity", "masked_perplexity"}
