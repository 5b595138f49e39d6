"""pytest plugin: a suite is a test file, each of its cells a test that pytest-benchmark times.

    pytest suites/quick.yaml --benchmark-autosave
    pytest suites/quick.yaml --benchmark-compare --benchmark-compare-fail=mean:5%

A file is collected where it is named on the command line or lies below a folder of the ini option `llmbench_suites`,
and looks like a suite. The cells that are left after `-k` are measured by one `llmbench run` when the first of them
starts; every test then replays its recorded steps to the `benchmark` fixture. Nothing of llmbench is imported before.

The fixture `llmbench_conformance` makes checks of the conformance kit (`llmbench.conformance`) in a plugin's own tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

#: A suite has one of these at the top level.
_SUITE = re.compile(r"^(?:matrix|extends|include)\s*:", re.MULTILINE)
_LARGEST_BYTES = 1 << 20


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `llmbench run` that make sense for a test."""
    group = parser.getgroup("llmbench")
    group.addoption(
        "--llmbench-set", action="append", default=[], metavar="KEY=VALUE", help="Set a value of the suite."
    )
    group.addoption("--llmbench-plugin", action="append", default=[], metavar="FILE", help="Load a plugin file too.")
    group.addoption("--llmbench-output", metavar="DIR", help="Keep the run directories in DIR (default: not kept).")
    group.addoption("--llmbench-run", metavar="DIR", help="Take what this run has recorded, and measure nothing.")
    parser.addini("llmbench_suites", "Folders whose YAML files are collected as suites.", type="paths", default=[])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a suite that was asked for; any other file is nobody's business here."""
    if file_path.suffix not in (".yaml", ".yml") or not _asked_for(file_path, parent.config):
        return None
    return SuiteFile.from_parent(parent, path=file_path) if _looks_like_suite(file_path) else None


def _asked_for(path: Path, config: pytest.Config) -> bool:
    given = {(config.invocation_params.dir / str(arg).partition("::")[0]).resolve() for arg in config.args}
    folders = [Path(folder).resolve() for folder in config.getini("llmbench_suites")]
    return path.resolve() in given or any(path.resolve().is_relative_to(folder) for folder in folders)


def _looks_like_suite(path: Path) -> bool:
    try:
        return path.stat().st_size <= _LARGEST_BYTES and bool(_SUITE.search(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return False


@pytest.fixture(scope="session")
def llmbench_conformance() -> Callable[[str, str, str], None]:
    """Return a function of kind, plugin and check, that passes, fails or skips as the check does.

    All checks of a plugin are made when the first one is asked for, in one process.
    """
    from llmbench import conformance

    made: dict[tuple[str, str], dict[str, conformance.Verdict]] = {}

    def conforms(kind: str, plugin: str, check: str) -> None:
        if (kind, plugin) not in made:
            found = conformance.check(plugin, kind=kind)
            made[kind, plugin] = {one.check: one for one in found if one.kind in (kind, "plugin")}
        verdicts = made[kind, plugin]
        if check not in verdicts:
            _fail(str(next(iter(verdicts.values()), f"no check is called {check!r}")))
        if verdicts[check].status == conformance.FAILED:
            _fail(str(verdicts[check]))
        if verdicts[check].status == conformance.NOT_HERE:
            pytest.skip(verdicts[check].reason)

    return conforms


class SuiteError(Exception):
    """What llmbench said about a suite that it cannot plan or run."""


class SuiteFile(pytest.File):
    """A suite; its tests are its cells."""

    measured: Mapping[str, list[Mapping[str, Any]]] | None = None

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test per cell, named by what it is: the name stays when llmbench or the data changes."""
        from llmbench.contract.cell import label_of
        from llmbench.report.cells.variants import find_variants

        plan = json.loads(self._llmbench("plan", str(self.path), "--json", *self._options()))
        cells = plan["plans"][0]["cells"]
        timed = self.config.pluginmanager.hasplugin("benchmark")
        for cell, variant in zip(cells, find_variants(cells), strict=True):
            name = label_of(cell) + (f" {variant}" if variant else "")
            clock, replay = _clock()
            item = CellTest.from_parent(self, name=name, callobj=_timed if timed else _untimed)
            item.cell, item.replay = cell, replay
            item.add_marker(pytest.mark.benchmark(group=str(cell["stage"]), timer=clock, warmup=False))
            yield item

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """Show what is wrong with a suite as the one line that it is."""
        return str(excinfo.value) if isinstance(excinfo.value, SuiteError) else super().repr_failure(excinfo)

    def records(self, cell_id: str) -> list[Mapping[str, Any]]:
        """Return the records of a cell, in the order of repeats; the first call measures all selected cells."""
        if self.measured is None:
            self.measured = self._measure()
        return self.measured.get(cell_id, [])

    def _measure(self) -> dict[str, list[Mapping[str, Any]]]:
        from llmbench.contract.errors import UserError
        from llmbench.records import attempts
        from llmbench.records.read import read_runs

        recorded = self.config.getoption("llmbench_run")
        folder = Path(recorded) if recorded else self._run()
        try:
            (run,) = read_runs(folder)
        except (UserError, ValueError) as error:
            raise SuiteError(str(error)) from None
        groups = attempts.by_cell(run.records)
        return {name: [r for _, r in sorted(attempts.latest_attempts(group).items())] for name, group in groups.items()}

    def _run(self) -> Path:
        """Measure the cells whose tests will run; return the run directory."""
        kept = self.config.getoption("llmbench_output")
        folder = Path(kept).absolute() / self.path.stem if kept else _temporary(self.config) / self.path.stem
        ours = [item for item in self.session.items if isinstance(item, CellTest) and item.parent is self]
        keep = " or ".join(str(item.cell["cell_id"]) for item in ours if not item.cell["blocked"])
        words = ["run", str(self.path), "-o", str(folder), "--fresh", "--quiet", "--json", "-k", keep]
        self._llmbench(*words, *self._options(), failed_cells=True)
        return folder

    def _options(self) -> list[str]:
        options = []
        for setting in self.config.getoption("llmbench_set"):
            options += ["--set", setting]
        for file in self.config.getoption("llmbench_plugin"):
            options += ["--plugin", file]
        return options

    def _llmbench(self, *words: str, failed_cells: bool = False) -> str:
        """Return the standard output of llmbench, in a process of its own. SuiteError: it did not come to its end."""
        command = [sys.executable, "-m", "llmbench", *words]
        done = subprocess.run(
            command, cwd=self.config.invocation_params.dir, capture_output=True, text=True, check=False
        )
        if done.returncode not in ((0, 1) if failed_cells else (0,)):
            raise SuiteError(done.stderr.strip() or f"llmbench {words[0]} ended with exit code {done.returncode}")
        return done.stdout


class CellTest(pytest.Function):
    """One cell of a suite as a test."""

    cell: Mapping[str, Any]
    replay: Callable[[Sequence[float]], None]

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the suite, and not this file."""
        return self.path, None, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """Show what llmbench said; there is no code of the user's to look at."""
        return str(excinfo.value) if isinstance(excinfo.value, SuiteError) else super().repr_failure(excinfo)


def _timed(request: pytest.FixtureRequest, benchmark: Any) -> None:
    """Replay the steps of a cell to pytest-benchmark."""
    test = request.node
    times = _step_times(test)
    test.replay(times)
    benchmark.extra_info.update(cell_id=test.cell["cell_id"])
    benchmark.pedantic(_nothing, rounds=len(times), iterations=1, warmup_rounds=0)


def _untimed(request: pytest.FixtureRequest) -> None:
    """Only see whether a cell runs: pytest-benchmark is not there."""
    _step_times(request.node)


def _step_times(test: CellTest) -> list[float]:
    """Return the steps (s) of all processes of a cell; fail or skip as the cell did."""
    if test.cell["blocked"]:
        pytest.skip(str(test.cell["blocked"]))
    suite = test.parent
    assert isinstance(suite, SuiteFile)
    records = suite.records(str(test.cell["cell_id"]))
    bad = next((r for r in records if r["status"] != "ok"), None)
    if bad is not None:
        error = bad.get("error") or {}
        why = f"{bad['status']}: {': '.join(str(error[k]) for k in ('type', 'message') if error.get(k))}"
        (pytest.skip if bad["status"] in ("unsupported", "skipped") else _fail)(why)
    times = [seconds for record in records for seconds in record["samples"].get("step_s") or ()]
    if not times:
        _fail("no step was timed")
    return times


def _fail(why: str) -> None:
    pytest.fail(why, pytrace=False)


def _nothing() -> None:
    """Take no time: the clock replays what was measured."""


def _clock() -> tuple[Callable[[], float], Callable[[Sequence[float]], None]]:
    """Return a clock whose every second reading is later than the one before by the next recorded step, and what
    gives it the steps."""
    ends: Iterator[float] = iter(())
    running = False

    def step_clock() -> float:
        nonlocal running
        running = not running
        return 0.0 if running else next(ends, 0.0)

    def replay(times: Sequence[float]) -> None:
        nonlocal ends, running
        ends, running = iter(times), False

    return step_clock, replay


def _temporary(config: pytest.Config) -> Path:
    """Return a folder that is taken away when pytest ends."""
    import tempfile

    folder = tempfile.TemporaryDirectory(prefix="llmbench-pytest-")
    config.add_cleanup(folder.cleanup)
    return Path(folder.name)
