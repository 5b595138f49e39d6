"""Fault injection: whatever a cell's process does, the run gets a true record and goes on."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.limits import HANG_S
from support.paths import SUPPORT

from llmbench.contract.cell import Budget, Cell
from llmbench.contract.errors import DataError
from llmbench.contract.job import Job, new_record
from llmbench.execution import local
from llmbench.execution.local import LocalExecutor
from llmbench.execution.scheduler import Outcome, RunContext, Schedule, pairs_left
from llmbench.plugins.registry import Registry
from llmbench.records.run_dir import RunDir
from llmbench.suite.file import Suite
from llmbench.suite.plan import Plan, PlannedCell

FAULTS = SUPPORT / "faulty_jobs.py"


def make_cell(model="m", **fields):
    return Cell(model=model, size="tiny", task="t", dataset="d@0", stage="eval", **fields)


def make_job(folder, memory_mib=None):
    return Job.single(make_cell(), Budget(memory_mib=memory_mib), str(folder))


def run(folder, fault, memory_mib=None, **options):
    with LocalExecutor(folder / "logs", target=f"{FAULTS}:{fault}", **options) as executor:
        return executor.run(make_job(folder, memory_mib))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition):
    end = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def time_is_up(monkeypatch):
    """What to do on an event, so that the limit of the cell that sends it is over, however fast the machine is."""
    real, ahead = time.monotonic, []
    monkeypatch.setattr(time, "monotonic", lambda: real() + sum(ahead))
    return lambda event: ahead.append(2 * HANG_S)


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_good_cell_gives_its_record_and_its_events_in_order(tmp_path, start_method):
    events = []
    with LocalExecutor(
        tmp_path / "logs", target=f"{FAULTS}:ok", start_method=start_method, on_event=events.append
    ) as executor:
        record = executor.run(make_job(tmp_path))
        assert executor.start_method == start_method
    assert record["status"] == "ok" and record["samples"] == {"step_s": [0.1, None]}
    assert [e["step"] for e in events] == [0, 1, 2]
    assert record["started_at"].endswith("+00:00") and record["wall_s"] > 0
    assert not (tmp_path / ".work").exists()


@pytest.mark.parametrize(
    ("fault", "status", "kind", "says"),
    [
        ("raises", "error", "ValueError", "no good"),
        ("unsupported", "unsupported", "Unsupported", "fp8 needs another device"),
        ("segfault", "crashed", "SIGSEGV", "SIGSEGV"),
        ("leaves", "crashed", "Exit", "exit code 3"),
        ("aborts_for_memory", "oom", "SIGABRT", "memory"),
        ("unwritable", "error", "TypeError", "object"),
        ("missing", "error", "AttributeError", "missing"),
    ],
)
def test_a_fault_becomes_a_record(tmp_path, fault, status, kind, says):
    record = run(tmp_path, fault)
    assert (record["status"], record["error"]["type"]) == (status, kind)
    assert says in record["error"]["message"]
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize(
    "how, says", [("segfaults", "was trying"), ("is_killed", "was trying"), ("hangs", "was trying")]
)
def test_what_a_worker_handed_over_outlives_it(tmp_path, how, says, time_is_up):
    record = run(tmp_path, f"keeps_then_{how}", timeout_s=HANG_S, on_event=time_is_up if how == "hangs" else None)
    assert (record["status"], record["warnings"]) == ("ok", [says]) and record["samples"] == {"step_s": [0.1]}
    assert record["wall_s"] > 0 and record["started_at"]


def test_what_a_worker_returns_counts_more_than_what_it_handed_over(tmp_path):
    assert run(tmp_path, "keeps_then_survives")["warnings"] == ["survived"]


def test_the_log_of_a_crash_is_its_traceback(tmp_path):
    record = run(tmp_path, "segfault")
    assert "last words" in record["error"]["traceback"] and "in segfault" in record["error"]["traceback"]


def test_a_hang_is_stopped_and_says_where_it_was(tmp_path, time_is_up):
    record = run(tmp_path, "hangs_in_here", timeout_s=HANG_S, on_event=time_is_up)
    assert record["status"] == "timeout" and "in hangs_in_here" in record["error"]["traceback"]
    assert record["wall_s"] >= HANG_S and f"the limit of {HANG_S} s" in record["error"]["message"]


def test_a_hang_is_stopped_behind_its_limit(tmp_path):
    record = run(tmp_path, "hangs_in_here", timeout_s=0.7)
    assert record["status"] == "timeout" and record["wall_s"] >= 0.7


@pytest.mark.timed
def test_a_hang_is_stopped_soon_behind_its_limit(tmp_path):
    start_s = time.monotonic()
    assert run(tmp_path, "hangs_in_here", timeout_s=0.7)["wall_s"] < 3
    assert time.monotonic() - start_s < 30


@pytest.mark.parametrize("fault", ["hog", "torch_hog"])
def test_a_memory_hog_ends_at_its_limit(tmp_path, fault):
    record = run(tmp_path, fault, memory_mib=1024)
    assert record["status"] == "oom", record["error"]


def test_a_cell_below_its_limit_is_left_alone(tmp_path):
    assert run(tmp_path, "ok", memory_mib=1024)["status"] == "ok"


def test_what_a_cell_leaves_running_is_killed(tmp_path):
    events = []
    assert run(tmp_path, "leaves_a_helper", on_event=events.append)["status"] == "ok"
    wait_until(lambda: not alive(events[0]["pid"]))


def test_the_parent_waits_for_a_cell_and_does_not_ask_again_and_again(tmp_path, monkeypatch):
    waits = []
    wait = local.wait
    monkeypatch.setattr(local, "wait", lambda sources, limit_s: waits.append(limit_s) or wait(sources, limit_s))
    assert run(tmp_path, "sleeps")["status"] == "ok"
    assert waits in ([None], [None, None])  # for its end; before that, its pipe may be closed


@pytest.mark.timed
def test_the_parent_sleeps_while_a_cell_works(tmp_path):
    with LocalExecutor(tmp_path / "logs", target=f"{FAULTS}:ok") as executor:
        executor.run(make_job(tmp_path))
        executor.target = f"{FAULTS}:sleeps"
        before = resource.getrusage(resource.RUSAGE_SELF)
        assert executor.run(make_job(tmp_path))["wall_s"] >= 2
        after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.2


def test_the_fork_server_is_single_threaded_and_its_children_can_compute(tmp_path):
    events = []
    with LocalExecutor(
        tmp_path / "logs", target=f"{FAULTS}:tensor_job", timeout_s=HANG_S, on_event=events.append
    ) as executor:
        assert executor.server_threads() == 1
        assert executor.run(make_job(tmp_path))["status"] == "ok"
        assert executor.start_method == "forkserver"
    assert events == [{"event": "sum", "value": 512.0**3}]


def test_a_forked_cell_collects_garbage_but_not_the_imported_libraries(tmp_path):
    with LocalExecutor(tmp_path / "logs") as executor:
        found = executor.call(f"{FAULTS}:collector")
        assert executor.start_method == "forkserver"
    assert found["enabled"] and found["frozen"] > 50_000  # torch alone is more


def test_call_returns_the_value_or_raises_what_was_raised(tmp_path):
    with LocalExecutor(tmp_path / "logs") as executor:
        assert executor.call(f"{FAULTS}:echo", 1, "two")["args"] == [1, "two"]
        with pytest.raises(DataError, match=r"data.csv:3: no label"):
            executor.call(f"{FAULTS}:user_mistake")
        with pytest.raises(RuntimeError, match="nowhere"):
            executor.call("nowhere:f")


# --- processes of their own -----------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from llmbench.execution import local
from llmbench.execution.local import LocalExecutor
from llmbench.contract.cell import Cell
from llmbench.contract.job import Job

local.PRELOAD = ("llmbench.execution.child",)
print("imported", flush=True)
folder, target, method, *preload = sys.argv[1:]
cell = Cell(model="m", size="tiny", task="t", dataset="d@0", stage="eval")
job = Job.single(cell, run_dir=folder)
events = lambda event: print(event, flush=True)
with LocalExecutor(folder + "/logs", target=target, start_method=method, preload=preload, on_event=events) as executor:
    print(executor.run(job)["status"], executor.start_method, executor.call("platform:system"), flush=True)
"""


def start_script(tmp_path, fault, method="forkserver", *preload, stdin=False):
    args = [str(tmp_path), f"{FAULTS}:{fault}", method, *preload]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-" if stdin else str(tmp_path / "script.py"), *args]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )
    if stdin:
        process.stdin.write(SCRIPT)
    process.stdin.close()
    process.stdin = None
    return process


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("stdin", [False, True])
def test_the_users_script_is_not_run_again(tmp_path, method, stdin):
    out, err = start_script(tmp_path, "ok", method, stdin=stdin).communicate(timeout=HANG_S)
    assert out.count("imported") == 1 and out.endswith(f"ok {method} Linux\n"), err


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "2 threads"),
        ("raise ValueError('broken')", "could not be used"),
    ],
)
def test_a_fork_server_that_is_no_good_is_replaced(tmp_path, code, says):
    (tmp_path / "bad_preload.py").write_text(code)
    out, err = start_script(tmp_path, "ok", "forkserver", "bad_preload").communicate(timeout=HANG_S)
    assert out.endswith("ok spawn Linux\n") and says in err


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    ("fault", "whole_group"),
    [("forks_then_sleeps", True), ("forks_then_sleeps", False), ("forks_slowly_then_sleeps", True)],
)
def test_kill_9_of_the_run_leaves_no_orphan(tmp_path, method, fault, whole_group):
    process = start_script(tmp_path, fault, method)
    assert process.stdout.readline() == "imported\n"
    pids = json.loads(process.stdout.readline().replace("'", '"'))["pids"]
    assert all(alive(pid) for pid in pids)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.communicate(timeout=HANG_S)
    wait_until(lambda: not any(alive(pid) for pid in pids))


# --- plans ----------------------------------------------------------------------------------------------


def plan_of(*cells, repeats=1, blocked=(), **budget):
    planned = tuple(PlannedCell(c, "no such device" if c.model in blocked else None) for c in cells)
    suite = Suite("faults", {}, {}, (), (), repeats, Budget(**budget), verify="none", source="", document={})
    return Plan(suite, planned, sources={}, corpora=())


class Listener:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.jobs, self.records, self.left = [], [], []

    def start(self, job):
        self.jobs.append(job)

    def record(self, record):
        self.records.append(record)

    def expect(self, processes, first=0):
        self.left.append(processes)


def run_plan(plan, run_dir, executor, **options) -> Outcome:
    with Schedule(RunContext(plan, run_dir, executor, Registry({}), **options)).interruptible() as schedule:
        schedule.run_plan()
    return schedule.outcome


def execute(tmp_path, plan, on_event=None, target="by_model", listener=None, **options):
    """Run `plan` in tmp_path; return the outcome and what was recorded by it: (model, repeat, attempt, status)."""
    notes = listener or Listener()
    executor = LocalExecutor(tmp_path / "logs", target=f"{FAULTS}:{target}", on_event=on_event)
    with RunDir.open(tmp_path, write=True) as run_dir, executor:
        outcome = run_plan(plan, run_dir, executor, listener=notes, **options)
    return outcome, [(r["cell"]["model"], r["repeat"], r["attempt"], r["status"]) for r in notes.records]


@pytest.mark.parametrize(
    ("fields", "looks"),
    [
        ({}, (None, "first", "verdict")),
        ({"measure": "speed"}, (False, "none", "none")),
        ({"learning": {"seeds": 2}}, (True, "none", "verdict")),
        ({"scaling": {"seq_len": [8, 16, 32]}}, (None, "all", "verdict")),
        ({"scaling": {"seq_len": [8, 16, 32]}, "learning": {"seeds": 2}}, (True, "all", "verdict")),
        ({"scaling": {"seq_len": [8, 16, 32]}, "measure": "speed"}, (False, "none", "none")),
    ],
)
def test_jobs_look_at_what_the_suite_asks_for(tmp_path, fields, looks):
    jobs = []

    class Notes:
        def run(self, job):
            jobs.append(job)
            return new_record(job, "ok")

    plan = plan_of(make_cell("a"))
    verify = "none" if fields.get("measure") == "speed" else "verdict"
    plan = dataclasses.replace(plan, suite=dataclasses.replace(plan.suite, verify=verify, **fields))
    with RunDir.open(tmp_path, write=True) as run_dir:
        run_plan(plan, run_dir, Notes())
    assert [(job.score, job.trace, job.verify) for job in jobs] == [looks]
    assert jobs[0].is_scored == (looks[0] is not False)


def test_repeats_are_interleaved_and_a_resumed_run_has_nothing_to_do(tmp_path):
    plan = plan_of(make_cell("a"), make_cell("b"), make_cell("c"), repeats=2, blocked=["c"])
    outcome, seen = execute(tmp_path, plan)
    assert seen == [
        ("a", 0, 0, "ok"),
        ("b", 0, 0, "ok"),
        ("c", 0, 0, "unsupported"),
        ("a", 1, 0, "ok"),
        ("b", 1, 0, "ok"),
    ]
    assert outcome.counts == {"ok": 4, "unsupported": 1} and outcome.ran == 4 and not outcome.failed
    again, seen = execute(tmp_path, plan)
    assert seen == [] and again.counts == outcome.counts and again.ran == 0


def noisy_plan(**changes):
    cells = [make_cell(name) for name in ("calm", "noisy", "noisy-fails-later")]
    return plan_of(*cells, **{"repeats": 3, "max_repeats": 6, "ci_pct": 5.0, **changes})


FIRST = [(name, repeat, 0, "ok") for repeat in range(3) for name in ("calm", "noisy", "noisy-fails-later")]
FURTHER = [(name, r, 0, s) for r in (3, 4, 5) for name, s in (("noisy", "ok"), ("noisy-fails-later", "error"))]


def test_what_the_first_processes_ask_for_is_run_in_rounds_behind_them(tmp_path):
    notes = Listener()
    outcome, seen = execute(tmp_path, noisy_plan(), target="jittery", listener=notes)
    jobs = notes.jobs
    assert seen == FIRST + FURTHER and notes.left == [6]
    assert outcome.ran == 15 and outcome.counts == {"ok": 12, "error": 3}
    assert {job.processes for job in jobs[:9]} == {3} and {job.processes for job in jobs[9:]} == {6}
    assert {job.repeats for job in jobs} == {3}  # all processes are timed equally long
    again = Listener()
    assert execute(tmp_path, noisy_plan(), target="jittery", listener=again)[1] == [] and again.left == [0]
    assert execute(tmp_path / "fixed", noisy_plan(max_repeats=None), target="jittery")[1] == FIRST


@pytest.mark.parametrize("cut", range(1, 15, 3))
def test_a_resumed_run_decides_as_the_whole_one_did(tmp_path, cut):
    class Stop(Exception):
        pass

    class Stopper(Listener):
        def start(self, job):
            super().start(job)
            if len(self.jobs) > cut:
                raise Stop

    with pytest.raises(Stop):
        execute(tmp_path, noisy_plan(), target="jittery", listener=Stopper())
    with RunDir.open(tmp_path, write=True) as run_dir:
        left = pairs_left(noisy_plan(), run_dir)
    assert len(left) == (9 if cut < 9 else 15) - cut  # what is known before: the first ones, else the further
    _, seen = execute(tmp_path, noisy_plan(), target="jittery")
    assert seen == (FIRST + FURTHER)[cut:]


def test_a_cell_that_failed_is_not_left(tmp_path):
    plan = plan_of(make_cell("fails"), make_cell("other"), make_cell("c"), repeats=2, blocked=["c"])
    with RunDir.open(tmp_path, write=True) as run_dir:
        assert len(pairs_left(plan, run_dir)) == 5
    execute(tmp_path, plan)
    with RunDir.open(tmp_path, write=True) as run_dir:
        assert pairs_left(plan, run_dir) == set()
        assert len(pairs_left(plan, run_dir, retry_failed=True)) == 2


def test_a_failure_skips_its_descendants_and_its_repeats_and_can_be_retried(tmp_path):
    parent = make_cell("fails")
    child = make_cell("child", parent=parent.cell_id)
    grandchild = make_cell("grandchild", parent=child.cell_id)
    plan = plan_of(parent, child, grandchild, make_cell("other"), repeats=2)
    outcome, seen = execute(tmp_path, plan)
    first = [
        ("fails", 0, 0, "error"),
        ("child", 0, 0, "skipped"),
        ("grandchild", 0, 0, "skipped"),
        ("other", 0, 0, "ok"),
    ]
    assert seen == [*first, ("other", 1, 0, "ok")]
    assert outcome.failed
    assert execute(tmp_path, plan)[1] == []
    assert execute(tmp_path, plan, retry_failed=True)[1] == [("fails", 0, 1, "error")]


def test_what_descends_from_an_unsupported_cell_is_unsupported_for_its_reason(tmp_path):
    parent = make_cell("unsupported")
    child = make_cell("child", parent=parent.cell_id)
    grandchild = make_cell("grandchild", parent=child.cell_id)
    plan = plan_of(parent, child, grandchild, make_cell("other"))
    outcome, seen = execute(tmp_path, plan)
    statuses = [(name, "unsupported") for name in ("unsupported", "child", "grandchild")]
    assert [(name, status) for name, _, _, status in seen] == [*statuses, ("other", "ok")] and not outcome.failed
    with RunDir.open(tmp_path, write=True) as run_dir:
        (why, *others) = [r["error"]["message"] for r in run_dir.records() if r["status"] == "unsupported"]
    assert others == [f"its {parent.stage} cell cannot run: {why}"] * 2
    assert execute(tmp_path, plan)[1] == []


def test_a_checkpoint_that_was_deleted_is_made_again(tmp_path):
    parent = make_cell("parent")
    child = make_cell("child", parent=parent.cell_id)
    grandchild = make_cell("grandchild", parent=child.cell_id)
    execute(tmp_path, plan_of(parent, child))
    for cell in (parent, child):
        (tmp_path / "checkpoints" / cell.cell_id).rmdir()
    _, seen = execute(tmp_path, plan_of(parent, child, grandchild))
    assert seen == [("parent", 0, 1, "ok"), ("child", 0, 1, "ok"), ("grandchild", 0, 0, "ok")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_recorded_and_the_cell_runs_again(tmp_path, number):
    plan = plan_of(make_cell("a"), make_cell("hangs"))

    def interrupt(event):
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()

    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path, plan, on_event=interrupt)
    assert [r["status"] for r in RunDir.open(tmp_path, write=False).records()] == ["ok", "interrupted"]
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path, plan, on_event=interrupt)
    last = RunDir.open(tmp_path, write=False).records()[-1]
    assert (last["status"], last["attempt"]) == ("interrupted", 1)
