"""The model, the data and the order of batches that everything in this folder trains, taken from llmbench itself.

The work is llmbench's own cell `pretrain/MODEL/SIZE/pretraining/PRECISION`; so a bare loop, a trainer and llmbench
train the same module on the same batches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS, PRECISIONS = ("lstm", "bert", "gpt"), ("fp32", "bf16")
#: What every arm trains with; `TorchEngine.prepare_training` and `update` do the same.
LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM, WARMUP_SHARE, LEAST_FACTOR = 1e-3, 0.01, 1.0, 0.1, 0.02

#: glibc gives the top of its heap back to the system where enough of it is free, and the next step then faults it in
#: again, page by page. Whether it does depends on what happens to lie there: on the process, not on the loop.
STEADY_ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(1 << 32), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}


@dataclass(frozen=True)
class Setting:
    """What is trained. `prefix` goes before the model's name, for a plugin that wraps the built-in models."""

    model: str
    size: str = "tiny"
    precision: str = "fp32"
    device: str = "cpu"
    batch_size: int = 16
    seq_len: int = 64
    vocab_size: int = 1024
    train_examples: int = 2000
    steps: int = 200
    prefix: str = ""

    @property
    def label(self) -> str:
        """Model, size and precision."""
        return f"{self.model}/{self.size}/{self.precision}"

    def suite(self, name: str, seconds: float) -> dict[str, Any]:
        """Return the suite that has this cell alone, measured once for `seconds`."""
        matrix = {"model": self.prefix + self.model, "size": self.size, "task": "classification", "stage": ["pretrain"]}
        fields = ("batch_size", "seq_len", "vocab_size", "train_examples", "steps")
        return {
            "name": name,
            "matrix": {**matrix, "device": self.device, "precision": self.precision},
            "defaults": {"test_examples": 8, **{field: getattr(self, field) for field in fields}},
            "repeats": 1,
            "budget": {"seconds": seconds, "ci_pct": 0.1},
            "verify": "none",
        }


def write_suite(suite: dict[str, Any], path: Path) -> Path:
    """Write a suite file; JSON is YAML."""
    path.write_text(json.dumps(suite, indent=1), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Workload:
    """The cell of a `Setting` as a loop without llmbench trains it: the same module, batches and order."""

    run: Any  # a `llmbench.worker.cell_run.CellRun`

    @property
    def job(self) -> Any:
        """The job that llmbench's worker would be given."""
        return self.run.job

    @property
    def features(self) -> Sequence[Any]:
        """The training examples, encoded."""
        return self.run.features(train=True)

    def build(self) -> Any:
        """Return a new module in float32 on the host, with the weights of the cell's seed."""
        import torch

        torch.manual_seed(self.job.cell.seed)
        return self.run.model.build(self.run.build_request())

    def order(self, steps: int) -> list[list[int]]:
        """Return llmbench's batches, as indices of features."""
        return self.run.order(steps, train=True)

    def collate(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return the arguments of the module's forward pass as tensors."""
        import torch

        arrays = self.run.layout.collate(rows, self.run.collate_context(train=True)).arrays
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def load(setting: Setting, folder: Path, plugin_files: Sequence[str] = ()) -> Workload:
    """Plan the one cell of `setting` and load its data; the tokenizer and the features are kept in `folder`."""
    from llmbench.contract.job import Job
    from llmbench.plugins.discovery import discover
    from llmbench.suite.file import load_suite
    from llmbench.suite.plan import plan_cells
    from llmbench.worker.cell_run import CellRun

    path = write_suite(setting.suite("workload", 1.0), folder / f"{setting.label.replace('/', '-')}.yaml")
    plan = plan_cells(load_suite(str(path)), discover(plugin_files))
    (planned,) = plan.cells
    if planned.obstacle:
        raise SystemExit(f"{setting.label}: {planned.obstacle}")
    options = {"corpora": tuple(plan.corpora), "plugin_files": tuple(map(str, plugin_files))}
    job = Job.single(planned.cell, plan.suite.budget, str(folder), sources=plan.sources, **options)
    return Workload(CellRun.open(job, lambda event: None))


def parameter_groups(module: Any) -> list[dict[str, Any]]:
    """Return AdamW's groups: no decay of biases and norms."""
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak learning rate at `step`: linear warm-up, then linear decay."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(LEAST_FACTOR, (steps - step) / max(1, steps - warmup))
