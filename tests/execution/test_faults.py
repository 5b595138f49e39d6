"""A run with every kind of failing cell, killed in its middle, and gone on with: nothing is lost, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from support.limits import HANG_S
from support.paths import SUPPORT

PLUGIN = SUPPORT / "faulty_models.py"
SUITE = """name: faulty
matrix:
  model: [gpt, greedy, endless, raising, segfault, lstm]
  size: tiny
  task: classification
  stage: finetune
  dataset: synthetic
defaults: {batch_size: 4, seq_len: 32, vocab_size: 400, train_examples: 60, test_examples: 12, steps: 3}
repeats: 2
budget: {seconds: 0.2, memory_mib: 900}
verify: none
"""
#: What has no end is over after two seconds on any machine; the others have all the time that they need.
ENDLESS, OTHERS = ("-k", "endless", "--timeout", "2"), ("-k", "not endless")
STATUSES = {"gpt": "ok", "greedy": "oom", "endless": "timeout", "raising": "error", "segfault": "crashed", "lstm": "ok"}


def command(folder, *options):
    return [
        sys.executable,
        "-m",
        "llmbench",
        "run",
        "faulty.yaml",
        "--plugin",
        str(PLUGIN),
        "-o",
        str(folder),
        *options,
    ]


def start(folder, *options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(folder, *options),
        cwd=folder.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def records(folder):
    path = folder / "records.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """A run, killed with its whole process group once it has records of its own, and the same command again."""
    folder = tmp_path_factory.mktemp("faults") / "run"
    (folder.parent / "faulty.yaml").write_text(SUITE)
    start(folder, *ENDLESS).communicate(timeout=HANG_S)
    first = start(folder, *OTHERS)
    end = time.monotonic() + HANG_S
    while len(records(folder)) < 2:
        assert first.poll() is None and time.monotonic() < end, first.communicate()
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    kept = (folder / "records.jsonl").read_text()
    second = start(folder, *OTHERS)
    _, errors = second.communicate(timeout=HANG_S)
    return folder, kept, second.returncode, errors


def test_every_failure_has_its_own_status_and_the_other_cells_are_ok(killed_and_resumed):
    folder, _, code, errors = killed_and_resumed
    assert code == 1, errors
    assert {r["cell"]["model"]: r["status"] for r in records(folder) if r["repeat"] == 0} == STATUSES
    said = {r["cell"]["model"]: r["error"]["message"] for r in records(folder) if r["status"] != "ok"}
    assert "this plugin\nis broken" in said["raising"] and "2 s" in said["endless"] and "SIGSEGV" in said["segfault"]


def test_what_was_recorded_before_the_kill_is_kept_and_nothing_is_recorded_twice(killed_and_resumed):
    folder, kept, _, _ = killed_and_resumed
    assert kept.count("\n") >= 1 and (folder / "records.jsonl").read_text().startswith(kept)
    seen = Counter((r["cell_id"], r["repeat"]) for r in records(folder))
    assert set(seen.values()) == {1}
    assert len(seen) == 6 + 2  # the second repeat only of cells whose first is ok


def test_the_same_command_once_more_runs_nothing(killed_and_resumed):
    folder, _, _, _ = killed_and_resumed
    before = (folder / "records.jsonl").read_text()
    third = start(folder)
    _, errors = third.communicate(timeout=HANG_S)
    assert third.returncode == 1, errors
    assert (folder / "records.jsonl").read_text() == before
