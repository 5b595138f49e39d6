"""A sweep of short cells with optimum-benchmark; runs in its own environment, started by `run.py`.

`prepare` writes models of llmbench's tiny sizes, randomly initialised, to a folder, since there is nothing to download,
and a configuration per cell, as optimum-benchmark's examples have them.
`api` runs all cells by its Python API, `command ARGUMENTS...` is the command `optimum-benchmark`, in this process.

Each cell is in a process of its own, by its `process` launcher. While that works the launcher asks again and again
whether it is done, and so takes a core, or half of the only one: here it does so at the lowest priority.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

TASK = "text-classification"
CONFIG = """defaults:
  - benchmark
  - scenario: inference
  - launcher: process
  - backend: pytorch
  - _self_
name: sweep
hydra:
  run: {dir: "runs/${name}"}
  sweep: {dir: runs, subdir: "${name}"}
  job: {chdir: true}
backend: {device: cpu, task: TASK, library: transformers}
""".replace("TASK", TASK)
CELL = """# @package _global_
defaults:
  - override /scenario: SCENARIO
"""


def wait_quietly() -> None:
    """Let the launcher wait at the lowest priority; its child, started before, has the ordinary one."""
    from optimum_benchmark.launchers.process import launcher

    launch, sync = launcher.ProcessLauncher.launch, launcher.sync_with_child

    def launched(*args: Any, **kwargs: Any) -> Any:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        return launch(*args, **kwargs)

    def synchronized(connection: Any) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 19)
        sync(connection)

    launcher.ProcessLauncher.launch, launcher.sync_with_child = launched, synchronized


def name_of(cell: dict[str, Any]) -> str:
    """Return the cell's name."""
    return f"{cell['model']}-{cell['stage']}-{cell['batch_size']}"


def prepare(folder: Path, request: dict[str, Any]) -> None:
    """Save a BERT and a GPT-2 of the size asked for."""
    from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

    size, vocab_size = request["size"], request["vocab_size"]
    bert = BertConfig(
        vocab_size=vocab_size,
        hidden_size=size["hidden"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        intermediate_size=4 * size["hidden"],
        max_position_embeddings=size["positions"],
    )
    gpt = GPT2Config(
        vocab_size=vocab_size,
        n_embd=size["hidden"],
        n_layer=size["layers"],
        n_head=size["heads"],
        n_positions=size["positions"],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    BertForSequenceClassification(bert).save_pretrained(folder / "bert")
    GPT2ForSequenceClassification(gpt).save_pretrained(folder / "gpt")
    (folder / "configs" / "cell").mkdir(parents=True)
    (folder / "configs" / "sweep.yaml").write_text(CONFIG, encoding="utf-8")
    for cell in request["cells"]:
        kind = {"eval": "inference", "finetune": "training"}[cell["stage"]]
        fields = {"name": name_of(cell), "backend": model_of(cell, folder), "scenario": asked(cell, request, folder)}
        text = CELL.replace("SCENARIO", kind) + "\n".join(f"{key}: {json.dumps(one)}" for key, one in fields.items())
        (folder / "configs" / "cell" / f"{name_of(cell)}.yaml").write_text(text + "\n", encoding="utf-8")


def asked(cell: dict[str, Any], request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the options of a cell's scenario."""
    if cell["stage"] == "eval":
        shapes = {"batch_size": cell["batch_size"], "sequence_length": request["seq_len"]}
        return {
            "input_shapes": shapes,
            "duration": 0,
            "iterations": request["iterations"],
            "warmup_runs": request["warmup"],
        }
    return {
        "max_steps": request["iterations"] + request["warmup"],
        "warmup_steps": request["warmup"],
        "dataset_shapes": {"dataset_size": request["examples"], "sequence_length": request["seq_len"]},
        "training_arguments": {
            "per_device_train_batch_size": cell["batch_size"],
            "output_dir": str(folder / "trainer"),
        },
    }


def model_of(cell: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return the options of a cell's backend that name its model."""
    return {"model": str(folder / cell["model"]), "model_type": {"bert": "bert", "gpt": "gpt2"}[cell["model"]]}


def run_cell(cell: dict[str, Any], request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one cell and return its report."""
    from optimum_benchmark import (
        Benchmark,
        BenchmarkConfig,
        InferenceConfig,
        ProcessConfig,
        PyTorchConfig,
        TrainingConfig,
    )

    backend = PyTorchConfig(**model_of(cell, folder), task=TASK, library="transformers", device="cpu")
    kind = InferenceConfig if cell["stage"] == "eval" else TrainingConfig
    config = BenchmarkConfig(
        name=name_of(cell), scenario=kind(**asked(cell, request, folder)), launcher=ProcessConfig(), backend=backend
    )
    return {**cell, "report": Benchmark.launch(config).to_dict()}


def main() -> None:
    """Do what `run.py` asks: `prepare REQUEST FOLDER`, `api REQUEST FOLDER` or `command ARGUMENTS...`."""
    what, *rest = sys.argv[1:]
    if what == "command":
        from optimum_benchmark.cli import main as command

        wait_quietly()
        sys.argv = ["optimum-benchmark", *rest]
        command()
        return
    request, folder = json.loads(rest[0]), Path(rest[1])
    if what == "prepare":
        prepare(folder, request)
        return
    os.environ |= {"LOG_LEVEL": "ERROR", "LOG_TO_FILE": "0"}
    wait_quietly()
    done = [run_cell(cell, request, folder) for cell in request["cells"]]
    (folder / "api.json").write_text(json.dumps(done, default=float), encoding="utf-8")


if __name__ == "__main__":
    main()
