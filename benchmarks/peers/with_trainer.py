"""Train with Hugging Face's Trainer; runs in its own environment, started by `run.py`.

Set for speed: no logging, no checkpoints, no progress bar, no filter of losses that are not finite (it would wait for
the device in each step), no loader processes. Prints as its last line a JSON object with what Trainer says of itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from workload import LEARNING_RATE, MAX_GRAD_NORM, WARMUP_SHARE, WEIGHT_DECAY, Setting, load


def arguments(setting: Setting, folder: str) -> transformers.TrainingArguments:
    """Return Trainer's settings."""
    return transformers.TrainingArguments(
        output_dir=folder,
        max_steps=setting.steps,
        per_device_train_batch_size=setting.batch_size,
        dataloader_num_workers=0,
        dataloader_drop_last=True,
        dataloader_pin_memory=setting.device == "cuda",
        use_cpu=setting.device == "cpu",
        bf16=setting.precision == "bf16",
        optim="adamw_torch_fused",
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_GRAD_NORM,
        lr_scheduler_type="linear",
        warmup_steps=max(1, round(WARMUP_SHARE * setting.steps)),
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def main() -> None:
    """Train once."""
    request = json.loads(sys.argv[1])
    setting = Setting(**request["setting"])
    work = load(setting, Path(request["folder"]), request["plugins"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=work.build(),
            args=arguments(setting, folder),
            train_dataset=work.features,
            data_collator=work.collate,
        )
        metrics = trainer.train().metrics
    per_sample = sum(len(feature["ids"]) for feature in work.features) / len(work.features)
    said = {"train_samples_per_second": metrics["train_samples_per_second"], "loss": metrics["train_loss"]}
    said["tokens_per_s"] = metrics["train_samples_per_second"] * per_sample
    print(json.dumps({**said, "versions": {"transformers": transformers.__version__, "torch": torch.__version__}}))


if __name__ == "__main__":
    main()
