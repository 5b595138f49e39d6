"""Where recorded runs come from: a run directory, a bundle, or a folder of them. Without torch or pandas."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.contract.errors import RunDirError, UserError
from llmbench.records import bundle
from llmbench.records.lazy import RecordFile
from llmbench.records.run_dir import RECORDS, RunDir

if TYPE_CHECKING:
    from llmbench.contract.record import Ceilings, JsonObject, Record

#: What a bundle's file name ends in; a folder is searched for it.
BUNDLE_SUFFIX = ".llmbench.zip"
#: Where runs without `-o` go, below `results/`: not searched for what is published.
LOCAL = "local"


@dataclass(frozen=True)
class Run:
    """One recorded run: what reports and comparisons are made of."""

    name: str
    records: Sequence[Record]
    environments: Mapping[str, JsonObject] = field(default_factory=dict)
    ceilings: Mapping[str, Ceilings] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)  # cell id -> the command line that planned it
    suite: str | None = None  # suite.yaml, as resolved
    bundle: Path | None = field(default=None, compare=False)  # where it was read from, if from a bundle


def read_runs(path: Path) -> list[Run]:
    """Return the run in `path` (a run directory or a bundle), or all runs below it (a folder of them).

    Runs of a folder are named by their path in it, such as `amd-epyc-2-cores/quick`, in alphabetical order; its
    `local/` is left out, so that a report of `results/` is made of what is published. Raises RunDirError for a path
    that is none of these, and for a run that cannot be read.
    """
    return [_read_one(at, name) for name, at in _locate(path)]


def read_all(paths: Iterable[Path], *, stored: bool = False) -> list[Run]:
    """Return the runs of all `paths`; runs of one name get as much of their path before it as tells them apart.

    The records of run directories that are to be `stored` stay in their files: they are read when they are asked for.
    """
    found = [one for path in paths for one in _locate(path)]
    while True:
        names = [name for name, _ in found]
        longer = [(_longer(name, at) if names.count(name) > 1 else name, at) for name, at in found]
        if longer == found:
            return [_read_one(at, name, stored=stored) for name, at in found]
        found = longer


def _locate(path: Path) -> list[tuple[str, Path]]:
    """Return name and place of the run in `path`, or of those below it."""
    if is_run(path):
        return [(_parts(path)[-1], path)]
    if not path.is_dir():
        what = "is neither a run directory nor a bundle" if path.exists() else "does not exist"
        raise RunDirError(f"{path}: {what}; give the folder of a run, a bundle, or a folder of them")
    found = sorted(_below(path, skip=path / LOCAL))
    if not found:
        raise RunDirError(f"{path}: not a run directory (no {RECORDS}), and none below it; give the folder of a run")
    own = len(_parts(path))
    return [("/".join(_parts(at)[own:]), at) for at in found]


@contextlib.contextmanager
def guard_bundles(runs: Iterable[Run]) -> Iterator[None]:
    """Turn what goes wrong over the content of a bundle into one line: somebody else made it, perhaps on purpose.

    Its shape was checked, but not every value deep inside. Without a bundle among `runs`, it is a bug and stays one.
    """
    sent = [run.bundle for run in runs if run.bundle]
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        if not sent:
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RunDirError(
            f"{', '.join(map(str, sent))}: holds records that llmbench does not write ({what})"
        ) from error


def is_run(path: Path) -> bool:
    """Return whether `path` is a run directory or a file (a bundle, if anything)."""
    return path.is_file() or (path / RECORDS).is_file()


def read_json(path: Path) -> JsonObject:
    """Return the JSON object in a file; empty where there is no file, or another value. UserError: not JSON."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); remove it, or restore it") from None
    return value if isinstance(value, dict) else {}


def _below(folder: Path, skip: Path) -> Iterator[Path]:
    """Yield the run directories and bundles below `folder`; links and hidden folders are not followed."""
    for here, folders, files in os.walk(folder):
        at = Path(here)
        if RECORDS in files:
            folders.clear()
            yield at
            continue
        folders[:] = [name for name in folders if not name.startswith(".") and at / name != skip]
        yield from (at / name for name in files if name.endswith(BUNDLE_SUFFIX))


def _read_one(path: Path, name: str, *, stored: bool = False) -> Run:
    records: Sequence[Record]
    if path.is_file():
        records, documents, suite = bundle.unpack(path)
        environments, ceilings, commands = (documents.get(file, {}) for file in bundle.JSON_FILES)
        return Run(name, records, environments, ceilings, commands, suite, path)
    suite_file = path / "suite.yaml"
    with RunDir.open(path, write=False) as run_dir:
        records = RecordFile(path / RECORDS).records() if stored else run_dir.records()
    return Run(
        name,
        records,
        read_json(path / "environment.json") | _nodes(path / "environments"),
        read_json(path / "ceilings.json"),
        read_json(path / "commands.json"),
        suite_file.read_text(encoding="utf-8") if suite_file.is_file() else None,
    )


def _nodes(folder: Path) -> JsonObject:
    """Return the environments of a fleet, one file per node: an environment, or environments by id."""
    found: JsonObject = {}
    for path in sorted(folder.glob("*.json")):
        value = read_json(path)
        found |= {value["environment_id"]: value} if isinstance(value.get("environment_id"), str) else value
    return found


def _parts(path: Path) -> tuple[str, ...]:
    """Return the parts of a run's whole path, without what marks a bundle."""
    at = path.resolve()
    return at.with_name(at.name.removesuffix(BUNDLE_SUFFIX)).parts if at.name else at.parts


def _longer(name: str, at: Path) -> str:
    """Return `name` with the folder before it."""
    return "/".join(_parts(at)[-name.count("/") - 2 :]).lstrip("/")
