"""Exact match and F1 of extracted answers, as SQuAD scores them, in [0, 1] (the official script prints percent)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import llmbench
from llmbench_plugins.metrics.text import segments, string_metric

_CJK_PUNCTUATION = "，。、！？；：（）「」『』《》〈〉【】"
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation + _CJK_PUNCTUATION)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def answer_words(text: str) -> list[str]:
    """Return the words of an answer as SQuAD compares them: lower case, no punctuation, no articles.

    CJK characters are words of their own; for other text this is the official normalisation (Rajpurkar et al. 2016).
    """
    return segments(_ARTICLE.sub(" ", text.lower().translate(_DROP_PUNCTUATION)))


def word_f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """Return the F1 of two bags of words in [0, 1]; without words on one side, whether both are empty."""
    if not prediction or not reference:
        return float(list(prediction) == list(reference))
    common = (Counter(prediction) & Counter(reference)).total()
    return 2 * common / (len(prediction) + len(reference))


def squad_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return mean exact match and mean F1, each against the best of an example's references."""
    return {name: sum(scores) / len(predictions) for name, scores in squad_each(predictions, references).items()}


def squad_each(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, list[float]]:
    """Return exact match and F1 of each example; a reference is a text or a list of acceptable ones."""
    found: dict[str, list[float]] = {"exact_match": [], "f1": []}
    for prediction, answers in zip(predictions, references, strict=True):
        words = answer_words(prediction)
        candidates = [answer_words(answer) for answer in ([answers] if isinstance(answers, str) else answers or [""])]
        found["exact_match"].append(float(words in candidates))
        found["f1"].append(max(word_f1(words, candidate) for candidate in candidates))
    return found


def _load(cache_dir: str) -> Any:
    return string_metric(cache_dir, "squad", "exact match and F1 of answers", squad_scores)


@llmbench.hookimpl
def llmbench_metrics() -> list[llmbench.MetricSpec]:
    """Return the SQuAD metric; predictions are str, references a str or a list of acceptable str."""
    return [
        llmbench.MetricSpec(
            name="squad",
            load=_load,
            values={"exact_match": "higher", "f1": "higher"},
            description="SQuAD exact match and F1 in [0, 1], best of several references",
            each=squad_each,
            bounds={"exact_match": (0, 1), "f1": (0, 1)},
            known=((["The cat", "a dog"], [["cat"], ["dog house"]], {"exact_match": 0.5, "f1": (1 + 2 / 3) / 2}),),
        )
    ]
