"""Train with Lightning; runs in its own environment, started by `run.py`.

Set for speed: no logger, no checkpoints, no progress bar, no summary, no loader processes. Lightning refuses to clip
gradients of a fused optimizer in mixed precision; as its users do, the module clips by itself.

Lightning says its throughput only through `ThroughputMonitor`, which needs a logger: with `"monitor": true` it is on,
and prints, as its last line, what that says of the last window. Without it the last line holds versions only.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ThroughputMonitor
from lightning.pytorch.loggers.logger import Logger
from workload import LEARNING_RATE, MAX_GRAD_NORM, Setting, Workload, load, parameter_groups, rate_factor


class Module(lightning.LightningModule):
    """The module and how it is trained."""

    def __init__(self, model: Any, steps: int) -> None:
        super().__init__()
        self.model, self.steps = model, steps

    def training_step(self, batch: dict[str, Any], index: int) -> Any:
        """Return the loss."""
        return self.model(**batch)["loss"]

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule, which moves each step."""
        optimizer = torch.optim.AdamW(parameter_groups(self.model), lr=LEARNING_RATE, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, **_: Any) -> None:
        """Clip to the same norm as all others."""
        torch.nn.utils.clip_grad_norm_(self.parameters(), MAX_GRAD_NORM)


class Memory(Logger):
    """Keeps the latest values."""

    name, version = "memory", 0

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Remember."""
        self.values |= metrics

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""


def batches(work: Workload, setting: Setting) -> Any:
    """Return a loader of whole batches, shuffled each epoch."""
    return torch.utils.data.DataLoader(
        work.features,  # type: ignore[arg-type]
        batch_size=setting.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=work.collate,
        pin_memory=setting.device == "cuda",
    )


def main() -> None:
    """Train once."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    request = json.loads(sys.argv[1])
    setting = Setting(**request["setting"])
    work = load(setting, Path(request["folder"]), request["plugins"])
    memory, monitor = Memory(), request["monitor"]
    window = max(2, setting.steps // 2)
    watch = ThroughputMonitor(lambda batch: int(batch["attention_mask"].sum()), window_size=window)
    trainer = lightning.Trainer(
        accelerator="cpu" if setting.device == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed" if setting.precision == "bf16" else "32-true",
        max_steps=setting.steps,
        max_epochs=-1,
        logger=memory if monitor else False,
        callbacks=[watch] if monitor else [],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(work.build(), setting.steps), batches(work, setting))
    said = {"tokens_per_s": memory.values.get("train/device/samples_per_sec"), "window_steps": window}
    print(json.dumps({**said, "versions": {"lightning": lightning.__version__, "torch": torch.__version__}}))


if __name__ == "__main__":
    main()
