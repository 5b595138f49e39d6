"""No test of the default run depends on a time: whoever looks at the clock is listed here, with the reason."""

from __future__ import annotations

import ast
import shutil
import threading
import time
from pathlib import Path

import pytest
from support.clocks import Clock
from support.commands import pytest_in

TESTS = Path(__file__).parents[1]
CLOCKS = {f"{name}{unit}" for name in ("perf_counter", "monotonic", "process_time", "time") for unit in ("", "_ns")}
CLOCKS |= {"sleep"}
LIMITS = {"timeout", "timeout_s", "limit_s", "deadline"}
NOT_DEFAULT = {"slow", "long", "timed"}
PLANTED = "what it plants: the clock of the test turns, or the test is no part of the default run"
HANGS = "it hangs, or works a while, as it should; nothing is compared with that"
GUARD = "it ends a hang"
UNUSED = "samples are taken, and not looked at"
REASONS = {
    "support/delayed_models.py::Sleeper": PLANTED,
    "support/plain_models.py::GPT": PLANTED,
    "support/plain_models.py::Loader": PLANTED,
    "builtin/test_causes.py::test_an_update_by_hand_is_predicted_but_not_isolated": PLANTED,
    "builtin/test_causes.py::test_time_of_the_host_is_found_wherever_it_is": PLANTED,
    "support/faulty_jobs.py::(module)": HANGS,
    **{f"support/faulty_jobs.py::{name}": HANGS for name in ("by_model", "hangs_in_here", "leaves_a_helper", "sleeps")},
    **{f"support/faulty_jobs.py::forks_{name}": HANGS for name in ("then_sleeps", "slowly_then_sleeps")},
    "support/faulty_models.py::endless": HANGS,
    "support/browser.py::Browser": GUARD,
    "execution/test_local.py::wait_until": GUARD,
    "execution/test_faults.py::killed_and_resumed": GUARD,
    "worker/machine/test_monitor.py::wait_for_cpu": GUARD,
    "support/numpy_engine.py::NumpyEngine": "an engine has a clock",
    "report/test_growth.py::seconds": "only a timed test calls it",
    "execution/test_local.py::test_a_hang_is_stopped_behind_its_limit": "it hangs for longer on any machine",
    **dict.fromkeys(
        (
            "support/clocks.py::Clock",
            "project/test_timing.py::test_a_clock_of_a_test_is_this_threads_alone_and_ends_with_it",
        ),
        "it turns the clock",
    ),
    "execution/test_local.py::time_is_up": "a limit that is over when a cell says so",
    "worker/ceilings/test_calibrate.py::test_a_team_leaves_the_process_as_it_was": UNUSED,
    "worker/ceilings/test_calibrate.py::test_a_team_reports_what_goes_wrong_in_a_thread": UNUSED,
}


def marks_of(node):
    """The names of the marks that decorate a function."""
    found = [mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list]
    return {mark.attr for mark in found if isinstance(mark, ast.Attribute)}


def is_timed(node):
    """Say whether a piece of code is a clock, a sleep, or a limit that is a number: a busy machine takes longer."""
    if isinstance(node, ast.keyword):
        return node.arg in LIMITS and isinstance(node.value, ast.Constant) and node.value.value is not None
    return isinstance(node, ast.Attribute) and node.attr in CLOCKS and getattr(node.value, "id", "") == "time"


def timed_places(text, name):
    """Yield `FILE::FUNCTION` of what looks at the clock, sleeps or limits, and is part of the default run."""

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            within = inside
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                if marks_of(child) & NOT_DEFAULT:
                    continue
                within = inside or child.name
            if is_timed(child):
                yield f"{name}::{within or '(module)'}"
            yield from visit(child, within)

    yield from visit(ast.parse(text), "")


def everywhere():
    for path in sorted(TESTS.rglob("*.py")):
        if "benchmarks" not in path.relative_to(TESTS).parts:
            yield from timed_places(path.read_text(encoding="utf-8"), str(path.relative_to(TESTS)))


def test_whoever_looks_at_the_clock_has_a_reason():
    found = set(everywhere())
    assert found - set(REASONS) == set(), "measure nothing here: plant a time (`clocks.py`), or mark the test `timed`"
    assert set(REASONS) - found == set(), "no reason is needed any more"


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("def test_x():\n    begin = time.perf_counter()", ["f::test_x"]),
        ("class A:\n    def g(self):\n        time.sleep(1)", ["f::A"]),
        ("@pytest.mark.timed\ndef test_x():\n    assert time.monotonic() < 3", []),
        ("@pytest.mark.parametrize('n', [1])\n@pytest.mark.slow\ndef test_x(n):\n    time.time()", []),
        ("subprocess.run(words, timeout=60)", ["f::(module)"]),
        ("subprocess.run(words, timeout=HANG_S)\nclock.time()", []),
        ("@settings(deadline=200)\ndef test_x(): pass", ["f::test_x"]),
    ],
)
def test_what_looks_at_the_clock_is_found(text, places):
    assert list(timed_places(text, "f")) == places


TRIED_AGAIN = """
from pathlib import Path

import pytest


def tries(name):
    with open(Path(__file__).with_name(name), "a") as file:
        file.write("x")
    return Path(__file__).with_name(name).stat().st_size


@pytest.mark.timed
@pytest.mark.parametrize("needed", [1, 2, 3, 4])
def test_timed(needed, tmp_path):
    assert tries(f"timed{needed}") >= needed, f"too slow\\nby far"


@pytest.mark.timed
def test_skipped():
    pytest.skip(f"not here {tries('skipped')}")


def test_plain():
    assert tries("plain") == 2
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_timed_tests_have_three_tries_which_are_counted(workers, tmp_path):
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = timed\n")
    (tmp_path / "test_again.py").write_text(TRIED_AGAIN)
    out = pytest_in(tmp_path, "-n", workers).stdout
    assert "2 failed, 3 passed, 1 skipped" in out, out
    assert "5 retries of timed tests" in out and "test_again.py::test_timed[2]: AssertionError: too slow\n" in out
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir() if not path.suffix and path.is_file()}
    assert sizes == {"timed1": 1, "timed2": 2, "timed3": 3, "timed4": 3, "skipped": 1, "plain": 1}


def test_a_clock_of_a_test_is_this_threads_alone_and_ends_with_it():
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock.instead_of_time(patch, sleep=True)
        look, sleep = time.perf_counter, time.sleep
        sleep(100.0)
        assert look() == clock.now == pytest.approx(100.0)
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append((sleep(0.0), look())))
        thread.start()
        thread.join()
    assert sleep(0.0) is None and elsewhere[0][1] <= look() <= time.perf_counter() and clock.now < 101
