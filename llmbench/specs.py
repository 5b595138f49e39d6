"""What plugins return: light, typed, frozen descriptions. Nothing heavy is imported until it is needed.

Shapes: `B` batch, `L` tokens of the input, `T` tokens of the target, `C` classes, `V` vocabulary.

A *head* is the interface between models and tasks: a task says which head it needs, a model says for which
heads it can be built, so that neither names the other.

| head       | a feature (made by the task)               | a prediction (made by the engine)              |
|------------|--------------------------------------------|------------------------------------------------|
| `classify` | `ids`, `label` (int)                       | int, the class                                 |
| `span`     | `question`, `context` (ids), `start`, `end` | `(start, end)`                                |
| `generate` | `source`, `target` (ids)                   | list of ids, without special tokens            |
| `pretrain` | `ids`                                      | `{"nll": nats, "tokens": int, "masked": bool}` |

`start` and `end` are tokens of the context; both are inside the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

HEADS = ("classify", "span", "generate", "pretrain")

Example = Mapping[str, Any]
Feature = Mapping[str, Any]


# --- text to tokens -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens; every tokenizer has all of them."""

    pad: int = 0
    unk: int = 1
    bos: int = 2  # also the classification token of models that read a whole text
    eos: int = 3
    sep: int = 4
    mask: int = 5


class Tokenizer(Protocol):
    """What tasks and data sets may use of a tokenizer."""

    special: SpecialTokens
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special tokens."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and, for each, its (start, end) in characters of `text`."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; special tokens are left out."""


# --- batches --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CollateContext:
    """What a layout needs beside the features."""

    special: SpecialTokens
    seq_len: int  # longest input, special tokens included
    target_len: int  # longest target, end token included
    vocab_size: int
    train: bool  # False: make what `predict` needs (a prompt without its completion, say)
    seed: int = 0  # for layouts that draw at random (masking), together with the features' content


@dataclass(frozen=True)
class Batch:
    """Named arrays of one step, and what is in them. `tokens` counts what is not padding, in all arrays.

    The engine fills in what making the batch took: `fetch_s` for the features, `collate_s` for the arrays.
    """

    arrays: Mapping[str, Any]  # numpy arrays from a layout; what comes out of the engine's loader is the engine's
    examples: int
    tokens: int
    padding_tokens: int
    fetch_s: float = 0.0
    collate_s: float = 0.0


class Layout(Protocol):
    """How features of one head become the arrays that one model reads. `llmbench.layouts` has the usual ones."""

    def length(self, feature: Feature) -> int:
        """Return the tokens that `feature` takes; batches are made of similar lengths."""

    def collate(self, features: Sequence[Feature], ctx: CollateContext) -> Batch:
        """Return the padded batch. Deterministic in its arguments."""


# --- models ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildRequest:
    """What a model is built from. The random seed is set before `build` is called."""

    head: str
    size: str
    config: Mapping[str, Any]  # `ModelSpec.sizes[size]`
    vocab_size: int
    special: SpecialTokens
    seq_len: int
    target_len: int
    num_labels: int = 0  # classes, for `classify`
    weights: str | None = None  # hub name or local folder; None: random
    attention: str = "sdpa"


@dataclass(frozen=True)
class ModelSpec:
    """A model: its sizes, and how to build it for each head.

    `build(request)` returns what the engine drives. For the `torch` engine that is an `nn.Module` whose
    `forward(**arrays)` returns a dict: `loss` (scalar, when the arrays hold labels) and

    - `classify`: `logits` (B, C)
    - `span`: `start_logits` and `end_logits` (B, L), -inf where no answer may be
    - `generate`: `logits` (B, T, V); and the module has `generate(arrays, max_new_tokens) -> ids` (B, T), which
      holds the new tokens only, `eos` and then `pad` behind the end
    - `pretrain`: `nll` (B,) nats summed over the predicted tokens of each row, `tokens` (B,) how many those are,
      and further `nll_*` for other directions

    A module may define `load_pretrained(state) -> list of names taken`; without it, tensors of equal name and
    shape are taken from the pretraining checkpoint.

    `flops(request, shapes)` returns the matmul FLOPs of one forward pass over arrays of these shapes: 2 per
    multiply-add, padding included, attention in full (not halved for causality), elementwise work left out. A training
    step is 3 times that. For a generation, `shapes` hold the prompt's arrays and `new_ids` (B, T), the tokens made one
    at a time with states kept. It may return None where it does not know (`request.weights`, say).

    `cache_bytes(request, shapes, element_bytes)` returns the bytes of what generating `new_ids` of these shapes keeps
    from token to token (keys and values, states; not weights, and not what one pass frees), at its largest, padding
    included; an element has `element_bytes`, by the precision. None where it does not know, and without `new_ids`.
    """

    name: str
    sizes: Mapping[str, Mapping[str, Any]]
    layouts: Mapping[str, Layout]  # head -> layout; the keys are the heads that `build` knows
    build: Callable[[BuildRequest], Any]
    description: str = ""
    reference: str = ""  # what `base` follows: paper or model card
    engine: str = "torch"
    learning_rate: Mapping[str, float] = field(default_factory=dict)  # stage -> peak learning rate
    preload: tuple[str, ...] = ()  # library modules worth importing once for all cells
    masked: bool = False  # pretraining predicts masked tokens, not every next token
    max_len: Callable[[str], int | None] = lambda size: None  # longest input of a size, None: any
    flops: Callable[[BuildRequest, Mapping[str, tuple[int, ...]]], float | None] | None = None  # see above
    cache_bytes: Callable[[BuildRequest, Mapping[str, tuple[int, ...]], int], float | None] | None = None  # see above


# --- data -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataRequest:
    """Which data is wanted. `task` is the full spec, so that a loader knows which fields to produce."""

    task: TaskSpec
    argument: str = ""  # what followed the colon in the suite


class Oracle(Protocol):
    """A model that knows how the data was made. Scored on the same test split, by the same metrics."""

    kind: str  # "exact": provably nothing does better in expectation; "reference": a good answer, no bound

    def predict(self, examples: Sequence[Example]) -> list[Any]:
        """Return one decoded prediction per example (for pretraining `{"nll", "words", "tokens", "masked"}`)."""


@dataclass(frozen=True)
class Dataset:
    """A data set in memory. Examples hold the fields that `TaskSpec.fields` names.

    `info` may hold `labels` (list of str, in the order of the classes), `source_lang`, `target_lang` (ISO 639-1),
    and `notes` (list of str: what a reader must know, such as a test split that is really the official dev).
    """

    identity: str
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    info: Mapping[str, Any] = field(default_factory=dict)
    oracle: Oracle | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """A source of data sets, named in suites as `NAME` or `NAME:ARGUMENT`.

    `identify` is cheap and is called before the run: it returns `NAME[:SHORT]@FINGERPRINT`, where the
    fingerprint changes with the content, and never contains an absolute path. `load` reads everything and raises
    DataError (one line: file, line, what, what to write instead) on malformed or empty data.
    """

    name: str
    identify: Callable[[DataRequest], str]
    load: Callable[[DataRequest], Dataset]
    tasks: tuple[str, ...] | None = None  # names of the tasks it can serve; None: any
    description: str = ""
    validate: bool = False  # True: `load` is cheap and is called before the run, to refuse bad input


# --- tasks and metrics ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodeContext:
    """What a task needs to turn examples into features."""

    tokenizer: Tokenizer
    seq_len: int
    target_len: int
    info: Mapping[str, Any]  # of the data set
    train: bool


@dataclass(frozen=True)
class BaselineContext:
    """What a trivial baseline may look at: the training split, and the inputs of the test split."""

    dataset: Dataset
    test: Sequence[Example]  # the examples that are scored
    tokenizer: Tokenizer
    features: Sequence[Feature]  # of `test`, encoded
    seed: int = 0


@dataclass(frozen=True)
class TaskSpec:
    """A task: which head it needs, how its text becomes features and predictions become answers, how it is scored."""

    name: str
    head: str
    fields: tuple[str, ...]  # what each example holds
    texts: Callable[[Example], Sequence[str]]  # all text of an example, for the tokenizer
    encode: Callable[[Sequence[Example], EncodeContext], list[Feature]]  # one feature per example, in order
    decode: Callable[[Any, Example, Feature, Tokenizer], Any]  # engine's prediction -> what metrics compare
    reference: Callable[[Example], Any]
    metrics: tuple[str, ...]  # names of metric plugins
    primary: str  # the value that stands for quality, such as "accuracy"
    baselines: Mapping[str, Callable[[BaselineContext], list[Any]]] = field(default_factory=dict)
    num_labels: Callable[[Mapping[str, Any]], int] = lambda info: 0  # from the data set's info
    description: str = ""
    stages: tuple[str, ...] = ("finetune", "eval")  # ("pretrain",) for the pretraining task


@dataclass(frozen=True)
class MetricSpec:
    """A metric. `load(cache_dir)` returns an `evaluate.Metric` whose `compute` takes predictions and references."""

    name: str
    load: Callable[[str], Any]
    values: Mapping[str, str]  # name of each value it returns -> "higher" or "lower" (which is better)
    options: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda info: {}  # data set's info -> compute() keywords
    description: str = ""


# --- precisions -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PrecisionSpec:
    """A numeric setting, in names of torch dtypes so that nothing is imported."""

    name: str
    parameters: str = "float32"
    autocast: str | None = None  # dtype of the autocast region, None: no autocast
    grad_scaling: bool = False
    matmul: str = "ieee"  # "ieee" or "tf32", for float32 matmuls
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")
    description: str = ""

    @property
    def element_bytes(self) -> int:
        """Return the bytes of an element that a layer computes: the autocast type's, else the parameters'."""
        bits = re.search(r"\d+", self.autocast or self.parameters)
        return int(bits.group()) // 8 if bits else 4
