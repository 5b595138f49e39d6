"""Types of records, of their parts, and of the rows that a report makes of them.

A record is one line of `records.jsonl`: one attempt at one repeat of one cell. At runtime it is a plain dict; these
types are for readers and for the type checker. The comment after a field of `Record` is its meaning: the JSON Schema
and `docs/records.md` are made from it.

- Import this module under `if TYPE_CHECKING:`, and write `cast("Record", ...)`: no process needs it at runtime, and
  making the types takes milliseconds that every command would wait for (a test sees to it).
- A process that measures makes a `Record` (`llmbench.contract.job.new_record`), and readers of records take a `Record`.
  `llmbench.records.lazy` casts its read-only `StoredRecord` once, so readers must not change a record.
- Parts of a record may lack fields (`total=False`): engines differ, and older versions wrote fewer. Readers use `.get`.
- A name is `..._s` for seconds, `..._ms` for milliseconds, `..._mib` for MiB, `..._pct` for percent, `..._x` for a
  ratio, `..._ci` for the two ends of a 95 % interval. What is not known is None.
- What is read name by name is a TypedDict; what is iterated over (phases, scores) is a dict of one type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

#: JSON whose fields llmbench does not know: an environment, the facts of a cause, options of a plugin.
JsonObject: TypeAlias = dict[str, Any]
#: Name -> a value for each step.
Series: TypeAlias = dict[str, list[float]]
#: Phase and `_s` (`input_s`, `forward_s`, ...) -> its seconds, for each step of the phase pass.
Phases: TypeAlias = Series
#: Metric -> its value.
Scores: TypeAlias = dict[str, float]
#: Both ends of an interval: low, high.
Ends: TypeAlias = list[float]
#: Name of an array of a batch -> its shape.
Shapes: TypeAlias = Mapping[str, Sequence[int]]
#: An operator that a cause may replace.
Function: TypeAlias = Callable[..., Any]
#: A row of a table, whatever the table is of; rows that the report reads again have types of their own.
Row: TypeAlias = Mapping[str, object]

Status = Literal["ok", "oom", "timeout", "crashed", "error", "unsupported", "skipped", "interrupted"]
OracleKind = Literal["exact", "reference"]
Direction = Literal["higher", "lower"]  # the better side of a metric
Axis = Literal["where", "why"]  # a component, or a resource


# --- what a record holds --------------------------------------------------------------------------------


class FirstCellFields(TypedDict):
    """The fields that every cell has.

    `llmbench.suite.fields` says what they mean; the comment after a field is the meaning of one that no suite sets.
    """

    model: str
    size: str
    task: str
    dataset: str
    stage: str
    device: str
    precision: str
    batch_size: int
    seq_len: int
    target_len: int | None
    steps: int
    seed: int
    optimizer: str
    learning_rate: float | None
    workers: int
    bucketing: bool
    compile: bool
    attention: str
    strategy: str
    world_size: int
    train_examples: int | None
    test_examples: int | None
    vocab_size: int
    tokenizer: str | None  # identity of the tokenizer
    pretrain_dataset: str | None
    weights: str | None
    parent: str | None  # id of the cell whose checkpoint it starts from


class CellFields(FirstCellFields, total=False):
    """The fields of a `llmbench.contract.cell.Cell` as JSON. Those that came later may be missing."""

    threads: int | None
    accumulation: int
    labelled_logits: bool
    pretokenized: bool
    pin_memory: bool
    checkpointing: bool
    kv_cache: bool
    cuda_graphs: bool
    keep_memory: bool
    lora: int | None
    remedy_of: str | None  # id of the cell that it is a trial of a remedy for
    role: str | None  # which round of that trial, and with which remedies


class BudgetFields(TypedDict, total=False):
    """The fields of a `llmbench.contract.cell.Budget` as JSON."""

    seconds: float
    ci_pct: float
    memory_mib: float | None
    max_repeats: int | None
    largest_batch: bool
    price_per_hour: float | None
    verify_seconds: float
    remedy_seconds: float
    remedy_pairs: int
    remedy_seeds: int


class Samples(TypedDict, total=False):
    """Raw series: `step_*` of the clean pass, `paired_*` of the clean steps that are paired with steps in phases."""

    step_s: list[float]
    step_tokens: list[float]  # without padding
    step_padding_tokens: list[float]
    step_examples: list[float]
    step_fetch_s: list[float]  # of a loader: getting the examples of a batch
    step_collate_s: list[float]  # of a loader: making the batch of them
    step_model_flops: list[float]
    step_decode_steps: list[float]  # tokens after the first, of the longest row
    step_generated_tokens: list[float]  # of all rows
    paired_step_s: list[float]
    paired_decode_steps: list[float]


class Timing(TypedDict, total=False):
    """How the clean pass was taken."""

    warmup_steps: int
    steady: bool | None  # whether the step time was on one level when warm-up ended; None: not known
    pilot_steps: int
    samples_wanted: int  # steps that give the interval that was asked for
    samples: int  # steps that were timed
    wall_s: float


class Counts(TypedDict, total=False):
    """Means per step."""

    tokens: float | None  # without padding
    padding_tokens: float | None
    examples: float | None
    flops: float | None
    bytes: float | None
    kernels: float | None
    recomputed_flops: float | None  # of `flops`: those that repeat earlier work
    model_flops: float | None  # by the formula of the model's plugin
    parameters: int  # that are trained
    labelled_share: float | None  # of positions that have a label
    timing: Timing


class Memory(TypedDict, total=False):
    """MiB of the device."""

    peak_mib: float | None
    capacity_mib: float | None
    weights_mib: float | None
    gradients_mib: float | None
    optimizer_mib: float | None
    activations_mib: float | None
    parts_reason: str  # why parts are not known
    kv_cache_mib: float | None  # of a mean step that generates
    largest_batch: int | None
    largest_batch_tried: list[list[int]] | None  # batch, and whether it fitted
    largest_batch_reason: str | None


class Energy(TypedDict, total=False):
    """Energy of the clean pass."""

    joules: float | None
    seconds: float
    source: str | None  # which part of the machine the counter is of
    reason: str | None  # why joules are not known


class Health(TypedDict, total=False):
    """Counters of the machine and of the process over the clean pass; see `llmbench.worker.machine.monitor`."""

    wall_s: float
    tick_s: float
    cores: int | None
    busy_s: float | None
    steal_s: float | None
    own_cpu_s: float | None
    own_system_s: float | None
    other_cpu_s: float | None
    run_wait_s: float | None
    run_wait_longest_s: float | None
    involuntary_switches: int | None
    minor_faults: int | None
    major_faults: int | None
    throttled_periods: int | None
    throttled_s: float | None
    thermal_events: int | None
    swap_in_mib: float | None
    swap_out_mib: float | None
    pressure_s: dict[str, float] | None
    cpu_mhz_start: float | None
    cpu_mhz_end: float | None
    cpu_mhz_max: float | None
    cpu_mhz_base: float | None
    gpu: JsonObject | None
    reasons: dict[str, str]  # field -> why it is not known


#: The key `class` is a keyword of Python, so it is declared in this form.
_Classed = TypedDict("_Classed", {"class": str}, total=False)


class Intervention(_Classed, total=False):
    """The trial of one cause: its prediction, and pairs of blocks of steps with and without the cause."""

    axis: str
    outcome: str  # measured, not_selected, does_not_apply, unisolated, out_of_time or failed
    reason: str | None
    predicted_x: float | None
    clean_s: list[float]
    treated_s: list[float]
    clean_first: list[bool]  # which block of a pair came first
    block_steps: int | None
    share: float  # of the cause that the intervention removes
    advice: str | None
    facts: JsonObject  # what the cause's `probe` returned
    check: JsonObject  # what the intervention did
    spent_s: dict[str, float]  # seconds of `probe` and `trial`


class Together(TypedDict):
    """Pairs of blocks with and without the two largest causes."""

    causes: list[str]
    clean_s: list[float]
    treated_s: list[float]
    clean_first: list[bool]
    block_steps: int | None


class RemedyFields(TypedDict, total=False):
    """What a trial says of its remedy."""

    name: str
    answers: list[str]  # causes
    because: str
    predicted_x: float | None
    same_updates: bool  # training gives the same weights, up to rounding


class Quality(TypedDict, total=False):
    """Scores of the model on the test split."""

    values: Scores
    examples: int
    primary: str  # metric
    direction: dict[str, str]  # metric -> its better side
    each: dict[str, list[float]]  # metric -> its value for each example


class Oracle(TypedDict, total=False):
    """Scores of the model that knows the data."""

    kind: OracleKind
    values: Scores
    each: dict[str, list[float]]


class Training(TypedDict, total=False):
    """The training of repeat 0."""

    steps: int
    seconds: float
    tokens: int
    examples: int  # of the training split
    loss: list[list[float]]  # step, loss


class OperatorCount(TypedDict):
    """Calls of one operator in one phase of the traced step, and what they did."""

    phase: str
    operator_class: str
    name: str
    dtype: str
    calls: int
    flops: int
    recomputed_flops: int
    bytes: int


class OperatorTime(TypedDict):
    """Seconds of one operator in one phase of the traced step."""

    phase: str
    operator_class: str  # `host`: the rest of the phase
    name: str
    seconds: float


class TraceTotals(TypedDict):
    """Sums over the operators of the traced step."""

    flops: float | None
    recomputed_flops: float | None
    bytes: float | None
    kernels: float | None


class Trace(TypedDict, total=False):
    """What one step does and where its time goes: see `llmbench.contract.engines.Engine.trace`."""

    rows: list[OperatorCount]
    times: list[OperatorTime] | None
    phases_s: dict[str, float]
    totals: TraceTotals
    shapes: dict[str, list[int]]  # of the batch
    notes: list[str]


class GraphBreak(TypedDict):
    """One place that broke a compiled graph."""

    reason: str
    where: str | None  # file.py:line
    times: int


class Compilation(TypedDict, total=False):
    """What compiling took, by Dynamo's counts."""

    first_step_s: float | None
    steady_step_s: float | None
    compile_s: float | None
    dynamo_s: float
    phase_s: dict[str, float]
    frames: int
    frames_compiled: int
    graphs: int
    recompilations: int
    recompile_reasons: list[str]
    graph_breaks: list[GraphBreak]
    fell_back: list[str]  # why frames run eager
    cache: JsonObject


#: The key `from` is a keyword of Python, so it is declared in this form.
_Loaded = TypedDict("_Loaded", {"from": str | None}, total=False)


class Checkpoint(_Loaded, total=False):
    """`from`: id of the cell, or identity of the weights, that it started from. `id`: of the cell that wrote one."""

    tensors: int | None  # that were loaded
    id: str


class ErrorFields(TypedDict, total=False):
    """An exception of the worker, or what is known of how its process ended."""

    type: str
    message: str
    traceback: str | None


class Record(TypedDict):
    """One attempt at one repeat of one cell. The comment beside a field is its meaning in the JSON Schema."""

    schema_version: int  # version of this schema
    cell_id: str  # hash of the cell's content; the same on every machine
    cell: CellFields  # every field of the cell; those that came later may be left out, and are then at their default
    repeat: int  # which process of the cell; 0 also trains and is scored
    repeats: int  # processes that were planned at first
    budget: BudgetFields  # how long it was measured
    attempt: int  # earlier attempts at this repeat
    status: Status  # how it ended
    started_at: str | None  # when, ISO 8601 with time zone
    wall_s: float | None  # wall time of the process, seconds
    spent: dict[str, float]  # seconds of measuring, training, scoring
    environment_id: str | None  # key in environment.json
    ceilings_id: str | None  # key in ceilings.json
    samples: Samples  # raw series of the clean pass, a value per step: step_s, step_tokens, step_examples ...
    phases: Phases  # seconds of each phase, a value per step of the phase pass
    counts: Counts  # means per step: tokens without padding, FLOPs, bytes, kernels; and parameters and how timing went
    memory: Memory  # MiB: the peak, what there is, and parts by purpose
    energy: Energy | None  # joules of the clean pass, its seconds, the source, or the reason
    interventions: dict[str, Intervention]  # cause -> prediction, and the paired samples with and without it
    together: Together | None  # the paired samples without the two largest causes
    remedy: RemedyFields | None  # of a trial: what was predicted, and why
    quality: Quality  # metric values on the test split, how many examples, which is primary, which side is better
    oracle: Oracle | None  # the same of the model that knows the data
    baselines: dict[str, Scores]  # the same of trivial answers, by name
    training: Training | None  # steps, seconds, tokens, and losses as [step, loss]
    operators: Trace | None  # FLOPs, bytes and time of each operator of a traced step
    compilation: Compilation | None  # what compiling took
    health: Health | None  # what disturbed the clean pass, as the system counts it
    checkpoint: Checkpoint | None  # the checkpoint that was written, and the one it started from
    warnings: list[str]  # what disturbed a measurement, in words
    error: ErrorFields | None  # type, message and traceback


class Measurements(TypedDict, total=False):
    """The fields of a `Record` that a process fills in as it measures, trains and scores."""

    spent: dict[str, float]
    samples: Samples
    phases: Phases
    counts: Counts
    memory: Memory
    energy: Energy | None
    interventions: dict[str, Intervention]
    together: Together | None
    quality: Quality
    oracle: Oracle | None
    baselines: dict[str, Scores]
    training: Training | None
    operators: Trace | None
    compilation: Compilation | None
    health: Health | None
    checkpoint: Checkpoint | None
    warnings: list[str]


class Event(TypedDict, total=False):
    """What a worker tells while it runs."""

    event: str  # setup, measure, verify, train, score, ...
    step: int
    steps: int
    loss: float | None
    cause: str
    threads: int  # of a fork server that must not fork, since it has several
    record: Record  # of the event `keep`: it counts if the process dies from here on


#: Tells the executor what a worker is at.
Emit: TypeAlias = Callable[[Event], None]


# --- ceilings of a machine ------------------------------------------------------------------------------


class CeilingEstimate(TypedDict, total=False):
    """The best of many measurements; the unit is that of the ceiling."""

    value: float
    low: float | None
    high: float | None
    median: float
    samples: int
    threads: int
    independent: bool  # each thread works on arrays of its own
    shape: list[int]  # of a matmul
    sweep_ended: str  # why no more shapes of a matmul were tried
    bytes: int  # that were read from storage
    cache_dropped: bool | None  # whether storage was read, and not the page cache
    note: str


class MatmulPeak(CeilingEstimate, total=False):
    """The ceiling of matmuls, in FLOP/s, and the mode that it is of."""

    mode: str | None


class MemoryLevel(TypedDict, total=False):
    """A cache or the main memory."""

    level: str
    capacity_bytes: int | None
    working_set_bytes: int
    triad_bytes_per_s: CeilingEstimate
    copy_bytes_per_s: CeilingEstimate
    read_bytes_per_s: CeilingEstimate


class Datasheet(TypedDict):
    """What the vendor prints of a device."""

    name: str
    flops_per_s: dict[str, float | None]  # mode -> dense matmul peak
    memory_bytes_per_s: float
    source: str


class Ceilings(TypedDict, total=False):
    """What one device can do at best: an entry of `ceilings.json`."""

    schema: int
    ceilings_id: str
    fingerprint: str
    measured_at: str
    checked_at: str
    device: str
    name: str
    threads: int
    seconds: float
    estimator: str
    precisions: dict[str, str]  # precision -> mode of its matmuls
    matmul: dict[str, CeilingEstimate | None]  # mode -> FLOP/s
    memory_levels: list[MemoryLevel]
    host_to_device: dict[str, CeilingEstimate | None]
    device_to_host: dict[str, CeilingEstimate | None]
    launch_latency_s: CeilingEstimate | None
    round_trip_s: CeilingEstimate | None
    storage_read_bytes_per_s: CeilingEstimate | None
    allreduce_bytes_per_s: CeilingEstimate | None
    datasheet: Datasheet | None
    other_load_pct: float | None
    reasons: dict[str, str]  # ceiling -> why it is not known
    warnings: list[str]


# --- rows of a report -----------------------------------------------------------------------------------


class _OfRun(TypedDict, total=False):
    """Where rows of several runs stand together, `run` is the name of theirs."""

    run: str


_OfCause = TypedDict("_OfCause", {"class": str})


class BottleneckRow(_OfCause, _OfRun):
    """What removing one cause of a cell gives; see `llmbench.analysis.attribution.bottlenecks`."""

    cell_id: str | None
    cause: str
    axis: str
    outcome: str
    reason: str | None
    advice: str | None
    predicted_x: float | None
    measured_x: float | None
    ci: Ends | None
    ci_kind: str | None
    low: float | None  # the bound that holds for all causes of the axis together
    rank_x: float | None  # of one half of the pairs: by which the largest cause is chosen
    headroom_x: float | None  # of the other half
    headroom_ci: Ends | None
    material: bool  # exceeds the threshold, by Holm's decision
    pairs: int


class InteractionRow(_OfRun):
    """What removing two causes of a cell at once gives."""

    cell_id: str
    causes: list[str]
    measured_x: float
    ci: Ends | None
    product_x: float  # of what each gives alone


class VerdictFields(TypedDict, total=False):
    """What bounds a cell; empty without trials. See `llmbench.analysis.attribution.verdict`."""

    verdict: str | None  # a cause, or balanced, undecided, unisolated
    verdict_class: str | None
    verdict_where: str | None
    verdict_why: str | None
    verdict_notes: dict[str, str] | None  # axis -> why no cause is named
    headroom_predicted_x: float | None
    headroom_measured_x: float | None
    headroom_ci: Ends | None
    leading: str | None  # the cause that the headroom is of
    advice: str | None


class PositionRow(TypedDict):
    """One phase, or one operator class of it, under the roofline."""

    phase: str
    operator_class: str
    flops: float
    bytes: float
    seconds: float | None
    intensity: float | None  # FLOPs per byte
    bound: str | None
    roofline_s: float | None
    attainable_flops_per_s: float | None
    ceiling_pct: float | None
    bandwidth_pct: float | None


class _SummaryOfCell(_OfRun):
    cell_id: str
    model: str
    size: str
    task: str
    dataset: str
    stage: str
    device: str
    precision: str
    batch_size: int
    seq_len: int
    seed: int
    variant: str  # options that tell it from cells alike
    status: Status  # of repeat 0
    attempts: int  # at repeat 0
    repeats: int  # that are ok
    # step time
    step_ms: float | None
    step_ms_ci: Ends | None
    step_ms_ci_kind: str | None
    steps: int | None
    tokens_per_s: float | None  # without padding
    samples_per_s: float | None
    ci_pct_wanted: float | None
    ci_pct_reached: float | None
    repeats_wanted: int | None
    # phases
    shares: dict[str, float | None]  # phase -> its share of the step
    suspect: str | None  # the phase with the largest share
    suspect_share: float | None
    suspect_class: str | None
    suspect_verified: bool
    # memory and energy
    padding_pct: float | None
    peak_memory_mib: float | None
    weights_mib: float | None
    gradients_mib: float | None
    optimizer_mib: float | None
    activations_mib: float | None
    energy_j_per_step: float | None
    tokens_per_joule: float | None
    energy_source: str | None
    # speed compared with the machine's
    flops_per_step: float | None
    model_flops_per_step: float | None
    bytes_per_step: float | None
    kernels_per_step: float | None
    arithmetic_intensity: float | None
    mfu_pct: float | None
    hfu_pct: float | None
    ceiling_pct: float | None
    ceiling_pct_range: Ends | None
    bandwidth_pct: float | None
    bandwidth_pct_range: Ends | None
    roofline_bound: str | None
    operators: dict[str, float] | None  # operator class -> its share of the step
    positions: list[PositionRow] | None
    # generation
    ttft_ms: float | None  # time to first token
    tpot_ms: float | None  # time per output token
    generated_tokens_per_s: float | None
    kv_cache_mib: float | None
    # capacity and cost
    largest_batch: int | None
    largest_batch_tried: list[list[int]] | None
    price_per_hour: float | None
    cost_per_million_tokens: float | None
    cost_per_million_generated_tokens: float | None
    cost_of_training: float | None
    # verdict
    verdict: str | None
    verdict_class: str | None
    verdict_where: str | None
    verdict_why: str | None
    verdict_notes: dict[str, str] | None
    headroom_predicted_x: float | None
    headroom_measured_x: float | None
    headroom_ci: Ends | None
    leading: str | None
    advice: str | None
    # trust
    phase_residual_pct: float | None
    phase_residual_ci: Ends | None
    outlier_steps: int | None
    autocorrelation: float | None
    steps_wanted: int | None
    warmup_steps: int | None
    unreliable: list[str]
    # compilation
    compile: bool
    compilation: Compilation | None
    compile_pays_off_steps: float | None
    # quality
    quality: Scores | None
    quality_examples: int | None
    quality_primary: str | None
    quality_direction: dict[str, str] | None
    oracle: Scores | None
    oracle_kind: str | None
    baseline: Scores | None  # metric -> the best of the baselines
    baselines: dict[str, Scores] | None
    training: Training | None
    # the rest
    seconds: float | None  # wall time of all repeats
    warnings: list[str]
    error: ErrorFields | None
    environment_ids: list[str]
    reproduce: str | None  # command line
    reasons: dict[str, str]  # field -> why it is None


class CellSummary(_SummaryOfCell):
    """All that a report says of a cell: the fields of a cell in `report --format json`, and its rows."""

    bottlenecks: list[BottleneckRow]
    interactions: list[InteractionRow]


class FailureRow(_OfRun):
    """A record that counts and is not ok."""

    cell: CellFields
    variant: str
    cell_id: str
    repeat: int
    status: Status
    error: str | None


class RemedyRow(_OfRun):
    """What one remedy did to a cell."""

    cell_id: str
    remedy: str
    answers: list[str] | None
    because: str | None
    predicted_x: float | None
    measured_x: float | None
    ci: Ends | None
    pairs: int
    memory_change_mib: float | None
    quality_delta: Scores
    quality_ci: Ends | None
    quality_outcome: str | None
    quality_seeds: int
    outcome: str
    reason: str | None


class QualityMeans(TypedDict):
    """Means of a metric over seeds."""

    metric: str
    plain: float
    changed: float


class RecommendationRow(_OfRun):
    """What the recommended configuration of a cell gives."""

    cell_id: str
    remedies: list[str]
    changes: dict[str, object]  # field of the cell -> its value
    predicted_x: float | None
    measured_x: float | None
    ci: Ends | None
    pairs: int
    unit: str  # tokens or examples
    plain_per_s: float | None
    changed_per_s: float | None
    recommended_cell_id: str | None
    reproduce: str | None
    memory_change_mib: float | None
    quality_delta: Scores
    quality_ci: Ends | None
    quality_outcome: str | None
    quality_seeds: int
    quality: QualityMeans | None


class Gain(TypedDict):
    """What more of one axis gains, on the scale of the metric."""

    parameters_x: float | None
    size: str
    gain: float
    ci: Ends | None


class MissingPart(TypedDict):
    """A part of the distance to the quality that is possible."""

    value: float
    ci: Ends | None


class MissingQuality(TypedDict):
    """What is missing to the quality that is possible, and why."""

    distance: float
    parts: dict[str, MissingPart]
    ample: dict[str, object]
    ample_quality: float
    seeds: int


class LearningRow(_OfRun):
    """What limits the quality of one point; see `llmbench.analysis.studies.learning`."""

    cell_id: str
    model: str
    size: str
    task: str
    dataset: str
    stage: str
    device: str
    precision: str
    batch_size: int
    train_examples: int
    steps: int
    parameters: int | None
    epochs: float
    metric: str
    oracle: float | None
    oracle_kind: str | None
    test_examples: int
    baseline: float | None
    scale: str
    material: float  # a gain that is worth having
    seeds: int
    quality: float
    gap: float | None
    gap_ci: Ends | None
    times: int
    gains: dict[str, Gain]
    verdict: str
    because: str | None
    doubled: dict[str, Gain] | None
    missing: MissingQuality | None
    reasons: dict[str, str]


class TimeToQualityRow(_OfRun):
    """What it takes to reach the target; see `llmbench.analysis.studies.time_to_quality`."""

    model: str
    task: str
    dataset: str
    stage: str
    device: str
    precision: str
    batch_size: int
    attention: str
    compile: bool
    size: str
    train_examples: int
    parameters: int | None
    rungs: list[int]  # steps that were tried
    metric: str
    target: float
    seeds: int
    reached: int  # seeds
    reason: str | None
    steps: float | None
    steps_ci: Ends | None
    seconds: float | None
    joules: float | None


_Between = TypedDict("_Between", {"from": str, "to": str})


class ScalingChange(_Between):
    """Where along an axis the verdict, or the leading class of operators, changes."""

    kind: str  # verdict or operators
    between: list[int]
    at: float | None


class ScalingRow(_OfRun):
    """How the cost of one part of the step grows along one axis; see `llmbench.analysis.studies.scaling`."""

    model: str
    size: str
    task: str
    stage: str
    device: str
    precision: str
    axis: str
    part: str
    points: list[int]
    rounds: int
    ms: list[float]
    exponent: float | None
    exponent_ci: Ends | None
    exponent_small: float | None
    exponent_small_ci: Ends | None
    power: float | None
    power_ci: Ends | None
    limit: int | None
    held_out: int | None
    predicted_ms: float | None
    predicted_ms_ci: Ends | None
    measured_ms: float | None
    error_pct: float | None
    reason: str | None
    changes: list[ScalingChange]
