"""From a job to features and batches: data set, tokenizer, encoding (cached by content), length bucketing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llmbench.errors import DataError
from llmbench.plugins import Registry
from llmbench.schema import Cell, Job, content_id
from llmbench.specs import DataRequest, Dataset, EncodeContext, Example, Feature, Layout, TaskSpec
from llmbench.worker import tokenizer as tokenizer_module
from llmbench.worker.tokenizer import BpeTokenizer

#: Batches of similar lengths are drawn from pools of this many batches: short enough to stay random.
POOL_BATCHES = 50
ENCODING_VERSION = 1  # raise when encode's output changes


@dataclass(frozen=True)
class CellData:
    """What a cell trains and is scored on."""

    dataset: Dataset
    task: TaskSpec
    tokenizer: BpeTokenizer
    train: Sequence[Feature]
    test: Sequence[Feature]
    test_examples: Sequence[Example]


def load_dataset(job: Job, identity: str, registry: Registry) -> Dataset:
    """Load the data set behind `identity`."""
    source = job.sources[identity]
    spec = registry.get("dataset", source.scheme)
    return spec.load(DataRequest(registry.get("task", source.task), source.argument))


def load_cell_data(job: Job, registry: Registry) -> CellData:
    """Load, cut and encode the data of the job's cell."""
    cell = job.cell
    task = registry.get("task", cell.task)
    dataset = load_dataset(job, cell.dataset, registry)
    tokenizer = load_tokenizer(job, registry)
    examples = {"train": dataset.train[: cell.train_examples], "test": dataset.test[: cell.test_examples]}
    for split, rows in examples.items():
        if not rows:
            raise DataError(f"{cell.dataset}: the {split} split is empty")
    train = encoded(job, task, dataset, tokenizer, examples["train"], train=True)
    test = encoded(job, task, dataset, tokenizer, examples["test"], train=False)
    return CellData(dataset, task, tokenizer, train, test, examples["test"])


def load_tokenizer(job: Job, registry: Registry) -> BpeTokenizer:
    """Return the suite's tokenizer; train it on the union of the training texts if no cell has done so yet."""
    cell = job.cell
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


def encoded(
    job: Job, task: TaskSpec, dataset: Dataset, tokenizer: BpeTokenizer, examples: Sequence[Example], *, train: bool
) -> list[Feature]:
    """Return the features of `examples`, from the run's cache where they were made before."""
    cell = job.cell
    target_len = cell.target_len or cell.seq_len
    key = [ENCODING_VERSION, cell.dataset, cell.task, cell.tokenizer, cell.seq_len, target_len, train, len(examples)]
    path = Path(job.run_dir) / "cache" / f"features-{content_id(key)}.pickle"
    if path.exists():
        return pickle.loads(path.read_bytes())
    ctx = EncodeContext(tokenizer, cell.seq_len, target_len, dataset.info, train)
    features = task.encode(examples, ctx)
    if not features:
        raise DataError(f"{cell.dataset}: nothing is left of its {len(examples)} examples after encoding")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(pickle.dumps(features, protocol=pickle.HIGHEST_PROTOCOL))
    temporary.replace(path)
    return features


def training_order(features: Sequence[Feature], layout: Layout, cell: Cell, steps: int) -> list[list[int]]:
    """Return `steps` batches of indices: shuffled epochs, lengths bucketed within pools, order of batches shuffled.

    The last, smaller batch of an epoch is left out (unless it is the only one), so that all steps do equal work.
    """
    rng = np.random.default_rng([cell.seed, len(features)])
    lengths = np.array([layout.length(f) for f in features])
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
    lengths = np.array([layout.length(f) for f in features])
    order = np.argsort(-lengths, kind="stable") if cell.bucketing else np.arange(len(features))
    return [order[i : i + cell.batch_size].tolist() for i in range(0, len(order), cell.batch_size)]


def as_python(value: Any) -> Any:
    """Return numpy scalars as Python numbers, containers included, for JSON."""
    if isinstance(value, dict):
        return {str(k): as_python(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_python(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
