"""Commands as tests run them, and a small suite for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.limits import HANG_S

SMALL = """name: small
matrix: {model: lstm, size: tiny, task: classification, stage: [finetune, eval], dataset: synthetic}
defaults: {batch_size: 4, seq_len: 32, vocab_size: 400, train_examples: 60, test_examples: 12, steps: {finetune: 3}}
repeats: 1
budget: {seconds: 0.1}
verify: none
"""


def call(capsys, *args):
    """Run a command in this process; return the exit code, standard output and standard error."""
    from llmbench.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(args)
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


def pytest_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-rs", *words]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}  # it is no worker of these tests
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=HANG_S, check=False)
