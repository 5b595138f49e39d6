"""Scoring: the model, the oracle and the trivial baselines on the same examples, by the same metrics.

The scores of the oracle and of the baselines do not depend on the model, so a run computes them once per test split.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmbench.contract.cell import content_id
from llmbench.contract.errors import needs_packages
from llmbench.contract.files import write_atomic
from llmbench.contract.job import Job
from llmbench.contract.specs import BaselineContext, TaskSpec
from llmbench.plugins.registry import Registry
from llmbench.worker.data.features import CellData, as_python, features_key

if TYPE_CHECKING:
    from llmbench.contract.record import Oracle, OracleKind, Quality, Scores

REFERENCES_VERSION = 1  # raise when the scores of oracles or baselines change


def check_metrics(job: Job, task: TaskSpec, registry: Registry) -> None:
    """Raise MissingPackage where a metric of the task needs what is not installed, before anything is measured."""
    cache = _cache(job)
    for spec in registry.metrics(task):
        with needs_packages(f"{task.name} is scored: the metric {spec.name}"):
            spec.load(str(cache))


def _cache(job: Job) -> Path:
    cache = Path(job.run_dir) / "cache" / "metrics"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


class Scorer:
    """The metrics of one task over one data set, loaded once."""

    def __init__(self, job: Job, data: CellData, registry: Registry) -> None:
        self.data, self.seed = data, job.cell.seed
        specs = registry.metrics(data.task)
        metrics = [[spec.name, sorted(spec.values)] for spec in specs]
        self.split = content_id([REFERENCES_VERSION, metrics, job.cell.seed, *features_key(job.cell, train=False)])
        self.cache = cache = _cache(job)
        self.each = [spec.each for spec in specs if spec.each is not None]
        self.metrics = [(spec.load(str(cache)), spec.options(data.info)) for spec in specs]
        self.direction = {name: way for spec in specs for name, way in spec.values.items()}
        references = [data.task.reference(example) for example in data.test_examples]
        # Pretraining cuts documents into windows: its references say nothing, one per prediction.
        self.references = references

    def score(self, predictions: Sequence[Any]) -> Scores:
        """Return all values of all metrics for decoded predictions."""
        references = self.references
        if len(references) != len(predictions):
            references = [None] * len(predictions)
        values: Scores = {}
        for metric, options in self.metrics:
            result = metric.compute(predictions=list(predictions), references=references, **options)
            values.update({k: v for k, v in (result or {}).items() if k in self.direction})
        return as_python(values)

    def scores(self, predictions: Sequence[Any]) -> dict[str, list[float]]:
        """Return the score of each example, of the metrics that are means of such scores."""
        scores: dict[str, list[float]] = {}
        if len(self.references) == len(predictions):
            for each in self.each:
                scores.update(each(list(predictions), self.references))
        return as_python(scores)

    def model(self, raw: Sequence[Any]) -> Quality:
        """Return the record's `quality` for the engine's raw predictions."""
        data = self.data
        examples: Sequence[Any] = data.test_examples
        if len(examples) != len(data.test):
            examples = [{}] * len(data.test)
        decoded = [
            data.task.decode(prediction, example, feature, data.tokenizer)
            for prediction, example, feature in zip(raw, examples, data.test, strict=True)
        ]
        values = self.score(decoded)
        direction = {name: self.direction[name] for name in values}
        return {
            "values": values,
            "examples": len(decoded),
            "primary": data.task.primary,
            "direction": direction,
            "each": self.scores(decoded),
        }

    def oracle(self) -> Oracle | None:
        """Return the scores of the oracle, None where the data set has none."""
        return self._once("oracle", self._oracle)

    def baselines(self) -> dict[str, Scores]:
        """Return the scores of each trivial baseline."""
        return self._once("baselines", self._baselines)

    def _once(self, what: str, score: Callable[[], Any]) -> Any:
        """Return `score()`, from the run's cache where another cell has scored the same split before."""
        path = self.cache / f"{what}-{self.split}.json"
        with contextlib.suppress(FileNotFoundError, ValueError):  # a damaged file counts as missing
            return json.loads(path.read_text(encoding="utf-8"))
        value = score()
        write_atomic(path, json.dumps(value), sync=False)
        return value

    def _oracle(self) -> Oracle | None:
        oracle = self.data.dataset.oracle
        if oracle is None:
            return None
        predictions = oracle.predict(self.data.test_examples)
        kind = cast("OracleKind", oracle.kind)
        return {"kind": kind, "values": self.score(predictions), "each": self.scores(predictions)}

    def _baselines(self) -> dict[str, Scores]:
        data = self.data
        ctx = BaselineContext(data.dataset, data.test_examples, data.tokenizer, data.test, self.seed)
        return {name: self.score(predict(ctx)) for name, predict in data.task.baselines.items()}
