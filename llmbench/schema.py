"""The data that crosses process and file boundaries: cells, jobs and records.

Plain, frozen and JSON-able. Nothing here imports more than the standard library.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1

STAGES = ("pretrain", "finetune", "eval")
STATUSES = ("ok", "oom", "timeout", "crashed", "error", "unsupported", "skipped", "interrupted")
#: Statuses that a resumed run does not try again (`--retry-failed` tries those in FAILED).
SETTLED = frozenset({"ok", "unsupported", "oom", "timeout", "crashed", "error"})
FAILED = frozenset({"oom", "timeout", "crashed", "error"})
#: Phases of a step; for a stage without a backward pass the last ones are simply absent.
PHASES = ("input", "copy", "forward", "backward", "optimizer", "comm", "idle")
#: Event of a worker whose `record` counts should the process die from here on; the executor keeps it.
KEEP = "keep"


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
    role: str | None = None  # in that trial: see `llmbench.remedies`

    @property
    def cell_id(self) -> str:
        """Hash of the content: 12 hex digits, the same on every machine; later fields count where they are set."""
        return id_of_cell(dataclasses.asdict(self))

    @property
    def label(self) -> str:
        """Short name for people, for progress and logs; not unique."""
        what = [self.stage, self.model, self.size, self.task, self.precision, self.device]
        return "/".join([*what, *([self.role] if self.role else [])])

    @property
    def begins_with(self) -> str | None:
        """Return the identity of the pretrained model that the cell's model is made from, if there is one."""
        return self.weights or self.model.partition(":")[2] or None

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a JSON-able dict; they are flat, so that nothing needs a copy of its own."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Cell:
        """Rebuild a cell; unknown fields (written by a newer version) are ignored."""
        return cls(**{k: v for k, v in fields.items() if k in _KNOWN})


#: Fields that cells did not always have, and their defaults, which leave a cell's id what it was without them.
LATER_FIELDS: dict[str, Any] = {
    f.name: f.default
    for f in dataclasses.fields(Cell)
    if f.name
    in (
        *("threads", "accumulation", "labelled_logits", "pretokenized", "pin_memory", "checkpointing", "kv_cache"),
        *("cuda_graphs", "keep_memory", "lora", "remedy_of", "role"),
    )
}
#: Fields a suite may set on a cell (the rest is derived by the planner).
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


def is_scored(stage: str, score: bool | None) -> bool:
    """Return whether a cell of a stage is scored; `score` None: a fine-tuning is not, the stage eval behind it is."""
    return stage != "finetune" if score is None else score


@dataclass(frozen=True)
class Job:
    """What a worker process is asked to do: one repeat of one cell.

    `repeats` are the first ones, which share the budget; `processes` is how many there will be, None: `repeats`.
    """

    cell: Cell
    repeat: int
    attempt: int
    repeats: int
    budget: Budget
    run_dir: str  # checkpoints/ and cache/ live here
    sources: dict[str, DataSource]  # data set identity -> where it is
    corpora: tuple[str, ...] = ()  # identities whose training text the tokenizer is trained on
    plugin_files: tuple[str, ...] = ()
    cwd_plugins: str | None = None
    left_out: tuple[str, ...] = ()  # keys of the owners of plugins that do not load
    environment_id: str | None = None
    ceilings_id: str | None = None
    processes: int | None = None
    score: bool | None = None  # at the end of repeat 0: see `is_scored`
    trace: str = "first"  # which repeats are traced: first, all or none
    verify: str = "none"  # which causes repeat 0 removes and measures: none, verdict (the leading suspects) or all
    remedy: dict[str, Any] | None = None  # of a trial of a remedy: what was predicted, for the record
    weights: dict[str, str] = field(default_factory=dict)  # identity of a pretrained model -> its folder

    @property
    def scored(self) -> bool:
        """Whether its repeat 0 is scored on the test split."""
        return is_scored(self.cell.stage, self.score)

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a JSON-able dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Job:
        """Rebuild a job from `to_json`."""
        return cls(
            **{
                **fields,
                "cell": Cell.from_json(fields["cell"]),
                "budget": Budget(**fields["budget"]),
                "sources": {k: DataSource(**v) for k, v in fields["sources"].items()},
                "corpora": tuple(fields["corpora"]),
                "plugin_files": tuple(fields["plugin_files"]),
                "left_out": tuple(fields.get("left_out", ())),
            }
        )


#: First word of the role of a trial that trains and is scored; all others are timed.
LEARN = "learn"


def learns(role: str | None) -> bool:
    """Return whether a trial of this role (see `llmbench.remedies`) trains and is scored."""
    return (role or "").partition(":")[0] == LEARN


def id_of_cell(fields: Mapping[str, Any]) -> str:
    """Return the id of a cell from its fields, whether or not they name the later ones at their defaults."""
    return content_id({k: v for k, v in fields.items() if k not in LATER_FIELDS or v != LATER_FIELDS[k]})


def content_id(value: Any) -> str:
    """Return 12 hex digits of the SHA-256 of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def new_record(job: Job, status: str, **fields: Any) -> dict[str, Any]:
    """Return a record of `job` with every contract field present (null or empty where nothing is known)."""
    if status not in STATUSES:
        raise ValueError(f"unknown status {status!r}")
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "cell_id": job.cell.cell_id,
        "cell": job.cell.to_json(),
        "repeat": job.repeat,
        "repeats": job.repeats,
        "budget": dataclasses.asdict(job.budget),
        "attempt": job.attempt,
        "status": status,
        "started_at": None,
        "wall_s": None,
        "spent": {},
        "environment_id": job.environment_id,
        "ceilings_id": job.ceilings_id,
        "samples": {},
        "phases": {},
        "counts": {},
        "memory": {},
        "energy": None,
        "interventions": {},
        "together": None,
        "remedy": job.remedy,
        "quality": {},
        "oracle": None,
        "baselines": {},
        "training": None,
        "operators": None,
        "compilation": None,
        "health": None,
        "checkpoint": None,
        "warnings": [],
        "error": None,
    }
    unknown = fields.keys() - record.keys()
    if unknown:
        raise ValueError(f"unknown record fields {sorted(unknown)}")
    record.update(fields)
    return record
