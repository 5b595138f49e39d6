"""Perplexity per word, so that models with different tokenizers compare; per masked token for masked models.

A prediction is `{"nll", "words", "tokens", "masked"}` and may hold `nll_backward`: nats summed over one window, and
how many words and predicted tokens it holds. References are not used and may be None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.metrics._installed import check_installed


def _exp_ratio(predictions: Sequence[Mapping[str, Any]], nll: str, count: str) -> float | None:
    """Return exp(sum of `nll` / sum of `count`); None where that is not a finite number."""
    total = sum(p[count] for p in predictions)
    if not total:
        return None
    ratio = math.fsum(p[nll] for p in predictions) / total
    return math.exp(ratio) if ratio < math.log(1e300) else None


def perplexities(predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the perplexities that `predictions` allow.

    `perplexity` (per word) and `perplexity_backward` come from windows that are not masked, `masked_perplexity` (per
    masked token) from those that are. A value is left out where it is unknown or, for a diverged model, not finite.
    """
    causal = [p for p in predictions if not p["masked"]]
    masked = [p for p in predictions if p["masked"]]
    backward = [p for p in causal if p.get("nll_backward") is not None]
    values = {
        "perplexity": _exp_ratio(causal, "nll", "words"),
        "perplexity_backward": _exp_ratio(backward, "nll_backward", "words"),
        "masked_perplexity": _exp_ratio(masked, "nll", "tokens"),
    }
    return {name: value for name, value in values.items() if value is not None}


def _load(cache_dir: str) -> Any:
    check_installed("evaluate")  # which brings datasets
    import datasets
    import evaluate

    kinds = {"nll": "float64", "words": "float64", "tokens": "float64", "masked": "bool", "nll_backward": "float64"}

    class Perplexity(evaluate.Metric):
        def _info(self) -> Any:
            prediction = {name: datasets.Value(kind) for name, kind in kinds.items()}
            features = datasets.Features({"predictions": prediction, "references": datasets.Value("null")})
            return evaluate.MetricInfo(description="perplexity of windows", citation="", features=features)

        def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
            """Add predictions (dicts); references are ignored."""
            rows = [{name: p.get(name) for name in kinds} for p in predictions]
            evaluate.Metric.add_batch(self, predictions=rows, references=[None] * len(rows), **kwargs)

        def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
            """Add one prediction (dict); the reference is ignored."""
            self.add_batch(predictions=[prediction], **kwargs)

        def _compute(self, predictions: Sequence[Mapping[str, Any]], references: Any) -> dict[str, float]:
            return perplexities(predictions)

    return Perplexity(cache_dir=cache_dir, keep_in_memory=True)


@llmbench.hookimpl
def llmbench_metrics() -> list[llmbench.MetricSpec]:
    """Return the perplexity metric."""
    values = {"perplexity": "lower", "masked_perplexity": "lower", "perplexity_backward": "lower"}
    description = "exp of nats per word (per masked token for masked models)"
    window = {"nll": 2 * math.log(8), "words": 1, "tokens": 2, "masked": False}
    spec = llmbench.MetricSpec(
        name="perplexity",
        load=_load,
        values=values,
        description=description,
        bounds=dict.fromkeys(values, (1, None)),
        known=(
            ([window, window], [None, None], {"perplexity": 64.0}),
            ([{**window, "masked": True}], [None], {"masked_perplexity": 8.0}),
        ),
    )
    return [spec]
