"""The generated data: the same everywhere, exact where it says exact, readable in one way only."""

import hashlib
import json
import math
import random
from types import SimpleNamespace

import pytest

from llmbench import DataError
from llmbench_plugins.datasets import _lexicon, synthetic
from llmbench_plugins.datasets._language import END, Component, Lexicon, Mixture, Quiz, Story

TASKS = ("classification", "translation", "summarization", "qa", "pretraining")
#: Of 20 examples per split and task. Another value: the content changed, so raise GENERATOR_VERSION as well.
CONTENT = (2, "415963e3dd6417fe")


def request(task, argument="train=400,validation=100,test=200"):
    return SimpleNamespace(task=SimpleNamespace(name=task, head=""), argument=argument)


@pytest.fixture(scope="module")
def data():
    return {task: synthetic.load(request(task)) for task in TASKS}


def tiny_lexicon(noun_first=False):
    words = {"noun": (("cat",), ("dog",)), "verb": (("sees",), ("hears",)), "adj": (("red",), ("old",))}
    return Lexicon(
        ("x", "y"), words, {"the": 0.75, "a": 0.25}, own_share=0.7, adjective_share=0.3, noun_first=noun_first
    )


def every_document(language, limit=60):
    """Return all documents by walking the next-word distributions."""
    done, open_prefixes = [], [[]]
    while open_prefixes:
        prefix = open_prefixes.pop()
        assert len(prefix) < limit
        for word in language.next_word(prefix):
            if word == END:
                done.append(prefix)
            else:
                open_prefixes.append([*prefix, word])
    return done


# --- exactness ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noun_first", [False, True])
def test_probabilities_of_all_documents_sum_to_one(noun_first):
    lexicon = tiny_lexicon(noun_first)
    stories = [Component("story", t, 0.5 + t, Story(lexicon, t, {(1, 0): 1.0})) for t in range(2)]
    quizzes = [
        Component("quiz", t, 0.3, Quiz(lexicon, t, ("ann", "bob"), {"has": "have"}, {1: 0.4, 2: 0.6})) for t in range(2)
    ]
    language = Mixture(stories + quizzes)
    documents = every_document(language)
    assert len({tuple(d) for d in documents}) == len(documents)
    assert math.fsum(math.exp(language.log_prob(d)) for d in documents) == pytest.approx(1, abs=1e-12)


def test_probability_of_a_sentence_is_the_product_written_by_hand():
    lexicon = tiny_lexicon()
    language = Mixture([Component("story", t, 1.0, Story(lexicon, t, {(1, 0): 0.8, (2, 0): 0.2})) for t in range(2)])
    given_x = 0.75 * (0.3 * 0.3) * 0.7 * 0.7 * 0.25 * 0.7 * 0.3 * 0.8  # the old cat sees a dog .
    given_y = 0.75 * (0.3 * 0.7) * 0.3 * 0.3 * 0.25 * 0.7 * 0.7 * 0.8
    words = ["the", "old", "cat", "sees", "a", "dog", "."]
    assert math.exp(language.log_prob(words)) == pytest.approx((given_x + given_y) / 2, rel=1e-12)
    assert language.posterior(words) == pytest.approx([given_x / (given_x + given_y), given_y / (given_x + given_y)])


def test_number_of_sentences_and_place_of_the_cue_have_their_probabilities():
    rng, language = random.Random(0), synthetic.language({"cue": 1.0})
    seen = {}
    for _ in range(4000):
        sentences = " ".join(language.sample(rng)[1]).removesuffix(" .").split(" . ")
        at = [i for i, s in enumerate(sentences, 1) if s.startswith("notably ")]
        assert len(at) == 1
        key = (len(sentences), at[0])
        seen[key] = seen.get(key, 0) + 1 / 4000
    assert seen.keys() == synthetic.CUE_PLANS.keys()
    assert all(abs(seen[key] - p) < 0.03 for key, p in synthetic.CUE_PLANS.items())


def test_next_word_sums_to_one_and_multiplies_to_the_document(data):
    language = synthetic.language(synthetic.CORPUS_SHARES)
    for example in data["pretraining"].test[:8]:
        words, total = example["text"].split(), 0.0
        for i, word in enumerate([*words, END]):
            following = language.next_word(words[:i])
            assert math.fsum(following.values()) == pytest.approx(1, abs=1e-9)
            total += math.log(following[word])
        assert total == pytest.approx(language.log_prob(words), abs=1e-9)


def test_frequencies_of_a_tiny_language_match_its_probabilities():
    lexicon, rng = tiny_lexicon(), random.Random(3)
    language = Mixture([Component("story", t, 1.0 + t, Story(lexicon, t, {(1, 0): 1.0})) for t in range(2)])
    texts = [" ".join(language.sample(rng)[1]) for _ in range(20_000)]
    for text in ("the cat sees the dog .", "the dog hears the dog .", "a old dog hears the cat ."):
        expected = math.exp(language.log_prob(text.split()))
        assert abs(texts.count(text) / 20_000 - expected) < 5 * math.sqrt(expected / 20_000)


def test_posterior_is_the_brute_force_bayes_rule(data):
    """Sentence by sentence: p(topic) times the topic's word probabilities; everything else cancels."""
    dists = [{c: _lexicon.NATIVE.distribution(c, t) for c in ("noun", "verb", "adj")} for t in range(4)]
    oracle = data["classification"].oracle
    for example in data["classification"].test[:50]:
        words = [w for w in example["text"].split() if _lexicon.NATIVE.category.get(w) in dists[0]]
        likelihood = [math.prod(d[_lexicon.NATIVE.category[w]][w] for w in words) for d in dists]
        expected = [x / sum(likelihood) for x in likelihood]
        assert oracle.mixture.posterior(example["text"].split()) == pytest.approx(expected, rel=1e-9)
        (predicted,) = oracle.predict([example])
        assert expected[predicted] == pytest.approx(max(expected), rel=1e-9)  # of topics that tie, any will do


def test_text_outside_the_language_is_impossible():
    language = synthetic.language(synthetic.CORPUS_SHARES)
    for text in ("the rain covers the", "the the rain covers a song .", "hello", "mira holds the red lamp ."):
        assert language.log_prob(text.split()) == -math.inf


# --- content --------------------------------------------------------------------------------------------


def test_content_is_pinned_to_the_version():
    splits = []
    for task in TASKS:
        loaded = synthetic.load(request(task, "train=20,validation=20,test=20"))
        splits.append([list(split) for split in (loaded.train, loaded.validation, loaded.test)])
    digest = hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()[:16]
    assert (synthetic.GENERATOR_VERSION, digest) == CONTENT


def test_remembered_steps_draw_what_drawing_word_by_word_does():
    for name in ("classification", "pretraining"):
        kind = synthetic.KINDS[name]
        remembered, plain = kind.language(), kind.language()
        assert any(plain._walks)
        plain._walks = [None] * len(plain._walks)
        one, other = random.Random(7), random.Random(7)
        drawn = [(remembered.sample(one)[1], plain.sample(other)[1]) for _ in range(300)]
        assert all(words == by_word for words, by_word in drawn) and one.random() == other.random()


def test_more_training_data_begins_with_the_less_and_keeps_the_test_split(data):
    for task in TASKS:
        more = synthetic.load(request(task, "train=800,validation=100,test=200"))
        assert more.train[:400] == data[task].train
        assert more.test == data[task].test
        assert more.identity != data[task].identity


def test_every_word_has_one_role():
    groups = [_lexicon.NATIVE.category, _lexicon.FOREIGN.category, _lexicon.ENTITIES]
    groups += [_lexicon.FACT_VERBS, _lexicon.FACT_VERBS.values(), ("what", "does", "?", ".", "notably")]
    words = [word for group in groups for word in group]
    assert len(words) == len(set(words))
    assert 120 <= len(words) <= 250
    assert all(w.isascii() and w == w.lower() for w in words)


@pytest.mark.parametrize("task", [t for t in TASKS if t != "pretraining"])
def test_splits_share_no_text(data, task):
    texts = [
        " ".join(str(e[k]) for k in ("text", "source", "document", "context", "question") if k in e)
        for split in (data[task].train, data[task].validation, data[task].test)
        for e in split
    ]
    assert len(texts) == 700 == len(set(texts))


def test_corpus_holds_every_word_of_the_tasks(data):
    corpus = synthetic.load(request("pretraining", "train=4000,validation=1,test=1")).train
    known = {w for e in corpus for w in e["text"].split()}
    assert {w for e in data["translation"].train for k in ("source", "target") for w in e[k].split()} <= known
    assert {w for e in data["qa"].train for k in ("question", "context") for w in e[k].split()} <= known


# --- oracles --------------------------------------------------------------------------------------------


def test_oracle_of_classification_is_good_but_not_perfect():
    loaded = synthetic.load(request("classification", "train=2000,validation=1,test=1"))
    labels = [e["label"] for e in loaded.train]
    right = sum(p == y for p, y in zip(loaded.oracle.predict(loaded.train), labels, strict=True)) / len(labels)
    assert 0.93 < right < 0.98
    assert all(0.2 < labels.count(c) / len(labels) < 0.3 for c in range(4))


def test_rules_on_sentences_worked_by_hand():
    d = _lexicon.DICTIONARY
    swapped = ["the", "rain", "cold", "covers", "a", "song", "."]
    assert synthetic.translate("the cold rain covers a song .") == " ".join(d.get(w, w) for w in swapped)
    document = "the rain covers a hill . notably a loud song buys the cheap bread . a net finds a coin ."
    assert synthetic.summarize(document) == "song buys bread"
    context = "mira holds the cold rain . tovo keeps the loud song ."
    assert synthetic.find_answer("what does tovo keep ?", context) == ("loud song", 42)
    assert context[42:] == "loud song ."


def test_translation_is_one_to_one_and_a_foreign_text_of_the_corpus(data):
    words = {k: set(v) for k, v in (("from", _lexicon.DICTIONARY), ("to", _lexicon.DICTIONARY.values()))}
    assert len(words["from"]) == len(words["to"]) == len(_lexicon.DICTIONARY)
    assert not words["from"] & words["to"]
    native = synthetic.language({"story": 1.0}, synthetic.SENTENCE_PLANS)
    foreign = synthetic.language({"foreign": 1.0}, synthetic.SENTENCE_PLANS)
    for example in data["translation"].test[:50]:
        source, target = example["source"].split(), example["target"].split()
        assert foreign.log_prob(target) == pytest.approx(native.log_prob(source), abs=1e-9)
        assert 6 <= len(source) <= 8


def test_only_the_entity_says_which_fact_is_asked_for(data):
    """A question that the verb alone answered would be a shortcut: right in most cases, and hard to unlearn."""
    for example in data["qa"].train:
        facts = [fact.split() for fact in example["context"].split(" .") if fact]
        assert len(facts) >= 3 and len({fact[0] for fact in facts}) == len(facts)
        assert len({fact[1] for fact in facts}) == 1


def test_answers_are_where_they_are_said_to_be(data):
    for example in data["qa"].test:
        (answer,) = example["answers"]
        start = answer["answer_start"]
        assert example["context"][start : start + len(answer["text"])] == answer["text"]
        fact = next(f for f in example["context"].split(" .") if f.split()[:1] == [example["question"].split()[2]])
        assert fact.endswith(f"the {answer['text']}") and start == example["context"].index(fact) + fact.index(
            answer["text"]
        )
        entities = [f.split()[0] for f in example["context"].removesuffix(" .").split(" . ")]
        assert len(entities) == len(set(entities)) in (3, 4)


@pytest.mark.parametrize(("task", "field"), [("translation", "target"), ("summarization", "summary"), ("qa", None)])
def test_oracles_of_deterministic_tasks_are_always_right(data, task, field):
    test = data[task].test
    expected = [e[field] if field else e["answers"][0]["text"] for e in test]
    assert data[task].oracle.predict(test) == expected
    assert data[task].oracle.kind == "exact"


def test_first_sentence_is_a_poor_summary(data):
    test = data["summarization"].test
    lead = sum(synthetic.summarize("notably " + e["document"].removeprefix("notably ")) == e["summary"] for e in test)
    assert 0.15 < lead / len(test) < 0.45


# --- arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument", ["trian=5", "train", "train=-1", "train=0", "train=5,train=6", "test=1e3", "seed=x", "5"]
)
def test_bad_arguments_are_one_line_errors(argument):
    with pytest.raises(DataError, match=r"^synthetic:") as error:
        synthetic.identify(request("qa", argument))
    assert "\n" not in str(error.value)


def test_identity_follows_the_content_and_not_the_spelling():
    plain = synthetic.identify(request("qa", ""))
    assert plain == synthetic.identify(request("qa", " test=500, train=8000"))
    others = [synthetic.identify(request("qa", a)) for a in ("seed=2", "train=7", "test=7", "validation=7")]
    assert len({plain, synthetic.identify(request("classification", "")), *others}) == 6
    assert (
        synthetic.load(request("qa", "train=9,test=9,seed=2")).train
        != synthetic.load(request("qa", "train=9,test=9")).train
    )


def test_unknown_task_is_an_error():
    with pytest.raises(DataError, match="parsing"):
        synthetic.identify(request("parsing"))
