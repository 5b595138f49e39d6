"""`synthetic`: generated data for all built-in tasks, with the model that knows the generator as the oracle.

Arguments: `synthetic`, or `synthetic:train=8000,validation=500,test=500,seed=1`, in any order. The same
arguments give the same examples on every machine; a larger `train` begins with the smaller one, and the test
split does not depend on `train`. The texts of the four tasks have no text in common between their splits.
The pretraining corpus is independent draws, so that its entropy is exact: a short document may occur twice.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmbench import DataError, DataRequest, Dataset, DatasetSpec, hookimpl
from llmbench_plugins.datasets._language import CUE, STOP, WHAT, Component, Mixture, Plans, Quiz, Story
from llmbench_plugins.datasets._lexicon import DICTIONARY, ENTITIES, FACT_VERBS, FOREIGN, NATIVE, TOPICS

GENERATOR_VERSION = 2  # raise it whenever the same arguments give other examples
MAX_EXAMPLES = 1_000_000

STORY_PLANS: Plans = {(3, 0): 0.25, (4, 0): 0.5, (5, 0): 0.25}
SENTENCE_PLANS: Plans = {(1, 0): 1.0}
CUE_PLANS: Plans = {(total, at): 0.5 / total for total in (3, 4) for at in range(1, total + 1)}
FACTS = {3: 0.5, 4: 0.5}
CORPUS_SHARES = {"story": 0.75, "foreign": 0.15, "cue": 0.06, "quiz": 0.04}


def language(shares: Mapping[str, float], plans: Plans = STORY_PLANS) -> Mixture:
    """Return the language of the given kinds of text (`story`, `foreign`, `cue`, `quiz`), topics equally likely.

    `plans` is the number of sentences of a `story` and of a `foreign` text.
    """
    make: dict[str, Callable[[int], Any]] = {
        "story": lambda topic: Story(NATIVE, topic, plans),
        "foreign": lambda topic: Story(FOREIGN, topic, plans),
        "cue": lambda topic: Story(NATIVE, topic, CUE_PLANS),
        "quiz": lambda topic: Quiz(NATIVE, topic, ENTITIES, FACT_VERBS, FACTS),
    }
    topics = range(len(TOPICS))
    return Mixture(
        [Component(kind, t, share / len(TOPICS), make[kind](t)) for kind, share in shares.items() for t in topics]
    )


# --- what is right, from the text alone -----------------------------------------------------------------


def translate(source: str) -> str:
    """Return the foreign sentence: word by word, with each adjective after its noun."""
    words: list[str] = []
    adjective = None
    for word in source.split():
        if NATIVE.category.get(word) == "adj":
            adjective = word
            continue
        words.append(word)
        if adjective:
            words.append(adjective)
            adjective = None
    return " ".join(DICTIONARY.get(word, word) for word in words)


def summarize(document: str) -> str:
    """Return subject, verb and object of the sentence that opens with the cue."""
    words = document.split()
    sentence = words[words.index(CUE) :]
    sentence = sentence[: sentence.index(STOP)]
    return " ".join(word for word in sentence if NATIVE.category.get(word) in ("noun", "verb"))


def find_answer(question: str, context: str) -> tuple[str, int]:
    """Return the answer (adjective and noun) and where it starts in `context`, in characters."""
    entity = question.split()[2]
    position = 0
    for fact in context.split(f" {STOP}"):
        words = fact.split()
        if words and words[0] == entity:
            answer = " ".join(words[3:])
            return answer, position + fact.index(answer)
        position += len(fact) + len(f" {STOP}")
    raise ValueError(f"{entity!r} is not in the context")


# --- tasks ----------------------------------------------------------------------------------------------


def _classification(component: Component, words: list[str]) -> dict[str, Any]:
    return {"text": " ".join(words), "label": component.topic}


def _translation(_: Component, words: list[str]) -> dict[str, Any]:
    source = " ".join(words)
    return {"source": source, "target": translate(source)}


def _summarization(_: Component, words: list[str]) -> dict[str, Any]:
    document = " ".join(words)
    return {"document": document, "summary": summarize(document)}


def _qa(_: Component, words: list[str]) -> dict[str, Any]:
    at = words.index(WHAT)
    context, question = " ".join(words[:at]), " ".join(words[at:])
    text, start = find_answer(question, context)
    key = hashlib.sha256(f"{context} {question}".encode()).hexdigest()[:12]
    return {"id": key, "question": question, "context": context, "answers": [{"text": text, "answer_start": start}]}


def _pretraining(_: Component, words: list[str]) -> dict[str, Any]:
    return {"text": " ".join(words)}


def _topic_of(mixture: Mixture, text: str) -> int:
    posterior = mixture.posterior(text.split())
    return mixture.components[max(range(len(posterior)), key=posterior.__getitem__)].topic


def _surprise(mixture: Mixture, text: str) -> dict[str, Any]:
    words = text.split()
    return {"nll": -mixture.log_prob(words), "words": len(words) + 1, "tokens": None, "masked": False}


@dataclass(frozen=True)
class _Kind:
    """One task: its language, its examples and its oracle's answer to one example."""

    language: Callable[[], Mixture]
    example: Callable[[Component, list[str]], dict[str, Any]]
    answer: Callable[[Mixture, Mapping[str, Any]], Any]
    distinct: bool = True  # no two examples have the same text
    info: Mapping[str, Any] | None = None


KINDS: Mapping[str, _Kind] = {
    "classification": _Kind(
        lambda: language({"story": 1.0}),
        _classification,
        lambda m, e: _topic_of(m, e["text"]),
        info={"labels": list(TOPICS)},
    ),
    "translation": _Kind(
        lambda: language({"story": 1.0}, SENTENCE_PLANS),
        _translation,
        lambda m, e: translate(e["source"]),
        info={
            "source_lang": "en",
            "target_lang": "en",
            "notes": ["both languages are invented; target_lang is en so that words are scored as they are written"],
        },
    ),
    "summarization": _Kind(
        lambda: language({"cue": 1.0}),
        _summarization,
        lambda m, e: summarize(e["document"]),
        info={"target_lang": "en"},
    ),
    "qa": _Kind(lambda: language({"quiz": 1.0}), _qa, lambda m, e: find_answer(e["question"], e["context"])[0]),
    "pretraining": _Kind(
        lambda: language(CORPUS_SHARES),
        _pretraining,
        lambda m, e: _surprise(m, e["text"]),
        distinct=False,
        info={"notes": ["documents are independent draws: a short one may occur in two splits"]},
    ),
}


@dataclass
class ExactOracle:
    """The model that knows the generator: nothing does better in expectation."""

    mixture: Mixture
    answer: Callable[[Mixture, Mapping[str, Any]], Any]
    kind: str = "exact"

    def predict(self, examples: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Return one answer per example: a class, a text, or the exact `nll` of a document in nats."""
        return [self.answer(self.mixture, example) for example in examples]


@dataclass(frozen=True)
class Sizes:
    """Examples per split, and the seed of the data (not of the training)."""

    train: int = 8000
    validation: int = 500
    test: int = 500
    seed: int = 1


def parse_argument(argument: str) -> Sizes:
    """Return the sizes that `train=8000,validation=500,test=500,seed=1` asks for. Raises DataError."""
    sizes, known = Sizes(), {"train", "validation", "test", "seed"}
    hint = "write e.g. synthetic:train=8000,validation=500,test=500,seed=1"
    seen: set[str] = set()
    for part in filter(None, (p.strip() for p in argument.split(","))):
        name, _, value = (text.strip() for text in part.partition("="))
        if name not in known:
            raise DataError(
                f"synthetic:{argument}: unknown setting {name!r} (known: {', '.join(sorted(known))}); {hint}"
            )
        if name in seen:
            raise DataError(f"synthetic:{argument}: {name} is set twice; keep one")
        if not (value.isascii() and value.isdigit() and len(value) <= 9):
            raise DataError(f"synthetic:{argument}: {name} must be a whole number, not {value!r}; {hint}")
        if name != "seed" and not 1 <= int(value) <= MAX_EXAMPLES:
            raise DataError(f"synthetic:{argument}: {name} must be 1 to {MAX_EXAMPLES}, not {value}; {hint}")
        seen.add(name)
        sizes = replace(sizes, **{name: int(value)})
    return sizes


def _kind_of(request: DataRequest) -> str:
    by_head = {"classify": "classification", "span": "qa", "pretrain": "pretraining"}
    name = request.task.name if request.task.name in KINDS else by_head.get(request.task.head, "")
    if name not in KINDS:
        known = ", ".join(KINDS)
        raise DataError(
            f"synthetic: no data for task {request.task.name!r}; use one of {known}, or file:PATH, or hf:NAME"
        )
    return name


def identify(request: DataRequest) -> str:
    """Return `synthetic@FINGERPRINT`. Raises DataError for a bad argument or an unknown task."""
    sizes, task = parse_argument(request.argument), _kind_of(request)
    content = f"{GENERATOR_VERSION} {task} {sizes.train} {sizes.validation} {sizes.test} {sizes.seed}"
    return f"synthetic@{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def load(request: DataRequest) -> Dataset:
    """Return the splits, whose examples are drawn when they are asked for: about 0.05 ms each.

    Raises DataError for a bad argument or an unknown task.
    """
    sizes, name = parse_argument(request.argument), _kind_of(request)
    kind = KINDS[name]
    mixture = kind.language()
    before: Drawn | None = None
    splits = {}
    for split in ("test", "validation", "train"):
        rng = random.Random(f"{GENERATOR_VERSION}/{name}/{split}/{sizes.seed}")
        before = splits[split] = Drawn(kind, mixture, rng, getattr(sizes, split), before)
    return Dataset(identify(request), **splits, info=dict(kind.info or {}), oracle=ExactOracle(mixture, kind.answer))


class Drawn(Sequence[dict[str, Any]]):
    """The examples of a split, drawn in their order as far as they are asked for.

    No text of the splits `before` comes again, nor one of its own. Passing over a text that was seen leaves
    p(topic | text) as it is.
    """

    def __init__(self, kind: _Kind, mixture: Mixture, rng: random.Random, count: int, before: Drawn | None) -> None:
        self._kind, self._mixture, self._rng, self._count, self._before = kind, mixture, rng, count, before
        self._examples: list[dict[str, Any]] = []
        self._seen: set[str] = set()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        places = range(self._count)[index]  # an IndexError where there is none
        if isinstance(places, int):
            return self._upto(places + 1)[places]
        drawn = self._upto(max(places, default=-1) + 1)
        return [drawn[place] for place in places]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._upto(self._count))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def _upto(self, count: int) -> list[dict[str, Any]]:
        """Return the first `count` examples, or more."""
        kind, seen = self._kind, self._seen
        if kind.distinct and count and not seen and self._before is not None:
            seen |= self._before.texts()
        while len(self._examples) < count:
            component, words = self._mixture.sample(self._rng)
            if kind.distinct:
                text = " ".join(words)
                if text in seen:
                    continue
                seen.add(text)
            self._examples.append(kind.example(component, words))
        return self._examples

    def texts(self) -> set[str]:
        """Return the texts of all examples of this split and of those before."""
        self._upto(self._count)
        return self._seen


@hookimpl
def llmbench_datasets() -> list[DatasetSpec]:
    """Return the generated data sets."""
    return [
        DatasetSpec(
            name="synthetic",
            identify=identify,
            load=load,
            tasks=tuple(KINDS),
            description="generated texts with an exact oracle; synthetic:train=8000,validation=500,test=500,seed=1",
        )
    ]
