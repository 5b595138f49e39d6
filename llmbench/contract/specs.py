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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llmbench.contract.record import Ceilings, Function, JsonObject, Measurements, Record

HEADS = ("classify", "span", "generate", "pretrain")

Example = Mapping[str, Any]  # of a data set: its fields, as the task names them
Feature = Mapping[str, Any]  # of an encoded example: what a layout collates
Info = Mapping[str, Any]  # what a data set says of itself, such as its labels
Config = Mapping[str, Any]  # of a size of a model: what its plugin's `build` reads


# --- text to tokens -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens; every tokenizer has all of them."""

    pad: int = 0  # fills rows up
    unk: int = 1  # what the tokenizer does not know
    bos: int = 2  # also the classification token of models that read a whole text
    eos: int = 3  # end of a text
    sep: int = 4  # between two texts
    mask: int = 5  # stands for a token that is to be predicted


class Tokenizer(Protocol):
    """What tasks and data sets may use of a tokenizer."""

    special: SpecialTokens  # ids of the special tokens
    vocab_size: int  # ids there are, special ones included

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

    special: SpecialTokens  # ids of the special tokens
    seq_len: int  # longest input, special tokens included
    target_len: int  # longest target, end token included
    vocab_size: int  # of the tokenizer
    train: bool  # False: make what `predict` needs (a prompt without its completion, say)
    seed: int = 0  # for layouts that draw at random (masking), together with the features' content


@dataclass(frozen=True)
class Batch:
    """Named arrays of one step, and what is in them. `tokens` counts what is not padding, in all arrays.

    The engine fills in what making the batch took: `fetch_s` for the features, `collate_s` for the arrays.
    """

    arrays: Mapping[str, Any]  # numpy arrays from a layout; what comes out of the engine's loader is the engine's
    examples: int  # rows
    tokens: int
    padding_tokens: int  # positions that are padding
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

    head: str  # which of HEADS is wanted
    size: str  # as in the suite: `tiny`, `tiny*2` ...
    config: Config  # of the size: `ModelSpec.sizes`, with what the suite sets or scales
    vocab_size: int  # rows of the embedding
    special: SpecialTokens  # ids of the special tokens
    seq_len: int  # longest input, special tokens included
    target_len: int  # longest target, end token included
    num_labels: int = 0  # classes, for `classify`
    weights: str | None = None  # folder of a pretrained model, as transformers saves them; None: random
    attention: str = "sdpa"  # implementation: `sdpa` or `eager`
    labelled_logits: bool = False  # project only positions that have a label
    kv_cache: bool = True  # False: generation computes everything again for every token
    lora: int | None = None  # rank of low-rank adapters that are trained instead of the weights; None: train all


#: FLOPs of a training step over those of its forward pass: both gradients take twice as many (PaLM, appendix B).
BACKWARD_FACTOR = 3
#: Peak learning rate where neither the suite nor the model (`ModelSpec.learning_rate`) has one.
DEFAULT_LEARNING_RATE = 1e-3


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

    `of_weights(folder)` makes this a kind of models that suites name `NAME:NAME_OR_PATH`: it returns the spec of the
    pretrained model in the folder, with one size. It reads the configuration only; cells name the model
    `NAME:FOLDER@FINGERPRINT`, and `request.weights` is the folder.

    `cache_bytes(request, shapes, element_bytes)` returns the bytes of what generating `new_ids` of these shapes keeps
    from token to token (keys and values, states; not weights, and not what one pass frees), at its largest, padding
    included; an element has `element_bytes`, by the precision. None where it does not know, and without `new_ids`.

    `parameters(request)` returns how many parameters the module has, those that are shared counted once.

    `wider(config, x)` returns the configuration with its widths times `x`, as near as it can be built. With it (and
    with `parameters`) the model has sizes such as `tiny*2`: twice the parameters, by width.
    """

    name: str  # what suites call it
    sizes: Mapping[str, Config]  # name -> configuration, which `build` gets
    layouts: Mapping[str, Layout]  # head -> layout; the keys are the heads that `build` knows
    build: Callable[[BuildRequest], Any]
    description: str = ""  # one line for `plugins list`
    reference: str = ""  # what `base` follows: paper or model card
    engine: str = "torch"  # name of the engine that drives the module
    learning_rate: Mapping[str, float] = field(default_factory=dict)  # stage -> peak learning rate
    preload: tuple[str, ...] = ()  # library modules worth importing once for all cells
    options: tuple[str, ...] = ()  # of a request: which of `labelled_logits`, `kv_cache` (False) and `lora` it obeys
    masked: bool = False  # pretraining predicts masked tokens, not every next token
    max_len: Callable[[str], int | None] = lambda size: None  # longest input of a size, None: any
    flops: Callable[[BuildRequest, Mapping[str, tuple[int, ...]]], float | None] | None = None  # see above
    cache_bytes: Callable[[BuildRequest, Mapping[str, tuple[int, ...]], int], float | None] | None = None  # see above
    parameters: Callable[[BuildRequest], int | None] | None = None  # see above
    wider: Callable[[Config, float], Config] | None = None  # see above
    of_weights: Callable[[str], ModelSpec] | None = None  # see above


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

    identity: str  # as `DatasetSpec.identify` returns it
    train: Sequence[Example]  # examples to train on
    validation: Sequence[Example]  # examples to choose by
    test: Sequence[Example]  # examples to score
    info: Info = field(default_factory=dict)
    oracle: Oracle | None = None  # None where nobody knows the best answer


@dataclass(frozen=True)
class DatasetSpec:
    """A source of data sets, named in suites as `NAME` or `NAME:ARGUMENT`.

    `identify` is cheap and is called before the run: it returns `NAME[:SHORT]@FINGERPRINT`, where the
    fingerprint changes with the content, and never contains an absolute path. `load` reads everything and raises
    DataError (one line: file, line, what, what to write instead) on malformed or empty data.

    `samples(folder)` is for the conformance kit, of a source that needs an argument: it writes a small data set of each
    kind into the folder and returns task -> argument.
    """

    name: str  # what suites call it
    identify: Callable[[DataRequest], str]
    load: Callable[[DataRequest], Dataset]
    tasks: tuple[str, ...] | None = None  # names of the tasks it can serve; None: any
    description: str = ""  # one line for `plugins list`
    validate: bool = False  # True: `load` is cheap and is called before the run, to refuse bad input
    samples: Callable[[str], Mapping[str, str]] | None = None  # see above


# --- tasks and metrics ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodeContext:
    """What a task needs to turn examples into features."""

    tokenizer: Tokenizer  # of the suite, or of the checkpoint
    seq_len: int  # longest input, special tokens included
    target_len: int  # longest target, end token included
    info: Info  # of the data set
    train: bool  # False: the target is not shown to the model


@dataclass(frozen=True)
class BaselineContext:
    """What a trivial baseline may look at: the training split, and the inputs of the test split."""

    dataset: Dataset  # whose training split may be used
    test: Sequence[Example]  # the examples that are scored
    tokenizer: Tokenizer  # that made the features
    features: Sequence[Feature]  # of `test`, encoded
    seed: int = 0  # of what is drawn at random


@dataclass(frozen=True)
class TaskSpec:
    """A task: which head it needs, how its text becomes features and predictions become answers, how it is scored."""

    name: str  # what suites call it
    head: str  # which of HEADS it needs
    fields: tuple[str, ...]  # what each example holds
    texts: Callable[[Example], Sequence[str]]  # all text of an example, for the tokenizer
    encode: Callable[[Sequence[Example], EncodeContext], list[Feature]]  # one feature per example, in order
    decode: Callable[[Any, Example, Feature, Tokenizer], Any]  # engine's prediction -> what metrics compare
    reference: Callable[[Example], Any]  # example -> the right answer, for metrics
    metrics: tuple[str, ...]  # names of metric plugins
    primary: str  # the value that stands for quality, such as "accuracy"
    baselines: Mapping[str, Callable[[BaselineContext], list[Any]]] = field(default_factory=dict)  # trivial answers
    num_labels: Callable[[Info], int] = lambda info: 0  # from the data set's info
    description: str = ""  # one line for `plugins list`
    stages: tuple[str, ...] = ("finetune", "eval")  # ("pretrain",) for the pretraining task
    examples: tuple[Example, ...] = ()  # a few, for the conformance kit


@dataclass(frozen=True)
class MetricSpec:
    """A metric. `load(cache_dir)` returns an `evaluate.Metric`, or an object with `compute(predictions=, references=)`.

    A library that it needs and that may be missing is best imported in `load`: the cell is then `unsupported` with one
    line that says what to install, before anything is measured.

    `each(predictions, references)` returns value -> the score of every example, of the values that are the mean of such
    scores; with it, intervals of quality hold for other test examples too. None: no value is such a mean.

    It scores the tasks that name it, and those that it names itself in `tasks`. For the conformance kit, `known` holds
    (predictions, references, what `compute` returns for them: some of the values), and `bounds` the least and the
    greatest number that a value can be (None: no bound).
    """

    name: str  # what tasks call it
    load: Callable[[str], Any]
    values: Mapping[str, str]  # name of each value it returns -> "higher" or "lower" (which is better)
    options: Callable[[Info], dict[str, Any]] = lambda info: {}  # data set's info -> compute() keywords
    description: str = ""  # one line for `plugins list`
    each: Callable[[Sequence[Any], Sequence[Any]], Mapping[str, list[float]]] | None = None  # see above
    preload: tuple[str, ...] = ("evaluate", "datasets")  # library modules worth importing once for all cells
    tasks: tuple[str, ...] = ()  # names of tasks that it scores beside those that name it
    known: tuple[tuple[Sequence[Any], Sequence[Any], Mapping[str, float]], ...] = ()  # see above
    bounds: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)  # see above


# --- precisions -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PrecisionSpec:
    """A numeric setting, in names of torch dtypes so that nothing is imported."""

    name: str  # what suites call it
    parameters: str = "float32"  # dtype of the weights
    autocast: str | None = None  # dtype of the autocast region, None: no autocast
    grad_scaling: bool = False  # scale the loss, so that small gradients survive
    matmul: str = "ieee"  # "ieee" or "tf32", for float32 matmuls
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")  # kinds of devices that can run it
    description: str = ""  # one line for `plugins list`

    @property
    def element_bytes(self) -> int:
        """Return the bytes of an element that a layer computes: the autocast type's, else the parameters'."""
        bits = re.search(r"\d+", self.autocast or self.parameters)
        return int(bits.group()) // 8 if bits else 4


# --- reporters ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReporterSpec:
    """A format of `llmbench report`. `render(report)` returns the whole document; bytes for what is no text.

    `report` (`llmbench.report.Report`) holds everything, made once: `tables` (each with `title`, `columns`, `rows` of
    raw values and `notes`; `column.text(value)` is a value as people read it), `findings` (sentences), `cells`
    (summaries), `commands` (cell id -> what measures it again), `document` (of `--format json`), and the `runs`.
    `report.render(form)` is the report in another of its `formats`. A reporter that sends or stores the report returns
    what it did, in a line.
    """

    name: str  # what `--format` is given
    render: Callable[[Any], str | bytes]
    suffix: str  # of a file of this format, such as ".md"
    description: str = ""  # one line for `plugins list`


# --- causes ---------------------------------------------------------------------------------------------

#: The two ways to cut a step: *where* its time goes (a component), and *why* (a resource). Their headrooms overlap.
AXES = ("where", "why")
CAUSE_CLASSES = ("data", "algorithm", "hardware")


class Trial(Protocol):
    """A step under test, as a cause sees it: the model, a pool of batches, and ways to time parts and change them.

    Nothing is learned while causes are tried: learning rates are 0, so that parameters stay what they are.
    """

    engine: str  # name, such as "torch"
    module: Any  # of the engine; torch: an `nn.Module`; None where it shows none
    optimizer: Any  # None where the step has none
    device: str  # kind: cpu, cuda, mps
    trains: bool  # whether a step has a backward pass
    generates: bool  # whether a step makes tokens one by one
    compiled: bool  # whether the module's operators are hidden in compiled code
    workers: int  # loader processes
    pool: Sequence[Any]  # batches, collated and in memory
    step_s: float  # seconds of a step, about
    pace_s: float  # seconds of a step in the clean pass, the wait for its batch left out; 0 where not known
    memory_used: float | None  # the share of the memory that is in use at the peak, None where not known (since API 2)
    #: For a generation whose tokens can be read at once: batch -> the number of passes it takes, and a function that
    #: reads prompt and generated tokens in one pass. None for other steps (since API 2).
    one_pass: Callable[[Any], tuple[int, Callable[[], Any]]] | None  # see above
    scratch: dict[str, Any]  # what `probe` keeps for `intervene`, by cause (since API 2)

    def step(self, batch: Any) -> Any:
        """Take the ordinary step on `batch`."""

    def fresh(self) -> Iterator[Any]:
        """Return an endless iterator over newly made batches, as the loader gives them."""

    def tensors(self, batch: Any) -> dict[str, Any]:
        """Return the tensors of `batch` by a name each."""

    def rebuilt(self, batch: Any, tensors: Mapping[str, Any]) -> Any:
        """Return `batch` with other tensors under the same names."""

    def real_tokens(self, batch: Any) -> int | None:
        """Return the number of tokens of `batch` that are no padding, None where it is not known."""

    def regrouped(self) -> list[Any]:
        """Return the pool's examples in batches of the same size, sorted by length and no longer than needed.

        Raises Unisolated where it is not known which tokens are padding.
        """

    def merged(self, batches: Sequence[Any]) -> Any:
        """Return one batch with the examples of all. Raises Unisolated where they cannot be put together."""

    def timed(self, parts: Callable[[Callable[[Function], Function]], AbstractContextManager[Any]]) -> list[float]:
        """Return the seconds per step of some calls, their share of the backward pass included, over several steps.

        `parts(timer)` is a context in which those functions are replaced by `timer(function)`.
        """

    def without_update(self) -> AbstractContextManager[None]:
        """Return a context in which steps compute gradients and update nothing.

        Raises Unisolated where that cannot be done; with torch, causes put another function in the place of `step`.
        """

    def without_recurrence(self) -> AbstractContextManager[None]:
        """Return a context in which recurrent layers are given the states before each token, so that none waits.

        Raises Unisolated or DoesNotApply on entering; with torch, the cause records the states itself.
        """

    def seconds(self, call: Callable[[], Any], *, least: int = 5) -> list[float]:
        """Return the seconds of each of a few calls of `call`, the device waited for."""

    def once(self, call: Callable[[], Any]) -> float:
        """Return the seconds of a call, the device waited for."""

    def probes(self) -> Iterator[Any]:
        """Yield the batches of a few steps, in which to look at a part."""

    def paced(self, call: Callable[[], float], batch: Any) -> float:
        """Return the seconds that `call()` returns, at the pace of the clean pass, by a step on `batch` before it.

        Machines change their speed within seconds, so a part is only compared with the clean step time at its pace.
        """


@dataclass(frozen=True)
class Intervention:
    """How a cause is removed. Both arms take the same batches in turns, A B A B, from a random start.

    A block is `steps` steps. In the changed arm it runs inside `changed()`, which is entered outside of the clock.
    Steps there are ordinary ones unless `treated` takes the block's batches in another way. `clean` does so in the
    unchanged arm. `burn` steps of each block are not timed. `share` is the part of the cause that is removed: what is
    left of it is taken off by proportion (1: all; below 0: the cause is added to, -1 doubles it). `check` says what was
    left alone, for the record.
    """

    changed: Callable[[], AbstractContextManager[Any]] = nullcontext
    steps: int | None = None  # None: as many as make a block long enough for the clock
    treated: Callable[[Sequence[Any]], Any] | None = None
    clean: Callable[[Sequence[Any]], Any] | None = None
    burn: int = 1
    share: float = 1.0
    check: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class CauseSpec:
    """What can bound a step: how much removing it should give, and how it is removed to see.

    `probe(trial)` runs in the worker and returns facts about the step (JSON-able) that the prediction needs;
    `predict(record, facts)` is pure and returns the headroom, step time over step time without the cause, or None where
    it is not known. `intervene(trial)` returns how to remove it. `probe` and `intervene` raise DoesNotApply or
    Unisolated with the reason. `advice` says in a few words what to change where this is the verdict. `engines` are
    those that it is written for, None: any, since it asks nothing of the step but what every `Trial` has.
    """

    name: str  # what verdicts call it
    axis: str  # of AXES
    cause_class: str  # of CAUSE_CLASSES
    probe: Callable[[Trial], Mapping[str, object]]
    predict: Callable[[Measurements, JsonObject], float | None]
    intervene: Callable[[Trial], Intervention]
    description: str = ""  # what it is, in a few words
    advice: str = ""
    engines: tuple[str, ...] | None = ("torch",)  # engines whose steps it can look into, None: any


# --- remedies -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forecast:
    """What a remedy should give: throughput with it over throughput without, None where not known, and why."""

    gain_x: float | None  # see above
    reason: str = ""  # why that much, or why it is not known


@dataclass(frozen=True)
class RemedySpec:
    """A change that a user can make to a cell, the causes that it answers, and what it should give.

    `change(cell)` is pure: it returns the changed cell (`dataclasses.replace`; fields as in a suite), or raises
    DoesNotApply where it has that already or cannot have it. `learning_rate` is always a number there. What is trained
    must stay the same number of examples: who enlarges the batch divides the steps.

    `predict(record, ceilings)` is pure, too: the record of the measured cell and the machine's ceilings (empty where
    they are not known). It answers the causes named in `answers`; a `general` one is cheap enough to be tried whatever
    the verdict is. Of one `family`, a recommendation takes at most one. `same_updates`: the same sums, up to rounding,
    so that alone it need not be trained to see what it does to quality.
    """

    name: str  # what `--remedy` calls it
    answers: tuple[str, ...]  # names of causes
    change: Callable[[Any], Any]
    predict: Callable[[Record, Ceilings], Forecast]
    description: str = ""  # one line for `plugins list`
    general: bool = False
    same_updates: bool = False
    family: str = ""  # empty: its own
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")  # kinds of devices where it can help
