"""From a job to features and batches: data set, tokenizer, encoding (cached by content), length bucketing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llmbench.contract.cell import Cell, content_id
from llmbench.contract.errors import DataError, Unsupported
from llmbench.contract.job import Job
from llmbench.contract.specs import DataRequest, Dataset, EncodeContext, Example, Feature, Layout, TaskSpec
from llmbench.plugins.registry import Registry
from llmbench.worker.data import feature_cache, pretrained_tokenizer
from llmbench.worker.data import tokenizer as tokenizer_module
from llmbench.worker.data.feature_cache import SplitFeatures
from llmbench.worker.data.tokenizer import BpeTokenizer

#: Batches of similar lengths are drawn from pools of this many batches: short enough to stay random.
POOL_BATCHES = 50
ENCODING_VERSION = 3  # raise when encode's output changes


@dataclass(frozen=True)
class CellData:
    """The features on which a cell is trained and scored. The data set is read only where its text is needed (`load`).

    Features are made one by one, when a batch needs them, unless the cell is `pretokenized`.
    """

    task: TaskSpec
    tokenizer: BpeTokenizer
    info: Mapping[str, object]  # of the data set
    train: Sequence[Feature]
    test: Sequence[Feature]
    train_examples: int  # of which `train` is made; pretraining cuts each into windows
    load: Callable[[], Dataset]
    test_limit: int | None

    @property
    def dataset(self) -> Dataset:
        """The data set, with its text and its oracle."""
        return self.load()

    @property
    def test_examples(self) -> Sequence[Example]:
        """The examples of which `test` is made."""
        return self.dataset.test[: self.test_limit]


class OnTheFly(Sequence[Feature]):
    """The features of examples, made one by one when a batch needs them."""

    def __init__(self, task: TaskSpec, examples: Sequence[Example], ctx: EncodeContext) -> None:
        self.task, self.examples, self.ctx = task, examples, ctx

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        features = self.task.encode([self.examples[int(index)]], self.ctx)
        if len(features) != 1:
            raise Unsupported(f"task {self.task.name} makes features of several examples: it needs pretokenized: true")
        return features[0]


def load_dataset(job: Job, identity: str, registry: Registry) -> Dataset:
    """Load the data set that is called `identity`."""
    source = job.sources[identity]
    spec = registry.get("dataset", source.scheme)
    return spec.load(DataRequest(registry.get("task", source.task), source.argument))


def load_cell_data(job: Job, registry: Registry) -> CellData:
    """Return the data of the job's cell, cut and encoded."""
    cell = job.cell
    task = registry.get("task", cell.task)
    load = functools.cache(functools.partial(load_dataset, job, cell.dataset, registry))
    tokenizer = load_tokenizer(job, registry)
    train = load_features(job, task, load, tokenizer, train=True)
    test = load_features(job, task, load, tokenizer, train=False)
    return CellData(
        task, tokenizer, train.info, train.features, test.features, train.examples, load, cell.test_examples
    )


def load_tokenizer(job: Job, registry: Registry) -> BpeTokenizer:
    """Return the tokenizer of the pretrained model that the cell begins with, where there is one, else the suite's.

    The suite's is trained on the union of the training texts if no cell has done so yet.
    """
    cell = job.cell
    if cell.tokenizer is not None and cell.tokenizer == cell.begins_with:
        return pretrained_tokenizer.load(job.weights[cell.tokenizer])
    path = Path(job.run_dir) / "cache" / f"tokenizer-{content_id([cell.tokenizer, cell.vocab_size])}.json"
    if path.exists():
        return tokenizer_module.load(path)
    tokenizer = tokenizer_module.train(training_texts(job, registry), cell.vocab_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(path)
    return tokenizer


def training_texts(job: Job, registry: Registry) -> Iterator[str]:
    """Yield all training text of the suite, data set by data set."""
    for identity in sorted(job.corpora):
        task = registry.get("task", job.sources[identity].task)
        yield from chain.from_iterable(task.texts(example) for example in load_dataset(job, identity, registry).train)


def load_features(
    job: Job, task: TaskSpec, load: Callable[[], Dataset], tokenizer: BpeTokenizer, *, train: bool
) -> SplitFeatures:
    """Return the features of a split, from the run's cache where an earlier process has made them."""
    cell = job.cell
    limit = cell.train_examples if train else cell.test_examples
    key = features_key(cell, train=train)
    path = Path(job.run_dir) / "cache" / f"features-{content_id(key)}.json"
    if cell.pretokenized and (split := feature_cache.read(path, key)) is not None:
        return split
    dataset = load()
    examples = (dataset.train if train else dataset.test)[:limit]
    if not examples:
        raise DataError(f"{cell.dataset}: the {'train' if train else 'test'} split is empty")
    ctx = EncodeContext(tokenizer, cell.seq_len, cell.target_len or cell.seq_len, dataset.info, train)
    if not cell.pretokenized:
        return SplitFeatures(dataset.info, OnTheFly(task, examples, ctx), len(examples))
    features = task.encode(examples, ctx)
    if not features:
        raise DataError(f"{cell.dataset}: nothing is left of its {len(examples)} examples after encoding")
    split = SplitFeatures(dict(dataset.info), features, len(examples))
    feature_cache.write(path, key, split)
    return split


def features_key(cell: Cell, *, train: bool) -> list[object]:
    """Return the key of a split's features: all that they are made of."""
    limit = cell.train_examples if train else cell.test_examples
    target_len = cell.target_len or cell.seq_len
    return [ENCODING_VERSION, cell.dataset, cell.task, cell.tokenizer, cell.seq_len, target_len, train, limit]


def training_order(features: Sequence[Feature], layout: Layout, cell: Cell, steps: int) -> list[list[int]]:
    """Return `steps` batches of indices from shuffled epochs; with bucketing, rows of a batch have similar lengths.

    The last, smaller batch of an epoch is left out (unless it is the only one), so that all steps do equal work.
    """
    rng = np.random.default_rng([cell.seed, len(features)])
    lengths = _lengths(features, layout, cell)
    batches: list[list[int]] = []
    size = min(cell.batch_size, len(features))
    while len(batches) < steps:
        order = rng.permutation(len(features))
        epoch: list[list[int]] = []
        for first in range(0, len(order), POOL_BATCHES * size):
            pool = order[first : first + POOL_BATCHES * size]
            if cell.bucketing:
                pool = pool[np.argsort(lengths[pool], kind="stable")]
            epoch.extend(pool[i : i + size].tolist() for i in range(0, len(pool) - size + 1, size))
        batches.extend(epoch[i] for i in rng.permutation(len(epoch)))
    return batches[:steps]


def scoring_order(features: Sequence[Feature], layout: Layout, cell: Cell) -> list[list[int]]:
    """Return all indices once, in batches of similar lengths, longest first: a lack of memory shows at once."""
    lengths = _lengths(features, layout, cell)
    order = np.argsort(-lengths, kind="stable") if cell.bucketing else np.arange(len(features))
    return [order[i : i + cell.batch_size].tolist() for i in range(0, len(order), cell.batch_size)]


def _lengths(features: Sequence[Feature], layout: Layout, cell: Cell) -> np.ndarray:
    """Return the length of every feature; zeros without bucketing, where nobody needs it."""
    return np.array([layout.length(f) for f in features]) if cell.bucketing else np.zeros(len(features))


def as_python(value: Any) -> Any:
    """Return numpy scalars as Python numbers, containers included, for JSON."""
    if isinstance(value, dict):
        return {str(k): as_python(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_python(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
