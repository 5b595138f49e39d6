"""The data that crosses process and file boundaries: cells, jobs and records.

Plain, frozen and JSON-able. Nothing here imports more than the standard library.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from llmbench.contract.record import CellFields

STAGES = ("pretrain", "finetune", "eval")
#: Phases of a step; for a stage without a backward pass the last ones are simply absent.
PHASES = ("input", "copy", "forward", "backward", "optimizer", "comm", "idle")


@dataclass(frozen=True)
class Cell:
    """One point of a suite's matrix: everything that decides what is run and what it learns.

    How long it is measured (seconds, interval width, repeats, memory limit) is not part of it, so that a
    cell keeps its id when only the measuring changes. Lengths are in tokens.
    """

    model: str
    size: str
    task: str
    dataset: str  # identity: scheme[:name]@fingerprint, never a path
    stage: str
    device: str = "cpu"
    precision: str = "fp32"
    batch_size: int = 16
    seq_len: int = 64
    target_len: int | None = None  # longest output of generation tasks; None: seq_len
    steps: int = 200  # optimizer steps of training; 0 for eval
    seed: int = 0
    optimizer: str = "adamw"
    learning_rate: float | None = None  # None: the model's own default for the stage
    workers: int = 0  # loader processes
    bucketing: bool = True  # batches of similar lengths
    compile: bool = False
    attention: str = "sdpa"
    strategy: str = "single"
    world_size: int = 1
    train_examples: int | None = None  # None: all
    test_examples: int | None = None
    vocab_size: int = 2048
    tokenizer: str | None = None  # identity of the tokenizer: kind-vocabulary@fingerprint of its training text
    pretrain_dataset: str | None = None  # corpus behind the checkpoint this cell descends from
    weights: str | None = None  # identity of what it starts from instead of random weights: name@fingerprint
    parent: str | None = None  # id of the cell whose checkpoint this one starts from
    # Options below came later (see `LATER_FIELDS`).
    threads: int | None = None  # of an operator on the CPU; None: torch's own choice
    accumulation: int = 1  # parts that a batch is taken in, one after the other, before an update
    labelled_logits: bool = False  # output projection and loss only where there is a label
    pretokenized: bool = True  # text becomes tokens once, before the first step; False: in the loader, batch by batch
    pin_memory: bool = True  # page-locked batches, copied without waiting, where the device has a memory of its own
    checkpointing: bool = False  # activations computed again in the backward pass
    kv_cache: bool = True  # generation keeps keys, values and states from token to token
    cuda_graphs: bool = False  # compiled, and replayed as CUDA graphs
    keep_memory: bool = False  # what is freed on the host stays with the process (glibc), not given back to the system
    lora: int | None = None  # rank of the low-rank adapters that alone are fine-tuned; None: all weights are
    remedy_of: str | None = None  # id of the cell that this one is a trial of a remedy for
    role: str | None = None  # in that trial: see `llmbench.analysis.remedy_choice`

    @property
    def cell_id(self) -> str:
        """Hash of the content: 12 hex digits, the same on every machine; later fields count where they are set."""
        return id_of_cell(dataclasses.asdict(self))

    @property
    def label(self) -> str:
        """Short name for people: see `label_of`."""
        return label_of(vars(self))

    @property
    def begins_with(self) -> str | None:
        """The identity of the pretrained model that the cell's model is made from, if there is one."""
        return self.weights or self.model.partition(":")[2] or None

    def to_json(self) -> CellFields:
        """Return all fields as a JSON-able dict; they are flat, so that nothing needs a copy of its own."""
        return cast("CellFields", dict(vars(self)))

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Cell:
        """Rebuild a cell; unknown fields (written by a newer version) are ignored."""
        known: dict[str, Any] = {k: v for k, v in fields.items() if k in _KNOWN}
        return cls(**known)


#: Fields that cells did not always have, and their defaults, which leave a cell's id what it was without them.
LATER_FIELDS: dict[str, object] = {
    f.name: f.default
    for f in dataclasses.fields(Cell)
    if f.name
    in {
        "threads",
        "accumulation",
        "labelled_logits",
        "pretokenized",
        "pin_memory",
        "checkpointing",
        "kv_cache",
        "cuda_graphs",
        "keep_memory",
        "lora",
        "remedy_of",
        "role",
    }
}
#: Fields that the planner derives; a suite may set all others.
DERIVED_FIELDS = frozenset({"tokenizer", "parent", "remedy_of", "role"})
CELL_FIELDS = tuple(f.name for f in dataclasses.fields(Cell))
#: Field -> its default; None where it has none.
DEFAULTS: dict[str, Any] = {
    f.name: None if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(Cell)
}
_KNOWN = frozenset(CELL_FIELDS)
SETTABLE_FIELDS = tuple(name for name in CELL_FIELDS if name not in DERIVED_FIELDS)


@dataclass(frozen=True)
class Budget:
    """How long a cell is measured; not part of the cell's identity.

    `seconds`: clean timing per cell, shared by its first repeats. `ci_pct`: target half-width of the interval of
    the step time. `max_repeats`: up to so many processes per cell, where the first ones show that `ci_pct` needs
    them; None: no more than the first ones. `memory_mib`: limit of the cell's process (host memory on `cpu`, device
    memory elsewhere). `largest_batch`: search the largest batch that fits. `price_per_hour`: of the machine, in any
    currency. `verify_seconds`: trying causes, per cell. `remedy_seconds`: clean timing of each process that tries a
    remedy; `remedy_pairs`: pairs of processes that measure the recommended configuration; `remedy_seeds`: seeds that
    it is trained with.
    """

    seconds: float = 10.0
    ci_pct: float = 2.0
    memory_mib: float | None = None
    max_repeats: int | None = None
    largest_batch: bool = False
    price_per_hour: float | None = None
    verify_seconds: float = 10.0
    remedy_seconds: float = 2.0
    remedy_pairs: int = 5
    remedy_seeds: int = 4


@dataclass(frozen=True)
class DataSource:
    """Where the data set behind an identity is on this machine."""

    scheme: str  # name of the data set plugin
    argument: str  # what followed the colon in the suite: a path, a hub name, or empty
    task: str  # name of the task it is read for


def label_of(fields: Mapping[str, object]) -> str:
    """Return a cell's short name for people, for progress, logs and reports; not unique."""
    parts = [str(fields.get(name)) for name in ("stage", "model", "size", "task", "precision", "device")]
    role = fields.get("role")  # of a trial of a remedy
    return "/".join([*parts, str(role)] if role else parts)


def is_scored(stage: str, score: bool | None) -> bool:
    """Return whether a cell of a stage is scored; `score` None: a fine-tuning is not, the stage eval after it is."""
    return stage != "finetune" if score is None else score


def id_of_cell(fields: Mapping[str, object]) -> str:
    """Return the id of a cell from its fields, whether or not they name the later ones at their defaults."""
    return content_id({k: v for k, v in fields.items() if k not in LATER_FIELDS or v != LATER_FIELDS[k]})


def content_id(value: object) -> str:
    """Return 12 hex digits of the SHA-256 of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
