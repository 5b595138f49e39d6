"""What one process has to run one repeat of one cell."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmbench.contract.cell import Cell
from llmbench.contract.engines import Engine, EngineRequest
from llmbench.contract.errors import PluginError, Unsupported, UserError, is_out_of_memory
from llmbench.contract.files import atomic_folder
from llmbench.contract.job import Job
from llmbench.contract.sizes import configuration, scaled
from llmbench.contract.specs import DEFAULT_LEARNING_RATE, BuildRequest, CollateContext, ModelSpec
from llmbench.plugins.registry import Registry
from llmbench.worker.data.features import CellData, scoring_order, training_order
from llmbench.worker.measuring import loops
from llmbench.worker.scoring import Scorer

Emit = Callable[[dict[str, Any]], None]

TIMED_ORDER_STEPS = 4096  # more than any clean and phase pass take together


def score(
    job: Job,
    registry: Registry,
    model: ModelSpec,
    data: CellData,
    engine: Engine,
    emit: Emit,
    *,
    only_model: bool = False,
) -> dict[str, Any]:
    """Predict the whole test split and return quality, oracle and baselines (`only_model`: quality)."""
    cell = job.cell
    layout = model.layouts[data.task.head]
    feed = loops.Feed(engine, data.test, layout, collate_context(cell, data, False), cell.workers)
    order = scoring_order(data.test, layout, cell)
    raw = loops.predict_all(engine, feed, order, cell.target_len or cell.seq_len, emit)
    if data.task.head == "pretrain":
        raw = [{**prediction, "masked": model.masked} for prediction in raw]
    scorer = Scorer(job, data, registry)
    if only_model:
        return {"quality": scorer.model(raw)}
    return {"quality": scorer.model(raw), "oracle": scorer.oracle(), "baselines": scorer.baselines()}


def start(job: Job, registry: Registry, model: ModelSpec, data: CellData) -> tuple[Engine, dict[str, Any]]:
    """Build the model and load the checkpoint it descends from; return the engine and what was loaded."""
    cell = job.cell
    engine = build(job, registry, model, build_request(job, model, data))
    if cell.parent is None:
        return engine, {"from": cell.begins_with, "tensors": None}
    path = Path(job.run_dir) / "checkpoints" / cell.parent / "model.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"checkpoint of cell {cell.parent} is missing")
    names = engine.load(path, strict=cell.stage == "eval")
    if not names:
        raise PluginError(f"model {model.name!r} took no tensor from its pretraining checkpoint; see `load_pretrained`")
    return engine, {"from": cell.parent, "tensors": len(names)}


def build(job: Job, registry: Registry, model: ModelSpec, request: BuildRequest) -> Engine:
    """Return an engine with the model in it, within the budget's memory."""
    cell = job.cell
    for option, wanted in (("labelled_logits", cell.labelled_logits), ("kv_cache", not cell.kv_cache)):
        if wanted and option not in model.options:
            raise Unsupported(f"model {model.name} knows no {option}: {str(getattr(cell, option)).lower()}")
    precision = registry.get("precision", cell.precision)
    asked = EngineRequest(
        device=cell.device,
        precision=precision,
        compiled=cell.compile,
        cuda_graphs=cell.cuda_graphs,
        threads=cell.threads,
        accumulation=cell.accumulation,
        checkpointing=cell.checkpointing,
        pin_memory=cell.pin_memory,
    )
    engine: Engine = registry.get("engine", model.engine).open(asked)
    if job.budget.memory_mib is not None:
        engine.limit_memory(job.budget.memory_mib)
    engine.build(model, request, seed=cell.seed)
    return engine


def build_request(job: Job, model: ModelSpec, data: CellData) -> BuildRequest:
    """Return what the model is built from."""
    cell = job.cell
    return BuildRequest(
        head=data.task.head,
        size=cell.size,
        config=configuration(model, cell.size, cell.vocab_size),
        vocab_size=data.tokenizer.vocab_size,
        special=data.tokenizer.special,
        seq_len=cell.seq_len,
        target_len=cell.target_len or cell.seq_len,
        num_labels=data.task.num_labels(data.info),
        weights=job.weights[cell.begins_with] if cell.begins_with else None,
        attention=cell.attention,
        labelled_logits=cell.labelled_logits,
        kv_cache=cell.kv_cache,
        lora=cell.lora,
    )


def collate_context(cell: Cell, data: CellData, train: bool) -> CollateContext:
    """Return what the layout needs."""
    return CollateContext(
        special=data.tokenizer.special,
        seq_len=cell.seq_len,
        target_len=cell.target_len or cell.seq_len,
        vocab_size=data.tokenizer.vocab_size,
        train=train,
        seed=cell.seed,
    )


def prepare_training(engine: Engine, model: ModelSpec, cell: Cell) -> None:
    """Make the optimizer with the cell's, else the model's, learning rate; a scaled size has its own share of it."""
    rate = cell.learning_rate or model.learning_rate.get(cell.stage, DEFAULT_LEARNING_RATE)
    rate /= scaled(model, cell.size, cell.vocab_size)[1]
    engine.prepare_training(learning_rate=rate, steps=cell.steps, optimizer=cell.optimizer)


def first_step(
    job: Job, registry: Registry, model: ModelSpec, data: CellData, engine: Engine, feed: loops.Feed
) -> float:
    """Take one step and return its seconds.

    Where it fails in this precision but not in plain fp32, the precision is unsupported.
    """
    order = training_order(feed.features, feed.layout, job.cell, 1)
    begin = time.perf_counter()
    try:
        loops.train_step(engine, next(feed(order)))
        engine.synchronize()
        return time.perf_counter() - begin
    except UserError:
        raise
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if job.cell.precision == "fp32" or is_out_of_memory(error):
            raise
        plain = Job.from_json({**job.to_json(), "cell": {**job.cell.to_json(), "precision": "fp32"}})
        engine, _ = start(plain, registry, model, data)
        prepare_training(engine, model, plain.cell)
        loops.train_step(engine, next(loops.Feed(engine, feed.features, feed.layout, feed.ctx, 0)(order)))
        reason = " ".join(str(error).split())[:300]
        raise Unsupported(
            f"{model.name} does not run in {job.cell.precision} on {job.cell.device}: {type(error).__name__}: {reason}"
        ) from error


def save_checkpoint(job: Job, engine: Engine, training: dict[str, Any]) -> None:
    """Write the checkpoint of this cell; it appears under its name only when it is whole."""
    folder = Path(job.run_dir) / "checkpoints" / job.cell.cell_id
    with atomic_folder(folder) as temporary:
        engine.save(temporary / "model.safetensors")
        (temporary / "cell.json").write_text(json.dumps({"cell": job.cell.to_json(), "training": training}))
