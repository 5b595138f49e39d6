"""Whole jobs of Keras through the fork server, from fine-tuning to the report."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from support.limits import HANG_S

SUITE = """name: small
matrix:
  {model: [keras-lstm, torch-lstm], size: tiny, task: classification, stage: [finetune, eval]}
defaults:
  {optimizer: adam, batch_size: 16, seq_len: 32, vocab_size: 400, train_examples: 300, test_examples: 60, steps: 60}
repeats: 1
budget: {seconds: 0.5, verify_seconds: 10}
verify: verdict
"""
LACKS = [name for name in ("keras", "tensorflow") if importlib.util.find_spec(name) is None]


def llmbench(*words):
    return subprocess.run(
        [sys.executable, "-m", "llmbench", *words],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.skipif(bool(LACKS), reason=f"{' and '.join(LACKS)} not installed (pip install 'llmbench[keras]')")
def test_keras_cells_run_beside_torch_from_one_fork_server(tmp_path):
    (tmp_path / "small.yaml").write_text(SUITE)
    done = llmbench("run", str(tmp_path / "small.yaml"), "-o", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fresh processes" not in done.stderr  # the server ran one thread, so that its children could be forked
    report = json.loads(llmbench("report", str(tmp_path / "run"), "--format", "json").stdout)
    cells = {(cell["model"], cell["stage"]): cell for cell in report["cells"]}
    assert [cell["status"] for cell in cells.values()] == ["ok"] * 4
    for stage in ("finetune", "eval"):
        one, other = cells["keras-lstm", stage], cells["torch-lstm", stage]
        assert one["model_flops_per_step"] == pytest.approx(other["model_flops_per_step"], rel=0.05)
        assert one["flops_per_step"] == pytest.approx(other["flops_per_step"], rel=0.05)
        assert one["verdict_where"] and one["verdict_why"] == "unisolated"
    one = cells["keras-lstm", "finetune"]["cell_id"]
    tried = {row["cause"]: row for row in report["bottlenecks"] if row["cell_id"] == one}
    assert tried["recurrence"]["measured_x"] > 1.5
    assert tried["input"]["predicted_x"] > 1 and tried["optimizer"]["predicted_x"] is not None
