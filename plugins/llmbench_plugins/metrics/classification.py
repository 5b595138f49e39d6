"""Accuracy and F1 of predicted classes, both in [0, 1].

Predictions and references are class indices; an empty list of predictions gives {}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.metrics._installed import check_installed


def class_metric(cache_dir: str, name: str, description: str, score: Callable[..., dict[str, float]]) -> Any:
    """Return an `evaluate.Metric` of ints whose values are `score(predictions, references, **options)`."""
    check_installed("evaluate")  # which brings datasets
    import datasets
    import evaluate

    class ClassMetric(evaluate.Metric):
        def _info(self) -> Any:
            features = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            return evaluate.MetricInfo(description=description, citation="", features=datasets.Features(features))

        def _compute(self, predictions: Sequence[int], references: Sequence[int], **options: Any) -> dict[str, float]:
            return score(list(predictions), list(references), **options) if predictions else {}

    return ClassMetric(config_name=name, cache_dir=cache_dir, keep_in_memory=True)


def accuracy_score(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    """Return the share of predictions that equal their reference."""
    return {"accuracy": sum(p == r for p, r in zip(predictions, references, strict=True)) / len(predictions)}


def right(predictions: Sequence[int], references: Sequence[int]) -> dict[str, list[float]]:
    """Return 1 for each right answer and 0 for each wrong one."""
    return {"accuracy": [int(p == r) for p, r in zip(predictions, references, strict=True)]}


def f1_score(predictions: Sequence[int], references: Sequence[int], positive: int | None = None) -> dict[str, float]:
    """Return the F1 of the class `positive`; None: the mean over the classes that occur (macro F1).

    A class that is neither predicted nor present scores 0, so a positive class without examples does too.
    """
    from sklearn import metrics

    labels = None if positive is None else [positive]
    value = metrics.f1_score(references, predictions, labels=labels, average="macro", zero_division=0)
    return {"f1": float(value)}


def _f1_options(info: Mapping[str, Any]) -> dict[str, Any]:
    """With two labels the second one is the positive class: spam of ("ham", "spam")."""
    return {"positive": 1} if len(info.get("labels", ())) == 2 else {}


def _load_accuracy(cache_dir: str) -> Any:
    return class_metric(cache_dir, "accuracy", "share of right answers", accuracy_score)


def _load_f1(cache_dir: str) -> Any:
    check_installed("sklearn")
    return class_metric(cache_dir, "f1", "F1 of the positive class, or macro F1", f1_score)


@llmbench.hookimpl
def llmbench_metrics() -> list[llmbench.MetricSpec]:
    """Return accuracy and F1."""
    return [
        llmbench.MetricSpec(
            name="accuracy",
            load=_load_accuracy,
            values={"accuracy": "higher"},
            description="in [0, 1]",
            each=right,
            bounds={"accuracy": (0, 1)},
            known=(([1, 0, 2, 1], [1, 1, 2, 0], {"accuracy": 0.5}),),
        ),
        llmbench.MetricSpec(
            name="f1",
            load=_load_f1,
            values={"f1": "higher"},
            options=_f1_options,
            preload=("evaluate", "datasets", "sklearn.metrics"),
            description="in [0, 1]; of the second class where there are two, else macro",
            bounds={"f1": (0, 1)},
            known=(([1, 0, 1, 1], [1, 1, 0, 1], {"f1": 1 / 3}),),  # of class 0: 0, of class 1: 2/3
        ),
    ]
