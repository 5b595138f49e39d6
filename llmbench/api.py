"""llmbench from a script or a notebook: what the command line does, as functions."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.contract.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

    from llmbench.report.cells.summary import Run
    from llmbench.results import Results

GIVEN = "given objects"


@dataclass(frozen=True)
class Diagnosis:
    """What bounds a step: the verdict, and what it rests on. Printing it shows the tables of `llmbench diagnose`."""

    run: Run
    causes: Mapping[str, str] = field(default_factory=dict)  # what each is

    @cached_property
    def document(self) -> dict[str, Any]:
        """Return what `llmbench diagnose --json` prints: the fields of a cell, `bottlenecks` and `remedies`."""
        from llmbench.report.formats import json

        return json.one(self.run)

    @property
    def verdict(self) -> str:
        """Return the cause that bounds the step, else `balanced`, `undecided` or `unisolated`."""
        return str(self.document["verdict"])

    @property
    def headroom_x(self) -> float | None:
        """Return the step time over the step time without the cause, measured; None where no cause is named."""
        found: float | None = self.document["headroom_measured_x"]
        return found

    def __str__(self) -> str:
        from llmbench.report.formats import terminal
        from llmbench.report.tables import diagnosis

        text = io.StringIO()
        terminal.render(diagnosis.tables(self.run), text)
        return "\n".join(diagnosis.lines(self.run, self.causes)) + "\n\n" + text.getvalue()

    def _repr_html_(self) -> str:
        from html import escape

        from llmbench.report.formats.notebook import tables_html
        from llmbench.report.tables import diagnosis

        said = "".join(f"<p>{escape(line)}</p>" for line in diagnosis.lines(self.run, self.causes))
        return said + tables_html(diagnosis.tables(self.run))

    def __repr__(self) -> str:
        x = self.headroom_x
        return f"Diagnosis({self.verdict}" + (f", {x:.2f}x)" if x is not None else ")")


def run(
    *suites: str | Path,
    output: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
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
    """Plan and run suites (names of shipped ones or YAML files; default `quick`), and return what is recorded.

    ::

        import llmbench
        results = llmbench.run("quick", settings={"model": ["lstm", "gpt"]}, keep="not eval")
        results.cells[["model", "step_ms", "verdict"]]

    It is `llmbench run`: `settings` are its `--set`, `keep` its `-k`, `remedies` its `--remedies` (or names, its
    `--remedy`). The run directory (`output`, else `results/local/SUITE`) is resumed where it exists. A cell that fails
    raises nothing: see `Results.ok`. Raises UserError, in one line, for a mistake in a suite or a setting.
    """
    from llmbench import running
    from llmbench.results import Results, settings_text

    options = running.RunOptions(
        settings=settings_text(settings),
        expression=keep,
        plugin_files=tuple(map(str, plugins)),
        fresh=fresh,
        retry_failed=retry_failed,
        timeout_s=timeout_s,
        executor=_one_of("executor", executor, running.EXECUTORS),
        start_method=_one_of("start_method", start_method, running.START_METHODS),
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
    """Return recorded runs: run directories, bundles, or folders of them. `baseline`: the one others are held against.

    Raises RunDirError for a path that holds no run, UserError for a `baseline` that is none of them.
    """
    from llmbench.contract.errors import did_you_mean
    from llmbench.records.read import read_all
    from llmbench.results import Results
    from llmbench.running import discover_noting

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
    settings: Mapping[str, Any] | Sequence[str] = (),
    keep: str | None = None,
    plugins: Sequence[str | Path] = (),
) -> DataFrame:
    """Return the cells of a suite in the order they would run: what each depends on, takes at least, or cannot run for.

    A row per cell, as in `llmbench plan --json`: its fields, `depends_on`, `blocked`, `parameters`,
    `predicted_step_s`, `predicted_s`, `predicted_memory_mib` (None where a ceiling or a formula is missing).
    """
    import pandas as pd

    from llmbench import running
    from llmbench.report.tables.inventory import plan_document
    from llmbench.results import settings_text

    registry = running.discover_noting(tuple(map(str, plugins)))
    one = running.plan_suite(str(suite), registry, settings_text(settings), keep)
    return pd.DataFrame(plan_document([one], running.predicted([one], registry))["plans"][0]["cells"])


def found_plugins(*, plugins: Sequence[str | Path] = ()) -> DataFrame:
    """Return every plugin that is found: name, kind, owner, version, and what it supports; broken ones are noted."""
    import pandas as pd

    from llmbench.report.tables.inventory import plugin_document
    from llmbench.running import discover_noting

    return pd.DataFrame(plugin_document(discover_noting(tuple(map(str, plugins))))["plugins"])


def calibrate(device: str = "auto", *, fresh: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Return the ceilings of this machine, as `llmbench calibrate --json` prints them; measured if not kept yet."""
    from llmbench.machine import ceilings_of
    from llmbench.running import note

    return ceilings_of(device, fresh=fresh, say=(lambda text: None) if quiet else note)


def doctor() -> dict[str, Any]:
    """Return what of this machine can be used (`environment`), and what is missing (`problems`, a line each)."""
    from llmbench.machine import examine

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
) -> dict[str, Any]:
    """Plant known bottlenecks, score what `diagnose` says of them, and return the summary: `llmbench planted`."""
    from llmbench.planted.command import plant as plant_cases
    from llmbench.running import note

    options: dict[str, Any] = {"limit": limit, "rounds": rounds, "seconds": seconds, "budget_s": budget_s}
    return plant_cases(Path(output), expression, **options, on_case=note)[0]


def diagnose(
    *,
    model: Any,
    data: Iterable[Any],
    optimizer: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    step: Callable[[Any], Any] | None = None,
    device: str | None = None,
    precision: str | None = None,
    budget_s: float = 60.0,
    verify: str = "verdict",
    plugins: Sequence[str | Path] = (),
) -> Diagnosis:
    """Find out what bounds a training step, remove it, and measure again, in this process and `budget_s` seconds.

    ::

        import llmbench
        found = llmbench.diagnose(model=model, data=loader, optimizer=optimizer)
        print(found)

    `model` is a torch module, `data` batches that can be iterated again and again (dicts of tensors, or tuples),
    `optimizer` defaults to a fused AdamW, `loss(output, batch)` to `output.loss`; `step(batch)` is your own step where
    it is not forward, backward and update. `verify` is "verdict" (the leading suspects) or "all" (every cause). Model
    and optimizer are given back as they were. Raises UserError, in one line, for what cannot be diagnosed.
    """
    begun_s = time.perf_counter()
    from llmbench.execution.child import resolve
    from llmbench.report.cells.summary import Run

    check_budget(budget_s, "budget_s")
    if verify not in ("verdict", "all"):
        raise UserError(f'verify {verify!r}: write "verdict" or "all"')
    given: Mapping[str, Any] = {"model": model, "data": data, "optimizer": optimizer, "loss": loss, "step": step}
    registry = resolve("llmbench.worker.diagnosis.diagnose:registry_of")(
        [str(Path(file).resolve()) for file in plugins]
    )
    environment = resolve("llmbench.worker.machine.environment:capture")()
    allowance = resolve("llmbench.worker.diagnosis.time_budget:Allowance")(budget_s, begun_s)
    allowance.spent_s["start_s"] = time.perf_counter() - begun_s
    record = resolve("llmbench.worker.diagnosis.diagnose:diagnose_given")(
        {**given, "device": device, "precision": precision},
        name=GIVEN,
        mode=verify,
        allowance=allowance,
        registry=registry,
    )
    run = Run(GIVEN, [{**record, "environment_id": "here"}], {"here": environment}, {}, {})
    return Diagnosis(run, resolve("llmbench.worker.diagnosis.diagnose:descriptions")(registry))


def check_budget(seconds: float, name: str) -> None:
    """Raise UserError for what is no time."""
    if not seconds > 0:
        raise UserError(f"{name} {seconds:g}: give seconds, such as 60")


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise UserError(f"{name} {value!r}: write one of: {', '.join(known)}")
    return value
