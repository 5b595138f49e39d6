"""Metrics against values of the official scorers, worked out by hand."""

from __future__ import annotations

import importlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench_plugins.metrics.qa import answer_words, squad_scores, word_f1
from llmbench_plugins.metrics.text import bleu_score, mostly_cjk, rouge_scores, segments

MODULES = ("classification", "text", "qa", "perplexity")
SPECS = {
    spec.name: spec
    for name in MODULES
    for spec in importlib.import_module(f"llmbench_plugins.metrics.{name}").llmbench_metrics()
}


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """Every metric, loaded with the network's doors shut."""
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a metric touched the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        folder = str(tmp_path_factory.mktemp("metrics"))
        yield {name: spec.load(folder) for name, spec in SPECS.items()}


def window(nll, words, tokens, masked=False, **more):
    return {"nll": nll, "words": words, "tokens": tokens, "masked": masked, **more}


def test_names():
    assert set(SPECS) == {"accuracy", "f1", "rouge", "bleu", "chrf", "squad", "perplexity"}


@pytest.mark.parametrize("name", SPECS)
def test_are_evaluate_metrics_and_score_nothing_for_nothing(metrics, name):
    import evaluate

    assert isinstance(metrics[name], evaluate.Metric)
    assert metrics[name].compute(predictions=[], references=[]) == {}


@pytest.mark.parametrize("name", ["rouge", "bleu", "chrf", "squad"])
@pytest.mark.parametrize("references", [["x", "x"], [[""], [""]], [["", "x"], ["x"]]])
def test_empty_strings_are_scored(metrics, name, references):
    values = metrics[name].compute(predictions=["", ""], references=references)
    assert set(values) == set(SPECS[name].values)
    assert all(0 <= value <= 100 for value in values.values())


@pytest.mark.parametrize("name", ["rouge", "bleu", "chrf", "squad"])
def test_a_perfect_text_has_the_full_score(metrics, name):
    text = "the small cat sat on the mat today"
    full = 100 if name in ("bleu", "chrf") else 1
    values = metrics[name].compute(predictions=[text], references=[text])
    assert all(value == pytest.approx(full) and value <= full for value in values.values())


@pytest.mark.parametrize("name", SPECS)
def test_length_mismatch_is_refused(metrics, name):
    if name == "perplexity":  # has no references
        return
    one = 1 if name in ("accuracy", "f1") else "x"
    with pytest.raises((ValueError, KeyError)):
        metrics[name].compute(predictions=[one, one], references=[one])
    assert metrics[name].compute(predictions=[one], references=[one])  # and what was refused is forgotten


def test_accuracy_and_f1(metrics):
    predictions, references = [0, 1, 1, 1], [0, 1, 0, 0]
    assert metrics["accuracy"].compute(predictions=predictions, references=references) == {"accuracy": 0.5}
    # class 1: 1 hit of 3 predicted, 1 present: 2/4; class 0: 1 hit of 1 predicted, 3 present: 2/4
    spam = SPECS["f1"].options({"labels": ["ham", "spam"]})
    assert metrics["f1"].compute(predictions=predictions, references=references, **spam)["f1"] == pytest.approx(0.5)
    three = SPECS["f1"].options({"labels": ["a", "b", "c"]})
    # class 0: 2/3, class 1: 0, class 2: 1
    value = metrics["f1"].compute(predictions=[0, 0, 2], references=[0, 1, 2], **three)["f1"]
    assert value == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_binary_f1_is_of_the_second_label(metrics):
    options = SPECS["f1"].options({"labels": ["ham", "spam"]})
    # spam: 1 hit of 1 predicted, 2 present: 2/3; ham would be 4/5
    value = metrics["f1"].compute(predictions=[0, 0, 0, 1], references=[0, 0, 1, 1], **options)["f1"]
    assert value == pytest.approx(2 / 3)


def test_rouge(metrics):
    # "police killed the gunman" vs "police kill the gunman" (Lin 2004): the stemmer makes them equal
    value = metrics["rouge"].compute(predictions=["police killed the gunman"], references=["police kill the gunman"])
    assert value == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    # "the gunman kill police": all 4 words, 1 of 3 pairs ("the gunman"), longest subsequence 2 of 4
    value = metrics["rouge"].compute(predictions=["the gunman kill police"], references=["police kill the gunman"])
    assert value == pytest.approx({"rouge1": 1.0, "rouge2": 1 / 3, "rougeL": 0.5})


def test_rouge_takes_the_best_reference():
    assert rouge_scores(["a b c"], [["x y", "a b d"]])["rouge1"] == pytest.approx(2 / 3)


def test_rouge_of_chinese_compares_characters():
    options = SPECS["rouge"].options({"target_lang": "zh"})
    assert rouge_scores(["我爱北京"], [["我爱上海"]], **options)["rouge1"] == pytest.approx(0.5)
    assert rouge_scores(["我爱北京"], [["我爱上海"]])["rouge1"] == pytest.approx(0.5)  # seen from the references
    assert rouge_scores(["我爱北京"], [["我爱上海"]], characters=False)["rouge1"] == 0


def test_bleu_and_chrf_by_hand(metrics):
    prediction, reference = "the cat the cat on the mat", "the cat is on the mat"
    # clipped n-grams: 5/7, 3/6, 1/5, 0/4; sacrebleu's default smoothing makes the zero 1/(2*4); no brevity penalty
    expected = 100 * math.exp(sum(map(math.log, (5 / 7, 3 / 6, 1 / 5, 1 / 8))) / 4)
    assert metrics["bleu"].compute(predictions=[prediction], references=[reference])["bleu"] == pytest.approx(expected)
    # "abc" against "abd": 2/3 of the characters, 1/2 of the pairs, 0 of the triples; precision and recall are equal
    value = metrics["chrf"].compute(predictions=["abc"], references=["abd"])["chrf"]
    assert value == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_bleu_of_corpus_pools_counts_and_takes_several_references():
    one = bleu_score(["a b c d e", "x"], [["a b c d e"], ["y", "x"]])
    assert one["bleu"] == pytest.approx(100)
    assert bleu_score(["a b c d e", "x"], [["a b c d e"], ["y"]])["bleu"] < 100


def test_bleu_of_chinese_is_cut_into_characters():
    options = SPECS["bleu"].options({"source_lang": "en", "target_lang": "zh"})
    assert options == {"tokenize": "zh"}
    assert SPECS["bleu"].options({"target_lang": "de"}) == {}
    predictions, references = ["我爱北京天安门。"], [["我爱北京天安街。"]]
    assert bleu_score(predictions, references, **options)["bleu"] > 50 > bleu_score(predictions, references)["bleu"]


def test_squad_normalisation_is_the_official_one():
    assert answer_words("The  Cat, an animal!") == ["cat", "animal"]
    assert answer_words("theory of a-the") == ["theory", "of", "athe"]  # punctuation goes before articles
    assert squad_scores(["the Cat!"], [["dog", "a cat"]]) == {"exact_match": 1.0, "f1": 1.0}
    # "denver broncos won" vs "Denver Broncos": 2 common, 3 and 2 words
    assert squad_scores(["denver broncos won"], [["Denver Broncos"]]) == pytest.approx({"exact_match": 0, "f1": 0.8})


def test_squad_of_chinese_and_of_nothing():
    assert squad_scores(["北京，"], [["北京"]])["exact_match"] == 1
    assert squad_scores(["北京市"], [["北京"]])["f1"] == pytest.approx(0.8)
    assert squad_scores(["", "x", ""], [[""], [""], ["x"]]) == pytest.approx({"exact_match": 1 / 3, "f1": 1 / 3})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd")))
def test_word_f1_is_symmetric_and_bounded(left, right):
    assert word_f1(left, right) == word_f1(right, left)
    assert 0 <= word_f1(left, right) <= 1
    assert word_f1(left, left) == 1


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_segments_keep_every_visible_character(text):
    assert "".join(segments(text)) == "".join(text.split())
    assert not mostly_cjk([]) and mostly_cjk(["我"]) and not mostly_cjk(["a我"])


def test_perplexity_is_per_word_and_masked_per_token(metrics):
    windows = [window(3.0, 1, 5), window(1.0, 3, 9, nll_backward=6.0), window(2.0, 100, 4, masked=True)]
    values = metrics["perplexity"].compute(predictions=windows, references=[None] * 3)
    assert values == pytest.approx(
        {"perplexity": math.e, "perplexity_backward": math.exp(2), "masked_perplexity": math.exp(0.5)}
    )
    assert set(values) == set(SPECS["perplexity"].values)


def test_perplexity_that_is_not_known_is_left_out(metrics):
    for nll in (math.nan, math.inf, 1e9):
        assert metrics["perplexity"].compute(predictions=[window(nll, 2, 3)]) == {}
    assert metrics["perplexity"].compute(predictions=[window(0.0, 2, 0, masked=True)]) == {}
