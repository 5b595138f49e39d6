"""pytest plugin: a suite is a test file, each of its cells a test that pytest-benchmark times.

    pytest suites/quick.yaml --benchmark-autosave
    pytest suites/quick.yaml --benchmark-compare --benchmark-compare-fail=mean:5%

A file is collected where it is named on the command line or lies below a folder of the ini option `llmbench_suites`,
and looks like a suite. One `llmbench run` measures the cells that are left after `-k`, when the first of them starts.
Every test then replays its recorded steps to the `benchmark` fixture. Nothing of llmbench is imported before that.

The fixture `llmbench_conformance` runs checks of the conformance kit (`llmbench.conformance`) in a plugin's own tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llmbench.contract.record import Record, Row

#: A suite has one of these at the top level.
_SUITE = re.compile(r"^(?:matrix|extends|include)\s*:", re.MULTILINE)
_MAX_BYTES = 1 << 20  # larger files are no suites, and are not read


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
    """Collect a suite that was asked for, and no other file."""
    if file_path.suffix not in (".yaml", ".yml") or not _is_requested(file_path, parent.config):
        return None
    return SuiteFile.from_parent(parent, path=file_path) if _looks_like_suite(file_path) else None


def _is_requested(path: Path, config: pytest.Config) -> bool:
    arguments = {(config.invocation_params.dir / str(arg).partition("::")[0]).resolve() for arg in config.args}
    folders = [Path(folder).resolve() for folder in config.getini("llmbench_suites")]
    return path.resolve() in arguments or any(path.resolve().is_relative_to(folder) for folder in folders)


def _looks_like_suite(path: Path) -> bool:
    try:
        return path.stat().st_size <= _MAX_BYTES and bool(_SUITE.search(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return False


@pytest.fixture(scope="session")
def llmbench_conformance() -> Callable[[str, str, str], None]:
    """Return a function of kind, plugin and check, which passes, fails or skips as the check does.

    All checks of a plugin run when the first one is asked for, in one process.
    """
    from llmbench import conformance

    verdicts_of: dict[tuple[str, str], dict[str, conformance.Verdict]] = {}

    def conforms(kind: str, plugin: str, check: str) -> None:
        if (kind, plugin) not in verdicts_of:
            results = conformance.check(plugin, kind=kind)
            verdicts_of[kind, plugin] = {one.check: one for one in results if one.kind in (kind, "plugin")}
        verdicts = verdicts_of[kind, plugin]
        if check not in verdicts:
            _fail(str(next(iter(verdicts.values()), f"no check is called {check!r}")))
        if verdicts[check].status == conformance.FAILED:
            _fail(str(verdicts[check]))
        if verdicts[check].status == conformance.NOT_HERE:
            pytest.skip(verdicts[check].reason)

    return conforms


class SuiteError(Exception):
    """The message of llmbench about a suite that it cannot plan or run."""


class SuiteFile(pytest.File):
    """A suite; its tests are its cells."""

    records_by_cell: Mapping[str, list[Record]] | None = None

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test per cell, named by its fields: the name stays when llmbench or the data changes."""
        from llmbench.contract.cell import label_of
        from llmbench.report.cells.variants import find_variants

        plan = json.loads(self._llmbench("plan", str(self.path), "--json", *self._options()))
        cells = plan["plans"][0]["cells"]
        has_benchmark = self.config.pluginmanager.hasplugin("benchmark")
        for cell, variant in zip(cells, find_variants(cells), strict=True):
            name = label_of(cell) + (f" {variant}" if variant else "")
            clock, replay = _clock()
            item = CellTest.from_parent(self, name=name, callobj=_replay_steps if has_benchmark else _require_steps)
            item.cell, item.replay = cell, replay
            item.add_marker(pytest.mark.benchmark(group=str(cell["stage"]), timer=clock, warmup=False))
            yield item

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """Show a mistake in a suite as one line."""
        return str(excinfo.value) if isinstance(excinfo.value, SuiteError) else super().repr_failure(excinfo)

    def records(self, cell_id: str) -> list[Record]:
        """Return the records of a cell, in the order of repeats; the first call measures all selected cells."""
        if self.records_by_cell is None:
            self.records_by_cell = self._measure()
        return self.records_by_cell.get(cell_id, [])

    def _measure(self) -> dict[str, list[Record]]:
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
        output = self.config.getoption("llmbench_output")
        folder = Path(output).absolute() / self.path.stem if output else _temporary(self.config) / self.path.stem
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
        """Run llmbench in a process of its own; return its standard output. Raises SuiteError where it fails."""
        command = [sys.executable, "-m", "llmbench", *words]
        done = subprocess.run(
            command, cwd=self.config.invocation_params.dir, capture_output=True, text=True, check=False
        )
        if done.returncode not in ((0, 1) if failed_cells else (0,)):
            raise SuiteError(done.stderr.strip() or f"llmbench {words[0]} ended with exit code {done.returncode}")
        return done.stdout


class CellTest(pytest.Function):
    """One cell of a suite as a test."""

    cell: Row  # of `llmbench plan --json`
    replay: Callable[[Sequence[float]], None]

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return the suite as the place of the test, instead of this file."""
        return self.path, None, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """Show the message of llmbench alone: no code of the user is involved."""
        return str(excinfo.value) if isinstance(excinfo.value, SuiteError) else super().repr_failure(excinfo)


def _replay_steps(request: pytest.FixtureRequest, benchmark: Any) -> None:
    """Replay the steps of a cell to pytest-benchmark."""
    test = request.node
    times = _step_times(test)
    test.replay(times)
    benchmark.extra_info.update(cell_id=test.cell["cell_id"])
    benchmark.pedantic(_nothing, rounds=len(times), iterations=1, warmup_rounds=0)


def _require_steps(request: pytest.FixtureRequest) -> None:
    """Check that a cell runs: pytest-benchmark, which would time it, is not installed."""
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
    """Take no time: the clock replays the recorded steps."""


def _clock() -> tuple[Callable[[], float], Callable[[Sequence[float]], None]]:
    """Return a clock that replays steps, and the function that gives it the steps.

    Every second reading is later than the one before, by the next recorded step.
    """
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
    """Return a folder that is removed when pytest ends."""
    import tempfile

    folder = tempfile.TemporaryDirectory(prefix="llmbench-pytest-")
    config.add_cleanup(folder.cleanup)
    return Path(folder.name)
