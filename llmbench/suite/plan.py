"""From a suite to ordered cells: what is run, what each cell descends from, and why one cannot run.

`plan_cells` makes points (the product of the axes, with include and exclude), and of each point a chain of stages:
pretrain, finetune, eval. Cells of equal content are one cell, so all tasks share one pretraining.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llmbench.contract import sizes
from llmbench.contract.cell import CELL_FIELDS, STAGES, Cell, DataSource, content_id
from llmbench.contract.errors import DataError, PluginError, SuiteError
from llmbench.contract.pretrained import Pretrained, locate
from llmbench.contract.specs import DataRequest
from llmbench.plugins.registry import Registry
from llmbench.suite.fields import Key, Point, Value
from llmbench.suite.file import Suite
from llmbench.suite.matrix import DEFAULT_DATASET, DEVICE_ORDER, Matrix, leaves, value_at
from llmbench.suite.selection import parse_selection


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and its obstacle: why it cannot run (None: it can)."""

    cell: Cell
    obstacle: str | None = None


@dataclass(frozen=True)
class Plan:
    """Cells in an order in which each comes after its parent.

    `sources` says where each data set identity is on this machine; `corpora` are the identities whose training text
    the tokenizer is trained on: those of the whole suite, whatever `keep` leaves. `weights` says where the pretrained
    model behind an identity is.
    """

    suite: Suite
    cells: tuple[PlannedCell, ...]
    sources: dict[str, DataSource]
    corpora: tuple[str, ...]
    weights: dict[str, str] = field(default_factory=dict)


def plan_cells(suite: Suite, registry: Registry, keep: str | None = None, devices: Sequence[str] = ()) -> Plan:
    """Return the cells of `suite`: pretrain, finetune, eval, and within a stage in the suite's order.

    `keep` is an expression over field values (`bert and not qa`); parents of kept cells are kept. `devices` of this
    machine resolve `auto`; without them it stays. Raises SuiteError for unknown names, DataError for bad data.
    """
    selected = parse_selection(keep) if keep and keep.strip() else None
    matrix = Matrix(suite, registry)
    data = _Data(registry)
    points = matrix.all_points()
    corpora = data.register(matrix, points)
    builder = _Builder(matrix, data, corpora, devices)
    planned = builder.build(points)
    if selected is not None:
        planned = _select(planned, selected)
        if not planned:
            raise SuiteError(f"-k {keep}: no cell of suite {suite.name!r} matches; `llmbench plan` lists them")
    return Plan(suite, tuple(planned.values()), data.sources, corpora, builder.weights)


# --- data sets ------------------------------------------------------------------------------------------


class _Data:
    """Identities of the data sets, and where they are."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.sources: dict[str, DataSource] = {}
        self._identities: dict[tuple[str, str], str] = {}

    def serves(self, dataset: str, task: str) -> bool:
        """Return whether the plugin of `dataset` offers `task`."""
        tasks = self.registry.get("dataset", dataset.partition(":")[0]).tasks
        return tasks is None or task in tasks

    def identity(self, dataset: str, task: str) -> str:
        """Return `scheme[:name]@fingerprint`; the data is loaded and checked once if its plugin asks for that."""
        if (dataset, task) in self._identities:
            return self._identities[(dataset, task)]
        scheme, _, argument = dataset.partition(":")
        if not self.serves(dataset, task):
            return f"{scheme}@unserved"
        spec = self.registry.get("dataset", scheme)
        request = DataRequest(self.registry.get("task", task), argument)
        identity = spec.identify(request)
        if spec.validate:
            loaded = spec.load(request)
            for split in ("train", "test"):
                if not len(getattr(loaded, split)):
                    raise DataError(f"data set {dataset!r} for {task}: the {split} split is empty; give it examples")
        source = DataSource(scheme, argument, task)
        if self.sources.setdefault(identity, source).task != task:
            other = self.sources[identity].task
            raise PluginError(f"data set {scheme!r} gives {other} and {task} one identity, {identity}; it must differ")
        self._identities[(dataset, task)] = identity
        return identity

    def register(self, matrix: Matrix, points: Sequence[tuple[Point, tuple[str, ...]]]) -> tuple[str, ...]:
        """Identify every data set of the suite, excluded stages included, and return the identities."""
        explicit = any("pretrain_dataset" in entry for _, entry in [*matrix.sections, *matrix.entries])
        used: dict[str, None] = {}
        for point, stages in points:
            pairs = [(value_at(point, "dataset", s), value_at(point, "task", s)) for s in STAGES[1:]]
            generated = any(dataset == DEFAULT_DATASET for dataset, _ in pairs)
            if matrix.pretraining and (explicit or generated or "pretrain" in stages):
                pairs.append((value_at(point, "pretrain_dataset", "pretrain"), matrix.pretraining.name))
            for dataset, task in pairs:
                if self.serves(dataset, task):
                    used[self.identity(dataset, task)] = None
        return tuple(sorted(used))


# --- cells ----------------------------------------------------------------------------------------------


class _Builder:
    """Makes the cells of points, stage by stage, since a child's content holds the id of its parent."""

    def __init__(self, matrix: Matrix, data: _Data, corpora: tuple[str, ...], devices: Sequence[str]) -> None:
        self.matrix, self.data, self.registry = matrix, data, matrix.registry
        self.fingerprint = content_id(list(corpora))
        self.weights: dict[str, str] = {}  # identity -> folder
        self._located: dict[str, Pretrained] = {}
        kinds = {device: device.partition(":")[0] for device in devices}
        ranked = sorted((d for d in devices if kinds[d] in DEVICE_ORDER), key=lambda d: DEVICE_ORDER.index(kinds[d]))
        self.best_device = ranked[0] if ranked else "auto"

    def build(self, points: Sequence[tuple[Point, tuple[str, ...]]]) -> dict[str, PlannedCell]:
        """Return the cells by id, parents first."""
        planned: dict[str, PlannedCell] = {}
        parents: list[PlannedCell | None] = [None] * len(points)
        for stage in STAGES:
            for i, (point, stages) in enumerate(points):
                if stage not in stages or self.matrix.excludes(point, stage):
                    continue
                found = self._plan_cell(point, stage, parents[i])
                planned.setdefault(found.cell.cell_id, found)
            any_at_stage = any(found.cell.stage == stage for found in planned.values())
            for i, (point, _) in enumerate(points):
                parents[i] = self._parent_of_next(point, stage, parents[i], planned) if any_at_stage else None
        return planned

    def _parent_of_next(
        self, point: Point, stage: str, parent: PlannedCell | None, planned: Mapping[str, PlannedCell]
    ) -> PlannedCell | None:
        """Return the cell of `point` at `stage`, if it is in the plan, from whichever point it came there."""
        if stage == "eval" or (stage == "pretrain" and self.matrix.pretraining is None):
            return None
        found = planned.get(self._cell(point, stage, parent).cell_id)
        if stage == "pretrain" and found is not None and found.obstacle:
            return None  # what cannot be pretrained is fine-tuned from scratch
        return found

    def _plan_cell(self, point: Point, stage: str, parent: PlannedCell | None) -> PlannedCell:
        if stage == "pretrain" and self.matrix.pretraining is None:
            raise PluginError("no plugin brings a task for the stage pretrain; `llmbench plugins list` shows them")
        cell = self._cell(point, stage, parent)
        obstacle = self._obstacle(point, cell)
        if obstacle is None and parent is not None and parent.obstacle:
            obstacle = f"its {parent.cell.stage} cell cannot run: {parent.obstacle}"
        return PlannedCell(cell, obstacle)

    def _cell(self, point: Point, stage: str, parent: PlannedCell | None) -> Cell:
        fields = {name: choice[stage] for name, choice in point.items() if name in CELL_FIELDS}
        corpus = "pretrain_dataset" if stage == "pretrain" else "dataset"
        fields["dataset"] = self.data.identity(value_at(point, corpus, stage), fields["task"])
        fields["stage"] = stage
        fields["pretrain_dataset"] = None
        if stage == "pretrain":
            fields["target_len"] = None
        elif parent is not None:
            fields["parent"] = parent.cell.cell_id
            pretrained = parent.cell.stage == "pretrain"
            fields["pretrain_dataset"] = parent.cell.dataset if pretrained else parent.cell.pretrain_dataset
        if stage == "eval":
            fields["steps"] = 0
        if fields.get("device") == "auto":
            fields["device"] = self.best_device
        if stage == "pretrain":
            fields["lora"] = None  # adapters are for fine-tuning
        begin = self._begin(fields)
        if begin is not None and begin.has_tokenizer:  # what its weights have learned is about those ids
            fields["vocab_size"] = begin.vocab_size or fields.get("vocab_size", Cell.vocab_size)
            return Cell(**fields, tokenizer=begin.identity)
        return Cell(**fields, tokenizer=f"bpe-{fields.get('vocab_size', Cell.vocab_size)}@{self.fingerprint}")

    def _begin(self, fields: dict[str, Value]) -> Pretrained | None:
        """Return the pretrained model that a cell begins with, and let its fields name that by its identity.

        A model named `NAME:WEIGHTS` has but one size, whatever the suite says.
        """
        kind, _, argument = fields["model"].partition(":")
        begin = self._locate(argument or fields.get("weights"))
        if begin is not None and argument:
            fields["model"] = f"{kind}:{begin.identity}"
            (fields["size"],) = self.registry.model(fields["model"], self.weights).sizes
        elif begin is not None:
            fields["weights"] = begin.identity
        return begin

    def _locate(self, name: str | None) -> Pretrained | None:
        if name is None:
            return None
        if name not in self._located:
            found = self._located[name] = locate(name)
            self.weights[found.identity] = found.folder
        return self._located[name]

    def _obstacle(self, point: Point, cell: Cell) -> str | None:
        """Return why `cell` cannot run, in one line, or None."""
        model, task = self.registry.model(cell.model, self.weights), self.registry.get("task", cell.task)
        try:
            sizes.configuration(model, cell.size, cell.vocab_size)
        except PluginError as error:
            raise self.matrix.fail(self._size_path(cell.size), str(error)) from None
        self.registry.metrics(task)  # raises where one is missing
        dataset = value_at(point, "pretrain_dataset" if cell.stage == "pretrain" else "dataset", cell.stage)
        size = sizes.parse_size(cell.size)
        longest = None if size.settings else model.max_len(size.name)  # building says so where settings decide it
        if cell.stage not in task.stages:
            return f"task {task.name} has no stage {cell.stage}"
        if not self.data.serves(dataset, cell.task):
            return f"data set {dataset.partition(':')[0]} does not serve task {cell.task}"
        if task.head not in model.layouts:
            return f"model {cell.model} has no layout for head {task.head!r} of task {cell.task}"
        if cell.lora is not None and "lora" not in model.options:
            return f"model {cell.model} has no low-rank adapters (lora)"
        if longest is not None and cell.seq_len > longest:
            return f"seq_len {cell.seq_len} is longer than {cell.model}/{cell.size} reads ({longest})"
        return self._precision_obstacle(cell)

    def _precision_obstacle(self, cell: Cell) -> str | None:
        if cell.precision not in self.registry.names("precision"):
            return f"no plugin brings precision {cell.precision}"  # a reserved name: others are refused before
        kind, precision = cell.device.partition(":")[0], self.registry.get("precision", cell.precision)
        if kind != "auto" and kind not in precision.devices:
            return f"precision {cell.precision} is not for {kind} (only {', '.join(precision.devices)})"
        return None

    def _size_path(self, size: str) -> Key:
        for path, section in [*self.matrix.entries, *self.matrix.sections]:
            for at, leaf in leaves(section.get("size"), (*path, "size")):
                if leaf == size:
                    return at
        return ("matrix",)


def _select(planned: Mapping[str, PlannedCell], test: Callable[[Cell], bool]) -> dict[str, PlannedCell]:
    """Return the cells that pass, and all they descend from."""
    wanted = {key for key, found in planned.items() if test(found.cell)}
    for key in reversed(list(planned)):
        parent = planned[key].cell.parent
        if key in wanted and parent is not None:
            wanted.add(parent)
    return {key: found for key, found in planned.items() if key in wanted}
