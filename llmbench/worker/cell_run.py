"""What one process needs to run one repeat of one cell, and the steps that all kinds of jobs share."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.contract.engines import Engine, EngineRequest
from llmbench.contract.errors import PluginError, Unsupported, UserError, is_out_of_memory
from llmbench.contract.files import atomic_folder
from llmbench.contract.job import Job
from llmbench.contract.sizes import configuration, scale_size
from llmbench.contract.specs import DEFAULT_LEARNING_RATE, BuildRequest, CollateContext, Feature, Layout, ModelSpec
from llmbench.plugins.discovery import discover
from llmbench.plugins.registry import Registry
from llmbench.worker.data.features import CellData, load_cell_data, scoring_order, training_order
from llmbench.worker.measuring import loops
from llmbench.worker.measuring.loops import Feed
from llmbench.worker.measuring.step_kinds import Prediction, Training
from llmbench.worker.scoring import Scorer

Emit = Callable[[dict[str, Any]], None]

TIMED_ORDER_STEPS = 4096  # more than any clean and phase pass take together


@dataclass(frozen=True)
class CellRun:
    """What one process has to run one repeat of one cell."""

    job: Job
    registry: Registry
    model: ModelSpec
    data: CellData
    emit: Emit  # of events, to the process that shows progress

    @classmethod
    def open(cls, job: Job, emit: Emit) -> CellRun:
        """Find the plugins, the model and the data of a job. Raises Unsupported where the model has no such head."""
        cwd = Path(job.cwd_plugins) if job.cwd_plugins else None
        registry = discover(job.plugin_files, cwd, left_out=job.left_out)
        model: ModelSpec = registry.model(job.cell.model, job.weights)
        emit({"event": "setup"})
        data = load_cell_data(job, registry)
        if data.task.head not in model.layouts:
            raise Unsupported(f"model {model.name!r} has no {data.task.head!r} head")
        return cls(job, registry, model, data, emit)

    def with_cell(self, **fields: Any) -> CellRun:
        """Return this run with other fields of its cell; the data stay."""
        cell = dataclasses.replace(self.job.cell, **fields)
        return dataclasses.replace(self, job=dataclasses.replace(self.job, cell=cell))

    @property
    def trains(self) -> bool:
        """Whether its steps are training steps."""
        return self.job.cell.stage != "eval"

    @property
    def layout(self) -> Layout:
        """The layout that makes arrays of features."""
        return self.model.layouts[self.data.task.head]

    def features(self, *, train: bool) -> Sequence[Feature]:
        """Return the features of the training split or of the test split."""
        return self.data.train if train else self.data.test

    def collate_context(self, *, train: bool) -> CollateContext:
        """Return the context in which the layout makes batches of the cell."""
        cell = self.job.cell
        return CollateContext(
            special=self.data.tokenizer.special,
            seq_len=cell.seq_len,
            target_len=cell.target_len or cell.seq_len,
            vocab_size=self.data.tokenizer.vocab_size,
            train=train,
            seed=cell.seed,
        )

    def build_request(self) -> BuildRequest:
        """Return the request from which the model is built."""
        cell, data = self.job.cell, self.data
        return BuildRequest(
            head=data.task.head,
            size=cell.size,
            config=configuration(self.model, cell.size, cell.vocab_size),
            vocab_size=data.tokenizer.vocab_size,
            special=data.tokenizer.special,
            seq_len=cell.seq_len,
            target_len=cell.target_len or cell.seq_len,
            num_labels=data.task.num_labels(data.info),
            weights=self.job.weights[cell.begins_with] if cell.begins_with else None,
            attention=cell.attention,
            labelled_logits=cell.labelled_logits,
            kv_cache=cell.kv_cache,
            lora=cell.lora,
        )

    def engine(self, request: BuildRequest | None = None) -> Engine:
        """Return a new engine with the model built in it, within the budget's memory."""
        cell = self.job.cell
        for option, needed in (("labelled_logits", cell.labelled_logits), ("kv_cache", not cell.kv_cache)):
            if needed and option not in self.model.options:
                raise Unsupported(f"model {self.model.name} knows no {option}: {str(getattr(cell, option)).lower()}")
        options = EngineRequest(
            device=cell.device,
            precision=self.registry.get("precision", cell.precision),
            compiled=cell.compile,
            cuda_graphs=cell.cuda_graphs,
            threads=cell.threads,
            accumulation=cell.accumulation,
            checkpointing=cell.checkpointing,
            pin_memory=cell.pin_memory,
        )
        engine: Engine = self.registry.get("engine", self.model.engine).open(options)
        if self.job.budget.memory_mib is not None:
            engine.limit_memory(self.job.budget.memory_mib)
        engine.build(self.model, request or self.build_request(), seed=cell.seed)
        return engine

    def start(self) -> tuple[Engine, dict[str, Any]]:
        """Build the model and load its parent's checkpoint; return the engine and the record's `checkpoint`."""
        cell = self.job.cell
        engine = self.engine()
        if cell.parent is None:
            return engine, {"from": cell.begins_with, "tensors": None}
        path = Path(self.job.run_dir) / "checkpoints" / cell.parent / "model.safetensors"
        if not path.exists():
            raise FileNotFoundError(f"checkpoint of cell {cell.parent} is missing")
        names = engine.load(path, strict=cell.stage == "eval")
        if not names:
            name = self.model.name
            raise PluginError(f"model {name!r} took no tensor from its pretraining checkpoint; see `load_pretrained`")
        return engine, {"from": cell.parent, "tensors": len(names)}

    def prepare_training(self, engine: Engine) -> None:
        """Make the optimizer with the learning rate of the cell, else of the model; a scaled size takes less of it."""
        cell, model = self.job.cell, self.model
        rate = cell.learning_rate or model.learning_rate.get(cell.stage, DEFAULT_LEARNING_RATE)
        rate /= scale_size(model, cell.size, cell.vocab_size)[1]
        engine.prepare_training(learning_rate=rate, steps=cell.steps, optimizer=cell.optimizer)

    def feed(self, engine: Engine, *, train: bool) -> Feed:
        """Return the feed of a split: what makes its batches, as often as they are needed."""
        context = self.collate_context(train=train)
        return Feed(engine, self.features(train=train), self.layout, context, self.job.cell.workers)

    def order(self, steps: int, *, train: bool) -> list[list[int]]:
        """Return `steps` batches of a split as indices of its features; see `training_order`."""
        return training_order(self.features(train=train), self.layout, self.job.cell, steps)

    def step_kind(self) -> Training | Prediction:
        """Return the kind of step that the cell takes: training or prediction."""
        if self.trains:
            return Training(self.model, self.build_request())
        element_bytes = self.registry.get("precision", self.job.cell.precision).element_bytes
        return Prediction(self.model, self.build_request(), element_bytes)

    def first_step(self, engine: Engine, feed: Feed) -> float:
        """Take one training step and return its seconds.

        Where it fails in this precision but not in plain fp32, the precision is unsupported.
        """
        cell = self.job.cell
        order = self.order(1, train=True)
        begin = time.perf_counter()
        try:
            loops.train_step(engine, next(feed(order)))
            engine.synchronize()
            return time.perf_counter() - begin
        except UserError:
            raise
        except (RuntimeError, NotImplementedError, TypeError) as error:
            if cell.precision == "fp32" or is_out_of_memory(error):
                raise
            plain = self.with_cell(precision="fp32")
            engine, _ = plain.start()
            plain.prepare_training(engine)
            loops.train_step(engine, next(dataclasses.replace(feed, engine=engine, workers=0)(order)))
            reason = " ".join(str(error).split())[:300]
            raise Unsupported(
                f"{self.model.name} does not run in {cell.precision} on {cell.device}: {type(error).__name__}: {reason}"
            ) from error

    def score(self, engine: Engine, *, only_model: bool = False) -> dict[str, Any]:
        """Predict the whole test split; return the record's `quality`, `oracle`, `baselines` (or `quality` alone)."""
        cell, data = self.job.cell, self.data
        order = scoring_order(data.test, self.layout, cell)
        predictions = loops.predict_all(
            engine, self.feed(engine, train=False), order, cell.target_len or cell.seq_len, self.emit
        )
        if data.task.head == "pretrain":
            predictions = [{**prediction, "masked": self.model.masked} for prediction in predictions]
        scorer = Scorer(self.job, data, self.registry)
        if only_model:
            return {"quality": scorer.model(predictions)}
        return {"quality": scorer.model(predictions), "oracle": scorer.oracle(), "baselines": scorer.baselines()}

    def save_checkpoint(self, engine: Engine, training: dict[str, Any]) -> None:
        """Write the checkpoint of this cell; it appears under its name only when it is whole."""
        cell = self.job.cell
        with atomic_folder(Path(self.job.run_dir) / "checkpoints" / cell.cell_id) as folder:
            engine.save(folder / "model.safetensors")
            (folder / "cell.json").write_text(json.dumps({"cell": cell.to_json(), "training": training}))
