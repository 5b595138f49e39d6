"""Our clean pass beside a bare loop, and what it says of itself; `overhead.py` is the real measurement. `-m slow`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "benchmarks" / "overhead.py"


@pytest.mark.parametrize("model", ["lstm", "bert", "gpt"])
def test_a_clean_step_costs_what_a_bare_step_does(benchmark, tmp_path, model):
    """A few pairs only: the lower end of the interval is compared, which noise alone seldom lifts above the limit."""
    output = tmp_path / "overhead.json"
    command = [sys.executable, str(SCRIPT), "--models", model, "--precisions", "fp32", "--rounds", "2", "--pairs", "6"]
    benchmark.pedantic(subprocess.run, args=([*command, "-o", str(output)],), kwargs={"check": True}, rounds=1)
    document = json.loads(output.read_text(encoding="utf-8"))
    if not document["rows"]:
        pytest.skip("other processes used the cores of this one: nothing can be said")
    (row,) = document["rows"]
    benchmark.extra_info.update({name: row[name] for name in ("ours_ms", "bare_ms", "ratio", "ratio_ci")})
    assert row["ratio_ci"][0] <= document["limit"]
    assert row["printed_tokens_per_s"] == pytest.approx(row["outside_tokens_per_s"], rel=0.02)
