"""A job: one repeat of a cell, as a process is given it, and the record that it starts with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from llmbench.contract.cell import Budget, Cell, DataSource, is_scored

if TYPE_CHECKING:
    from llmbench.contract.record import BudgetFields, JsonObject, Record, RemedyFields, Status

SCHEMA_VERSION = 1

STATUSES = ("ok", "oom", "timeout", "crashed", "error", "unsupported", "skipped", "interrupted")

#: Statuses that a resumed run does not try again (`--retry-failed` tries those in FAILED).
SETTLED = frozenset({"ok", "unsupported", "oom", "timeout", "crashed", "error"})

FAILED = frozenset({"oom", "timeout", "crashed", "error"})

#: Event of a worker whose `record` counts if the process dies from here on: the executor keeps it.
KEEP = "keep"


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
    remedy: RemedyFields | None = None  # of a trial of a remedy: what was predicted, for the record
    weights: dict[str, str] = field(default_factory=dict)  # identity of a pretrained model -> its folder

    @classmethod
    def single(
        cls,
        cell: Cell,
        budget: Budget | None = None,
        run_dir: str = "",
        *,
        repeat: int = 0,
        attempt: int = 0,
        repeats: int = 1,
        sources: Mapping[str, DataSource] | None = None,
        **options: Any,
    ) -> Job:
        """Return the job of a cell by itself, apart from a run: its only repeat, unless told otherwise.

        `options` are further fields by name.
        """
        return cls(cell, repeat, attempt, repeats, budget or Budget(), run_dir, dict(sources or {}), **options)

    @property
    def is_scored(self) -> bool:
        """Whether its repeat 0 is scored on the test split."""
        return is_scored(self.cell.stage, self.score)

    def to_json(self) -> JsonObject:
        """Return all fields as a JSON-able dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: JsonObject) -> Job:
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
    """Return whether a trial of this role (see `llmbench.analysis.remedy_choice`) trains and is scored."""
    return (role or "").partition(":")[0] == LEARN


def new_record(job: Job, status: str, **fields: object) -> Record:
    """Return a record of `job` with every field of `Record` (null or empty where nothing is known)."""
    if status not in STATUSES:
        raise ValueError(f"unknown status {status!r}")
    record: Record = {
        "schema_version": SCHEMA_VERSION,
        "cell_id": job.cell.cell_id,
        "cell": job.cell.to_json(),
        "repeat": job.repeat,
        "repeats": job.repeats,
        "budget": cast("BudgetFields", dataclasses.asdict(job.budget)),
        "attempt": job.attempt,
        "status": cast("Status", status),
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
    return cast("Record", {**record, **fields})
