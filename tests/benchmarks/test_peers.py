"""What the comparison with peers makes of its measurements; the peers themselves are not needed."""

from __future__ import annotations

import importlib
import os
import queue
import sys
import threading

import pytest
from support.limits import HANG_S
from support.paths import ROOT

PEERS = ROOT / "benchmarks" / "peers"


@pytest.fixture
def script(monkeypatch):
    """Import one of the scripts, which are not a package."""
    monkeypatch.syspath_prepend(str(PEERS.parent))
    monkeypatch.syspath_prepend(str(PEERS))
    yield importlib.import_module
    for path in (*PEERS.glob("*.py"), PEERS.with_name("workload.py")):
        sys.modules.pop(path.stem, None)


def test_a_module_waits_for_leave_before_each_step_and_the_pipe_sees_every_one(script, tmp_path):
    pipe, told = script("pipe"), script("told")
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    end = os.open(gate, os.O_RDWR)
    taken: queue.Queue[int] = queue.Queue()

    def work() -> None:
        wait = told.gate_of(str(gate))
        tells = os.open(tmp_path / "pipe", os.O_WRONLY)
        for step in range(5):
            os.write(tells, b"16\n")
            wait()
            taken.put(step)
        os.close(tells)

    with pipe.Steps(tmp_path / "pipe") as steps:
        thread = threading.Thread(target=work)
        thread.start()
        os.write(end, b"%08d" % 2)
        assert [taken.get(timeout=HANG_S) for _ in range(2)] == [0, 1]
        for _ in range(100 * HANG_S):
            if len(steps.seen) == 3:
                break
            thread.join(timeout=0.01)
        with pytest.raises(queue.Empty):
            taken.get(timeout=0.2)
        assert [tokens for _, tokens in steps.seen] == [16] * 3  # the third has begun, and waits
        os.write(end, b"%08d" % 3)
        thread.join(timeout=HANG_S)
    os.close(end)
    assert len(steps.seen) == 5 and int(gate.with_name("gate.pid").read_text()) == os.getpid()


def test_tokens_are_those_of_the_steps_that_are_over(script):
    seen = [(0.0, 10), (1.0, 20), (3.0, 1000)]
    assert script("pipe").tokens_per_s(seen) == pytest.approx(10)


def test_turns_are_compared_block_by_block_and_drift_cancels(script):
    drift = [1.0, 0.5, 0.8, 0.9, 0.6, 1.1]
    session = {"gpt": {"llmbench": [110 * d for d in drift], "trainer": [100 * d for d in drift], "lightning": drift}}
    rows = {row["tool"]: row for row in script("turns").rows([session, session])}
    assert rows["trainer"]["ratio"] == pytest.approx(1.1) and rows["trainer"]["ratio_ci"][0] > 1.09
    assert rows["lightning"]["ratio"] == pytest.approx(110)
    assert rows["llmbench"]["processes"] == 2 and rows["llmbench"]["blocks"] == 12 and "ratio" not in rows["llmbench"]


def test_the_overhead_of_a_sweep_is_compared_with_each_way_that_has_run(script):
    ours = [{"overhead_s": 10.0}, {"overhead_s": 12.0}]
    found = {
        "llmbench": ours,
        "api": [{"overhead_s": 100.0}, {"overhead_s": 120.0}],
        "commands": [{"overhead_s": 200.0}],
    }
    summary = script("run").sweep_summary(found, "llmbench")
    assert set(summary) == {"api", "commands"}
    assert summary["api"]["overhead_ratio"] == pytest.approx(0.1)
    assert summary["commands"]["overhead_ratio"] == pytest.approx(0.05)


def test_measurements_go_on_where_they_ended(script, tmp_path):
    kept = script("run").Kept(tmp_path / "peers.json", 1e9)
    kept.document["speed_raw"] = {"gpt": {}}
    kept.save()
    again = script("run").Kept(tmp_path / "peers.json", -1.0)
    assert again.document == {"speed_raw": {"gpt": {}}}
    assert again.over() and not kept.over()


def test_a_verdict_names_the_cause_or_is_compatible_with_it_and_none_is_a_miss(script):
    known = {
        "a": {"cause": "input", "status": "INPUT_BOUND"},  # names it
        "b": {"cause": "attention", "status": "COMPUTE_BOUND"},  # compatible
        "c": {"cause": "host", "status": "COMPUTE_BOUND"},
        "d": {"cause": "padding", "status": None},
        "e": {"cause": None, "status": "COMPUTE_BOUND"},  # a control that is left alone
        "f": {"cause": None, "status": "INPUT_BOUND"},
        "g": {"cause": None, "status": None},
    }
    row = {"case": "b", "cause": "attention", "axis": "where", "found": {"verdict_where": "attention"}}
    found = script("with_traceml").scores([row], known)
    assert found["planted"] == {
        "cases": 4,
        "traceml_named": 1,
        "traceml_compatible": 2,
        "traceml_without_verdict": 1,
        "llmbench_cases": 1,
        "llmbench": 1,
    }
    assert (found["controls"]["cases"], found["controls"]["traceml_named"]) == (3, 1)


def test_what_traceml_is_asked_samples_every_cause_that_can_run(script):
    from llmbench.planted.cases import runnable

    some = script("with_traceml").chosen(2, 6)
    causes = [case.cause for case in some]
    assert set(causes) == {case.cause for case in runnable()}
    assert causes.count(None) == 6 and all(causes.count(cause) == 2 for cause in causes if cause)
