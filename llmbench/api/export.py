"""Runs in the formats of other tools, and as one file to publish."""

from __future__ import annotations

import contextlib
import getpass
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.contract.errors import UserError, did_you_mean, needs_packages

if TYPE_CHECKING:
    from llmbench.records.read import Run


FORMATS = ("parquet", "csv", "pytest-benchmark", "bundle")

_SUFFIX = {"parquet": ".parquet", "csv": ".csv", "pytest-benchmark": ".json", "bundle": ".llmbench.zip"}


def export_runs(runs: list[Run], form: str, output: Path | None, *, samples: bool, keep_personal: bool) -> Path:
    """Write `runs` to one file and return it. Raises UserError for what does not go together."""
    from llmbench.records.read import guard_bundles

    if form not in FORMATS:
        raise UserError(f"--to {form}: unknown{did_you_mean(form, FORMATS)}; write one of: {', '.join(FORMATS)}")
    if samples and form != "parquet":
        raise UserError(f"--samples goes with --to parquet, not with --to {form}")
    if keep_personal and form != "bundle":
        raise UserError(f"--keep-personal goes with --to bundle, not with --to {form}")
    if form in ("bundle", "pytest-benchmark") and len(runs) > 1:
        names = ", ".join(run.name for run in runs)
        raise UserError(f"--to {form} takes one run, not {len(runs)}; give one of them: {names}")
    path = output or Path(runs[0].name.replace("/", "-") + _SUFFIX[form])
    try:
        with guard_bundles(runs):
            _write(runs, form, path, samples=samples, keep_personal=keep_personal)
    except OSError as error:
        raise UserError(f"-o {path}: cannot be written ({error.strerror}); give another file") from None
    return path


def _write(runs: list[Run], form: str, path: Path, *, samples: bool, keep_personal: bool) -> None:
    from llmbench.report.formats import csv, parquet, pytest_benchmark

    if form == "parquet":
        with needs_packages("--to parquet"):
            (parquet.write_samples if samples else parquet.write_cells)(runs, path)
    elif form == "csv":
        path.write_text(csv.document(runs), encoding="utf-8")
    elif form == "pytest-benchmark":
        path.write_text(json.dumps(pytest_benchmark.document(runs[0]), indent=1, allow_nan=False), encoding="utf-8")
    else:
        path.write_bytes(_bundle(runs[0], keep_personal=keep_personal))


def _bundle(run: Run, *, keep_personal: bool) -> bytes:
    from llmbench.records import bundle

    documents = dict(zip(bundle.JSON_FILES, (run.environments, run.ceilings, run.commands), strict=True))
    private = None if keep_personal else personal_names()
    return bundle.pack(run.name.rpartition("/")[2], run.records, documents, run.suite, private=private)


def personal_names() -> list[str]:
    """Return the names of the user and of the machine, as far as they can be found out."""
    names = [platform.node(), platform.node().partition(".")[0], Path.home().name]
    with contextlib.suppress(KeyError, OSError, ImportError):
        names.append(getpass.getuser())
    return [name for name in names if name]
