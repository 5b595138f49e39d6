"""A sweep of short cells with optimum-benchmark; runs in its own environment, started by `run.py`.

`prepare` writes models of llmbench's tiny sizes, randomly initialised, to a folder, since there is nothing to download.
`sweep` runs the cells, each in a process of its own by optimum-benchmark's `process` launcher, and writes one JSON file
with its reports.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ |= {"LOG_LEVEL": "ERROR", "LOG_TO_FILE": "0"}

TASK = "text-classification"


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


def scenario(cell: dict[str, Any], request: dict[str, Any], folder: Path) -> Any:
    """Return optimum-benchmark's scenario of a cell."""
    from optimum_benchmark import InferenceConfig, TrainingConfig

    if cell["stage"] == "eval":
        shapes = {"batch_size": cell["batch_size"], "sequence_length": request["seq_len"]}
        return InferenceConfig(
            input_shapes=shapes, duration=0, iterations=request["iterations"], warmup_runs=request["warmup"]
        )
    return TrainingConfig(
        max_steps=request["iterations"] + request["warmup"],
        warmup_steps=request["warmup"],
        dataset_shapes={"dataset_size": request["examples"], "sequence_length": request["seq_len"]},
        training_arguments={"per_device_train_batch_size": cell["batch_size"], "output_dir": str(folder / "trainer")},
    )


def run_cell(cell: dict[str, Any], request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one cell and return its report."""
    from optimum_benchmark import Benchmark, BenchmarkConfig, ProcessConfig, PyTorchConfig

    backend = PyTorchConfig(
        model=str(folder / cell["model"]),
        task=TASK,
        library="transformers",
        model_type={"bert": "bert", "gpt": "gpt2"}[cell["model"]],
        device="cpu",
    )
    name = f"{cell['model']}-{cell['stage']}-{cell['batch_size']}"
    config = BenchmarkConfig(
        name=name, scenario=scenario(cell, request, folder), launcher=ProcessConfig(), backend=backend
    )
    return {**cell, "report": Benchmark.launch(config).to_dict()}


def main() -> None:
    """Do what `run.py` asks: WHAT REQUEST FOLDER."""
    what, request, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    if what == "prepare":
        prepare(folder, request)
        return
    done = [run_cell(cell, request, folder) for cell in request["cells"]]
    (folder / "optimum.json").write_text(json.dumps(done, default=float), encoding="utf-8")


if __name__ == "__main__":
    main()
