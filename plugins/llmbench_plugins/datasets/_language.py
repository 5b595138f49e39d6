"""The probabilistic language of `synthetic`: every word is drawn from a known distribution, so that
log p(document) is exact.

A document has one latent *component* (a kind of text and a topic). Given it, the document is a chain: the state
fixes the distribution of the next word, and the word fixes the next state, because every word belongs to one
category. So log p(document | component) is a sum over words, and log p(document) one log-sum-exp over components.
The end of a document is a word of its own, `END`.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

END = ""  # the end of a document
STOP = "."
CUE = "notably"
WHAT = "what"
DOES = "does"
ASK = "?"


class Choice:
    """A distribution over the next word; weights are normalised. Probabilities depend on + * / and sqrt only,
    which IEEE 754 rounds alike everywhere, so that a seed gives the same text on every machine.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        kept = {word: weight for word, weight in weights.items() if weight > 0}
        total = math.fsum(kept.values())
        self.probability = {word: weight / total for word, weight in kept.items()}
        self.words = tuple(kept)
        self.upto = tuple(accumulate(self.probability.values()))[:-1]

    def draw(self, rng: random.Random) -> str:
        """Return one word."""
        return self.words[bisect_right(self.upto, rng.random())]


def blend(parts: Iterable[tuple[float, Mapping[str, float]]]) -> Choice:
    """Return the mixture of distributions over words."""
    weights: dict[str, float] = {}
    for share, words in parts:
        for word, probability in words.items():
            weights[word] = weights.get(word, 0.0) + share * probability
    return Choice(weights)


class Chain(Protocol):
    """A component: a process over words whose state is fixed by the words so far."""

    start: Hashable
    few_states: bool  # so that each can be remembered with what follows it

    def options(self, state: Hashable) -> Choice:
        """Return the distribution of the next word."""

    def advance(self, state: Hashable, word: str) -> Hashable:
        """Return the state after `word`."""


@dataclass(frozen=True)
class Lexicon:
    """Words by category (`det`, `noun`, `verb`, `adj`) and, within a category, by topic.

    A topic draws a word of its own with probability `own_share`, else one of another topic; within each the
    r-th word weighs 1 / sqrt(r + 2). Determiners belong to no topic and have their own probabilities.
    """

    topics: tuple[str, ...]
    words: Mapping[str, Sequence[Sequence[str]]]  # category -> topic -> words
    determiners: Mapping[str, float]
    own_share: float = 0.5
    adjective_share: float = 0.5  # noun phrases that hold an adjective
    noun_first: bool = False  # the adjective follows its noun
    category: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        category = dict.fromkeys(self.determiners, "det")
        for name, groups in self.words.items():
            for word in (word for group in groups for word in group):
                if word in category:
                    raise ValueError(f"{word!r} is in two categories")
                category[word] = name
        object.__setattr__(self, "category", category)

    def distribution(self, category: str, topic: int) -> Mapping[str, float]:
        """Return p(word | category, topic)."""
        if category == "det":
            return self.determiners
        groups = [Choice({w: 1 / math.sqrt(r + 2) for r, w in enumerate(g)}) for g in self.words[category]]
        others = len(groups) - 1
        own = self.own_share if others else 1.0
        shares = [own if i == topic else (1 - own) / others for i in range(len(groups))]
        return blend((share, g.probability) for share, g in zip(shares, groups, strict=True)).probability

    def rename_words(self, names: Mapping[str, str], noun_first: bool) -> Lexicon:
        """Return the same lexicon with each word replaced by `names[word]`."""
        words = {c: [[names[w] for w in group] for group in groups] for c, groups in self.words.items()}
        determiners = {names[w]: p for w, p in self.determiners.items()}
        return Lexicon(self.topics, words, determiners, self.own_share, self.adjective_share, noun_first)


Plans = Mapping[tuple[int, int], float]  # (sentences, sentence that the cue opens, from 1; 0: none) -> probability
_Place = tuple[str, int, int, int]  # category of the last word, noun phrases begun, sentences ended, cue's sentence


class Story:
    """Sentences `det [adj] noun verb det [adj] noun .` of one topic; `plans` says how many, and which has the cue."""

    start: _Place = (STOP, 0, 0, 0)
    few_states = True

    def __init__(self, lexicon: Lexicon, topic: int, plans: Plans) -> None:
        self._lexicon, self._plans = lexicon, plans
        self._words = {c: lexicon.distribution(c, topic) for c in ("det", "noun", "verb", "adj")}
        self._words[STOP] = {STOP: 1.0}
        self._known: dict[Hashable, Choice] = {}

    def options(self, state: _Place) -> Choice:
        """Return the distribution of the next word."""
        last, phrases, ended, cue = state
        key = (ended, cue) if last == STOP else (last, phrases > 1)
        if key not in self._known:
            self._known[key] = self._boundary(ended, cue) if last == STOP else self._inside(last, phrases)
        return self._known[key]

    def advance(self, state: _Place, word: str) -> _Place:
        """Return the state after `word`."""
        _, phrases, ended, cue = state
        if word == STOP:
            return (STOP, 0, ended + 1, cue)
        if word == CUE:
            return (CUE, 0, ended, ended + 1)
        category = self._lexicon.category[word]
        return (category, phrases + (category == "det"), ended, cue)

    def _boundary(self, ended: int, cue: int) -> Choice:
        possible = {
            (total, at): p
            for (total, at), p in self._plans.items()
            if total >= ended and (at == cue if cue else not 0 < at <= ended)
        }
        stop = math.fsum(p for (total, _), p in possible.items() if total == ended)
        opens = math.fsum(p for (_, at), p in possible.items() if at == ended + 1)
        rest = math.fsum(p for (total, at), p in possible.items() if total > ended and at != ended + 1)
        return blend([(stop, {END: 1.0}), (opens, {CUE: 1.0}), (rest, self._words["det"])])

    def _inside(self, last: str, phrases: int) -> Choice:
        share, after = self._lexicon.adjective_share, "verb" if phrases == 1 else STOP
        if self._lexicon.noun_first:
            follow = {"det": [(1.0, "noun")], "noun": [(share, "adj"), (1 - share, after)], "adj": [(1.0, after)]}
        else:
            follow = {"det": [(share, "adj"), (1 - share, "noun")], "adj": [(1.0, "noun")], "noun": [(1.0, after)]}
        follow |= {"verb": [(1.0, "det")], CUE: [(1.0, "det")]}
        return blend((weight, self._words[category]) for weight, category in follow[last])


_Facts = tuple[tuple[str, str], ...]  # (entity, verb) of each fact so far


class Quiz:
    """Facts `mira holds the red lamp .` about different entities, then `what does mira hold ?` about one of them.

    All facts of a document share their verb, so that only the entity says which fact is asked for.
    """

    start: tuple[str, _Facts, str] = (STOP, (), "")
    few_states = False  # what was said is part of it

    def __init__(
        self,
        lexicon: Lexicon,
        topic: int,
        entities: Sequence[str],
        verbs: Mapping[str, str],
        facts: Mapping[int, float],
    ) -> None:
        self._entities, self._verbs, self._facts = tuple(entities), verbs, facts
        self._next: dict[frozenset[str], Choice] = {}
        det = next(iter(lexicon.determiners))
        self._follow = {
            "entity": ("verb", Choice(dict.fromkeys(verbs, 1.0))),
            "verb": ("det", Choice({det: 1.0})),
            "det": ("adj", Choice(lexicon.distribution("adj", topic))),
            "adj": ("noun", Choice(lexicon.distribution("noun", topic))),
            "noun": (STOP, Choice({STOP: 1.0})),
            WHAT: (DOES, Choice({DOES: 1.0})),
            "bare": (ASK, Choice({ASK: 1.0})),
            ASK: (END, Choice({END: 1.0})),
        }

    def options(self, state: tuple[str, _Facts, str]) -> Choice:
        """Return the distribution of the next word."""
        last, facts, asked = state
        if last == STOP:
            known = frozenset(entity for entity, _ in facts)
            if known not in self._next:
                self._next[known] = self._boundary(known)
            return self._next[known]
        if last == DOES:
            return Choice({entity: 1.0 for entity, _ in facts})
        if last == "asked":
            return Choice({self._verbs[dict(facts)[asked]]: 1.0})
        if last == "entity" and len(facts) > 1:
            return Choice({facts[0][1]: 1.0})
        return self._follow[last][1]

    def _boundary(self, known: frozenset[str]) -> Choice:
        others = [entity for entity in self._entities if entity not in known]
        stop = self._facts.get(len(known), 0.0)
        go_on = math.fsum(p for total, p in self._facts.items() if total > len(known))
        return Choice({WHAT: stop, **{entity: go_on / len(others) for entity in others}})

    def advance(self, state: tuple[str, _Facts, str], word: str) -> tuple[str, _Facts, str]:
        """Return the state after `word`."""
        last, facts, asked = state
        if last == STOP:
            return (WHAT, facts, "") if word == WHAT else ("entity", (*facts, (word, "")), "")
        if last == "entity":
            return ("verb", (*facts[:-1], (facts[-1][0], word)), "")
        if last == DOES:
            return ("asked", facts, word)
        if last == "asked":
            return ("bare", facts, asked)
        return (self._follow[last][0], facts, asked)


@dataclass(frozen=True)
class Component:
    """One value of the latent: a kind of text and a topic, its prior weight and its chain."""

    kind: str
    topic: int
    weight: float
    chain: Chain


class _Step:
    """A state of a chain: the next words with their cumulative probabilities, and the steps that they lead to."""

    __slots__ = ("after", "state", "upto", "words")

    def __init__(self, chain: Chain, state: Hashable) -> None:
        choice = chain.options(state)
        self.state, self.upto, self.words = state, choice.upto, choice.words
        self.after: list[_Step | None] = [None] * len(choice.words)


class _Walk:
    """Draws documents of a chain with few states, as drawing word by word would, several times as fast."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._known: dict[Hashable, _Step] = {}

    def words(self, rng: random.Random) -> list[str]:
        """Return the words of one document (without `END`)."""
        words: list[str] = []
        draw, step = rng.random, self._step(self._chain.start)
        while True:
            place = bisect_right(step.upto, draw())
            word = step.words[place]
            if word == END:
                return words
            words.append(word)
            after = step.after[place]
            if after is None:
                after = step.after[place] = self._step(self._chain.advance(step.state, word))
            step = after

    def _step(self, state: Hashable) -> _Step:
        if state not in self._known:
            self._known[state] = _Step(self._chain, state)
        return self._known[state]


class Mixture:
    """Documents whose component is drawn first."""

    def __init__(self, components: Sequence[Component]) -> None:
        self.components = tuple(components)
        total = math.fsum(c.weight for c in components)
        self._log_priors = [math.log(c.weight / total) for c in components]
        self._prior = Choice({str(i): c.weight for i, c in enumerate(components)})
        self._walks = [_Walk(c.chain) if c.chain.few_states else None for c in components]

    def sample(self, rng: random.Random) -> tuple[Component, list[str]]:
        """Return a component and the words of one document (without `END`)."""
        number = int(self._prior.draw(rng))
        component, walk = self.components[number], self._walks[number]
        if walk is not None:
            return component, walk.words(rng)
        chain, state, words = component.chain, component.chain.start, []
        while (word := chain.options(state).draw(rng)) != END:
            words.append(word)
            state = chain.advance(state, word)
        return component, words

    def joint(self, words: Sequence[str]) -> list[float]:
        """Return log p(component, words) of each component; `words` may be a prefix, or end with `END`."""
        return [p + follow(c.chain, words)[0] for p, c in zip(self._log_priors, self.components, strict=True)]

    def log_prob(self, words: Sequence[str]) -> float:
        """Return log p(document) in nats, its end included; -inf for what is not in the language."""
        return _log_sum_exp(self.joint([*words, END]))

    def posterior(self, words: Sequence[str]) -> list[float]:
        """Return p(component | document)."""
        joint = self.joint([*words, END])
        total = _log_sum_exp(joint)
        return [math.exp(value - total) for value in joint]

    def next_word(self, prefix: Sequence[str]) -> dict[str, float]:
        """Return p(next word | prefix), `END` among the words."""
        joint = self.joint(prefix)
        total = _log_sum_exp(joint)
        parts = []
        for value, component in zip(joint, self.components, strict=True):
            if value > -math.inf:
                state = follow(component.chain, prefix)[1]
                parts.append((math.exp(value - total), component.chain.options(state).probability))
        return blend(parts).probability


def follow(chain: Chain, words: Sequence[str]) -> tuple[float, Hashable]:
    """Return log p(words | chain) in nats and the state after them; -inf where the chain cannot say them."""
    state, log_prob = chain.start, 0.0
    for word in words:
        probability = chain.options(state).probability.get(word, 0.0)
        if not probability:
            return -math.inf, state
        log_prob += math.log(probability)
        if word != END:
            state = chain.advance(state, word)
    return log_prob, state


def _log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    if top == -math.inf:
        return top
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
