"""llmbench from a script or a notebook: the commands as functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.api.options import check_budget, one_of
from llmbench.contract.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

    from llmbench.api.results import Results, Settings
    from llmbench.contract.record import Ceilings, JsonObject
    from llmbench.planted.score import Summary


def run(
    *suites: str | Path,
    output: str | Path | None = None,
    settings: Settings = (),
    keep: str | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    timeout_s: float | None = None,
    executor: str = "local",
    start_method: str = "forkserver",
    remedies: bool | Sequence[str] = False,
    plugins: Sequence[str | Path] = (),
    quiet: bool = False,
) -> Results:
    """Plan and run suites (names of shipped ones, or YAML files; default: `quick`), and return their results.

    ::

        import llmbench
        results = llmbench.run("quick", settings={"model": ["lstm", "gpt"]}, keep="not eval")
        results.cells[["model", "step_ms", "verdict"]]

    It does what `llmbench run` does. `settings` are its `--set`, `keep` its `-k`, `remedies` its `--remedies` (or a
    list of names, its `--remedy`). An existing run directory (`output`, else `results/local/SUITE`) is resumed. A cell
    that fails raises nothing: see `Results.ok`. Raises UserError, one line, for a mistake in a suite or a setting.
    """
    from llmbench.api import runs as running
    from llmbench.api.results import Results, settings_text

    options = running.RunOptions(
        settings=settings_text(settings),
        expression=keep,
        plugin_files=tuple(map(str, plugins)),
        fresh=fresh,
        retry_failed=retry_failed,
        timeout_s=timeout_s,
        executor=one_of("executor", executor, running.EXECUTORS),
        start_method=one_of("start_method", start_method, running.START_METHODS),
        remedies=bool(remedies),
        only=() if isinstance(remedies, bool) else tuple(remedies),
        quiet=quiet,
        again="the same call, without fresh",
    )
    if timeout_s is not None:
        check_budget(timeout_s, "timeout_s")
    running.check_executor(executor)
    registry = running.discover_noting(options.plugin_files)
    names = [str(name) for name in suites] or ["quick"]
    plans = [running.plan_suite(name, registry, options.settings, keep) for name in names]
    folder = None if output is None else Path(output)
    folders, runs, _ = running.run_suites(names, plans, folder, registry, options)
    return Results(tuple(runs), registry, folders=tuple(folders))


def load(*paths: str | Path, baseline: str | None = None, plugins: Sequence[str | Path] = ()) -> Results:
    """Return recorded runs: `paths` are run directories, bundles, or folders of them.

    `baseline` is the name of the run that the others are compared with. Raises RunDirError for a path without a run,
    UserError for a `baseline` that is none of the runs.
    """
    from llmbench.api.results import Results
    from llmbench.api.runs import discover_noting
    from llmbench.contract.errors import did_you_mean
    from llmbench.records.read import read_all

    if not paths:
        raise UserError("load what? give the folder of a run, such as results/local/quick")
    runs = read_all([Path(path) for path in paths])
    names = [one.name for one in runs]
    if baseline is not None and baseline not in names:
        raise UserError(f"baseline {baseline!r}: no such run{did_you_mean(baseline, names)}")
    return Results(tuple(runs), discover_noting(tuple(map(str, plugins))), baseline)


def planned(
    suite: str | Path = "quick",
    *,
    settings: Settings = (),
    keep: str | None = None,
    plugins: Sequence[str | Path] = (),
) -> DataFrame:
    """Return the cells of a suite, a row each, in the order in which they would run; nothing is run.

    The columns are those of `llmbench plan --json`: the fields of the cell, `depends_on` (the cells that it starts
    from), `blocked` (why it cannot run), `parameters`, and lower bounds: `predicted_step_s`, `predicted_s`,
    `predicted_memory_mib` (None where a ceiling or a formula is missing).
    """
    import pandas as pd

    from llmbench.api import runs as running
    from llmbench.api.results import settings_text
    from llmbench.report.tables.inventory import plan_document

    registry = running.discover_noting(tuple(map(str, plugins)))
    one = running.plan_suite(str(suite), registry, settings_text(settings), keep)
    return pd.DataFrame(plan_document([one], running.predict_costs([one], registry))["plans"][0]["cells"])


def found_plugins(*, plugins: Sequence[str | Path] = ()) -> DataFrame:
    """Return a row for each plugin: name, kind, owner, version, and what it supports.

    Plugins that cannot be loaded are named on standard error.
    """
    import pandas as pd

    from llmbench.api.runs import discover_noting
    from llmbench.report.tables.inventory import plugin_document

    return pd.DataFrame(plugin_document(discover_noting(tuple(map(str, plugins))))["plugins"])


def calibrate(device: str = "auto", *, fresh: bool = False, quiet: bool = False) -> Ceilings:
    """Return the ceilings of this machine, as `llmbench calibrate --json` prints them.

    They are measured (about 10 s) where the cache has none, or with `fresh`.
    """
    from llmbench.api.machine import ceilings_of
    from llmbench.api.runs import note

    return ceilings_of(device, fresh=fresh, say=(lambda text: None) if quiet else note)


def doctor() -> JsonObject:
    """Return `environment`, the parts of this machine that can be used, and `problems`, a line for each."""
    from llmbench.api.machine import examine

    environment, problems = examine()
    return {"environment": environment, "problems": problems}


def plant(
    expression: str = "",
    *,
    output: str | Path = "results/local/planted",
    limit: int | None = None,
    rounds: int = 3,
    seconds: float = 0.7,
    budget_s: float = 12.0,
) -> Summary:
    """Plant known bottlenecks, diagnose them, and return the score of the diagnoses, as `llmbench planted` does."""
    from llmbench.api.runs import note
    from llmbench.planted.evaluation import plant as plant_cases

    folder = Path(output)
    summary, _ = plant_cases(
        folder, expression, limit=limit, rounds=rounds, seconds=seconds, budget_s=budget_s, on_case=note
    )
    return summary
