"""`llmbench diagnose` and `llmbench.diagnose` on modules as users write them: a verdict, and everything as it was."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support import plain_models as plain
from support.clocks import Clock
from support.paths import ROOT

import llmbench
from llmbench.cli import cli

TARGETS = Path(plain.__file__)


class Timed(plain.GPT):
    """A model whose step takes 20 ms by the clock of a test."""

    clock = None

    def forward(self, *batch):
        self.clock.spend(0.02)
        return super().forward(*batch)


class TimedLoader(plain.Loader):
    """Batches that take 100 ms each."""

    clock = None

    def __iter__(self):
        for batch in super().__iter__():
            self.clock.spend(0.1)
            yield batch


def test_a_slow_loader_is_named_in_three_lines_and_everything_is_given_back(monkeypatch):
    torch.manual_seed(0)
    clock = Clock.instead_of_time(monkeypatch)
    for timed in (Timed, TimedLoader):
        monkeypatch.setattr(timed, "clock", clock)
    model, data = Timed(), TimedLoader(plain.texts())
    optimizer = torch.optim.AdamW(model.parameters())
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = llmbench.diagnose(model=model, data=data, optimizer=optimizer, budget_s=40)
    assert found.verdict == "input" and found.document["verdict_class"] == "data"
    assert found.headroom_x == pytest.approx(6, rel=0.01) and repr(found).startswith("Diagnosis(input, ")
    (row,) = [r for r in found.document["bottlenecks"] if r["cause"] == "input"]
    assert row["predicted_x"] == pytest.approx(6, rel=0.01) == pytest.approx(row["measured_x"], rel=0.01)
    assert "is bounded by input (data: " in str(found) and "<p>" in found._repr_html_()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert optimizer.state_dict()["state"] == {} and all(p.grad is None for p in model.parameters())


@pytest.mark.timed
def test_a_slow_loader_is_named_by_the_real_clock():
    torch.manual_seed(0)
    found = llmbench.diagnose(model=plain.GPT(), data=plain.Loader(plain.texts(), sleep=0.1), budget_s=40)
    assert found.verdict == "input" and found.headroom_x > 1.5
    (row,) = [r for r in found.document["bottlenecks"] if r["cause"] == "input"]
    assert 1 / row["predicted_x"] == pytest.approx(1 / row["measured_x"], abs=0.1)  # shares of the step that stay


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"model": plain.GPT(), "data": []}, "data gives no batch"),
        ({"model": None, "data": plain.texts()}, "model must be a torch.nn.Module, not NoneType"),
        ({"model": plain.GPT(), "data": plain.texts(), "budget_s": 0}, "budget_s 0: give seconds, such as 60"),
        ({"model": plain.GPT(), "data": plain.texts(), "verify": "some"}, "verify 'some': write"),
    ],
)
def test_what_cannot_be_diagnosed_is_one_line(given, line):
    with pytest.raises(llmbench.UserError, match=line):
        llmbench.diagnose(**given)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("no_colon", "write package.module:function or FILE.py:function"),
        (f"{TARGETS}:slow_loade", "has no function 'slow_loade' (did you mean 'slow_loader'?)"),
        (f"{TARGETS}:no_model", "model must be a torch.nn.Module, not NoneType"),
        (f"{TARGETS}:raises", "calling it failed: RuntimeError: no data here"),
    ],
)
def test_a_wrong_target_is_one_line_and_exit_2(target, line):
    ended = subprocess.run(
        [sys.executable, "-m", "llmbench", "diagnose", target], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert line in ended.stderr and len(ended.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_loader_with_processes_of_a_script_of_ones_own_is_diagnosed():
    command = [sys.executable, "-m", "llmbench", "diagnose", f"{TARGETS}:with_workers", "--budget", "25", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (
        found["step_ms"] > 0
        and found["reproduce"].startswith("llmbench diagnose ")
        and " -k " not in found["reproduce"]
    )


@pytest.mark.timed
@pytest.mark.parametrize("name", ["diagnose_gpt", "diagnose_transformers"])
def test_the_examples_get_a_verdict_within_their_budget(name):
    begin = time.perf_counter()
    result = CliRunner().invoke(cli, ["diagnose", f"{ROOT / 'examples' / name}.py:target", "--budget", "30", "--json"])
    took = time.perf_counter() - begin
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["verdict"] and found["bottlenecks"]
    assert took < 4 * 30  # the budget, with room for a machine that does other work
