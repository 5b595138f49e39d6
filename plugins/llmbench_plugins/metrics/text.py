"""ROUGE, BLEU and chrF of generated text, by the reference implementations (rouge-score, sacrebleu).

Scales: ROUGE is in [0, 1], BLEU and chrF are in [0, 100] as sacrebleu prints them. Each metric takes predictions
(str) and references (a str, or a list of acceptable str), and returns {} for an empty list of predictions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import llmbench
from llmbench_plugins.metrics._installed import check_installed

#: Languages written without spaces between words.
UNSPACED_LANGS = ("zh", "ja")
#: Kana, ideographs (with extension A, compatibility and the supplementary planes).
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CJK_CHARACTER = re.compile(f"[{_CJK}]")
_SEGMENT = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")

Score = Callable[..., dict[str, float]]


def segment_spans(text: str) -> list[tuple[int, int]]:
    """Return (start, end) in characters of each word of `text`; a CJK character is a word of its own."""
    return [match.span() for match in _SEGMENT.finditer(text)]


def segments(text: str) -> list[str]:
    """Return the words of `text`; a CJK character is a word of its own, everything else is cut at white space."""
    return _SEGMENT.findall(text)


def mostly_cjk(texts: Iterable[str]) -> bool:
    """Return whether more than half of the characters of `texts`, white space aside, are CJK."""
    characters = cjk = 0
    for text in texts:
        characters += sum(map(len, text.split()))
        cjk += len(_CJK_CHARACTER.findall(text))
    return 2 * cjk > characters


def string_metric(cache_dir: str, name: str, description: str, score: Score) -> Any:
    """Return an `evaluate.Metric` of strings whose values are `score(predictions, references, **options)`.

    `score` gets references as a list of lists of str, each with at least one; it is not called for empty input.
    """
    check_installed("evaluate")  # which brings datasets
    import datasets
    import evaluate

    text = datasets.Value("string")

    class StringMetric(evaluate.Metric):
        def _info(self) -> Any:
            features = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
            return evaluate.MetricInfo(description=description, citation="", features=features)

        def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
            """Add predictions (str) and references (str or list of str)."""
            lists = [[r] if isinstance(r, str) else (list(r) or [""]) for r in references]
            evaluate.Metric.add_batch(self, predictions=predictions, references=lists, **kwargs)

        def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
            """Add one prediction (str) and its reference (str or list of str)."""
            self.add_batch(predictions=[prediction], references=[reference], **kwargs)

        def _compute(self, predictions: Sequence[str], references: Sequence[Any], **options: Any) -> dict[str, float]:
            return score(list(predictions), [list(r) for r in references], **options) if predictions else {}

    return StringMetric(config_name=name, cache_dir=cache_dir, keep_in_memory=True)


class CharacterTokenizer:
    """Tokens for ROUGE on CJK text: its characters, and other words as rouge-score cuts them."""

    def tokenize(self, text: str) -> list[str]:
        """Return the lower-case tokens of `text`, without punctuation."""
        return re.findall(rf"[{_CJK}]|[a-z0-9]+", text.lower())


def rouge_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], characters: bool | None = None
) -> dict[str, float]:
    """Return mean F of ROUGE-1, -2 and -L (Porter stemmer), each against the best of an example's references.

    `characters` compares CJK characters, which rouge-score's own tokenizer drops; None: where the references are
    mostly CJK.
    """
    from rouge_score import rouge_scorer

    if characters is None:
        characters = mostly_cjk(text for texts in references for text in texts)
    tokenizer = CharacterTokenizer() if characters else None
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True, tokenizer=tokenizer)
    totals = {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}
    for prediction, targets in zip(predictions, references, strict=True):
        for name, value in scorer.score_multi(targets, prediction).items():
            totals[name] += value.fmeasure
    return {name: total / len(predictions) for name, total in totals.items()}


def _streams(references: Sequence[Sequence[str]]) -> list[list[Any]]:
    """Return references as sacrebleu wants them: one list per place, None where an example has fewer.

    sacrebleu refuses a sentence without any reference but an empty one; a blank stands for it and has no tokens.
    """
    filled = [[text or " " for text in texts] for texts in references]
    return [list(stream) for stream in zip_longest(*filled)]


def bleu_score(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenize: str = "13a"
) -> dict[str, float]:
    """Return corpus BLEU in [0, 100]; `tokenize` is the name of a sacrebleu tokenizer."""
    import sacrebleu

    result = sacrebleu.corpus_bleu(predictions, _streams(references), tokenize=tokenize, force=True)
    return {"bleu": min(100.0, float(result.score))}  # rounding may exceed 100


def chrf_score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return corpus chrF2 (character 6-grams) in [0, 100]."""
    import sacrebleu

    return {"chrf": float(sacrebleu.corpus_chrf(predictions, _streams(references)).score)}


def _rouge_options(info: Mapping[str, Any]) -> dict[str, Any]:
    lang = info.get("target_lang") or info.get("source_lang")
    return {"characters": lang in UNSPACED_LANGS} if lang else {}


def _bleu_options(info: Mapping[str, Any]) -> dict[str, Any]:
    tokenize = {"zh": "zh", "ja": "char"}.get(info.get("target_lang", ""))
    return {"tokenize": tokenize} if tokenize else {}


SACREBLEU = ("evaluate", "datasets", "sacrebleu")


def _load_rouge(cache_dir: str) -> Any:
    check_installed("rouge_score")
    return string_metric(cache_dir, "rouge", "ROUGE F of words, word pairs and longest subsequence", rouge_scores)


def _load_bleu(cache_dir: str) -> Any:
    check_installed("sacrebleu")
    return string_metric(cache_dir, "bleu", "corpus BLEU by sacrebleu", bleu_score)


def _load_chrf(cache_dir: str) -> Any:
    check_installed("sacrebleu")
    return string_metric(cache_dir, "chrf", "corpus chrF2 by sacrebleu", chrf_score)


@llmbench.hookimpl
def llmbench_metrics() -> list[llmbench.MetricSpec]:
    """Return ROUGE, BLEU and chrF."""
    return [
        llmbench.MetricSpec(
            name="rouge",
            load=_load_rouge,
            values={"rouge1": "higher", "rouge2": "higher", "rougeL": "higher"},
            options=_rouge_options,
            preload=("evaluate", "datasets", "rouge_score.rouge_scorer"),
            description="F of ROUGE-1, -2 and -L in [0, 1], best of several references",
            bounds={"rouge1": (0, 1), "rouge2": (0, 1), "rougeL": (0, 1)},
            known=((["a b c d"], [["a c b d"]], {"rouge1": 1.0, "rouge2": 0.0, "rougeL": 0.75}),),
        ),
        llmbench.MetricSpec(
            name="bleu",
            load=_load_bleu,
            values={"bleu": "higher"},
            options=_bleu_options,
            preload=SACREBLEU,
            description="corpus BLEU in [0, 100]",
            bounds={"bleu": (0, 100)},
            known=((["a b c d e"], [["a b c d e"]], {"bleu": 100.0}), (["x y"], [["a b"]], {"bleu": 0.0})),
        ),
        llmbench.MetricSpec(
            name="chrf",
            load=_load_chrf,
            values={"chrf": "higher"},
            description="corpus chrF2 in [0, 100]",
            preload=SACREBLEU,
            bounds={"chrf": (0, 100)},
            known=((["a b c d e"], [["a b c d e"]], {"chrf": 100.0}), (["xyz"], [["abc"]], {"chrf": 0.0})),
        ),
    ]
