"""Loading tables with Hugging Face `datasets`: arguments, cache, splits and one-line errors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmbench import DataError
from llmbench_plugins.datasets import _splits

Tables = Mapping[str, Any]  # split -> datasets.Dataset


def parse(argument: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of `NAME[,config=CONFIG][,split=SPLIT]`."""
    name, *parts = argument.split(",")
    options = {}
    for part in parts:
        key, equals, value = part.strip().partition("=")
        if key not in ("config", "split") or not (equals and value):
            raise DataError(f"hf:{argument}: {part!r} is no option; write hf:NAME,config=CONFIG,split=SPLIT")
        options[key] = value
    if not name.strip():
        raise DataError("hf: needs a name; write hf:NAME or hf:FOLDER")
    return name.strip(), options


def load_tables(name: str, options: Mapping[str, str], where: str) -> Any:
    """Load tables with `datasets.load_dataset`. Raises DataError, in one line, for whatever goes wrong there."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(f"{where}: needs datasets, which is not installed: pip install datasets") from error

    folder = Path(name).expanduser()
    local = folder.exists()
    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(
            str(folder) if local else name,
            name=options.get("config"),
            split=options.get("split"),
            cache_dir=str(_cache_of(folder, Path(datasets.config.HF_DATASETS_CACHE))) if local else None,
        )
    except Exception as error:  # the library raises OSError, ValueError, pyarrow's errors and its own
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{where}: cannot be loaded: {type(error).__name__}: {reason}; write a hub name (fetched once while"
            " online) or a folder, and ,config=NAME where it has several"
        ) from error
    finally:
        if not silent:
            datasets.enable_progress_bars()


def _cache_of(folder: Path, cache: Path) -> Path:
    """Return a cache folder for the present content of a local data set.

    `datasets` keys its cache of a folder with a README by the folder's name, not by what is in the files, so
    that it would go on serving the old rows after an edit, or another folder's of the same name.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and ".git" not in p.parts):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return cache / f"llmbench-{digest.hexdigest()[:16]}"


def by_split(loaded: Any, where: str) -> tuple[Tables, dict[str, str]]:
    """Return our split names -> tables, and our split names -> theirs. One split alone is for training."""
    if not isinstance(loaded, dict):
        return {"train": loaded}, {"train": str(loaded.split)}
    tables: dict[str, Any] = {}
    names: dict[str, str] = {}
    for theirs, table in loaded.items():
        ours = _splits.split_of(str(theirs))
        if ours and ours not in tables:
            tables[ours], names[ours] = table, str(theirs)
    if "train" not in tables and len(loaded) == 1:
        [(theirs, table)] = loaded.items()
        return {"train": table}, {"train": str(theirs)}
    if "train" not in tables:
        raise DataError(f"{where}: no train split among {', '.join(map(str, loaded))}; choose one with ,split=NAME")
    return tables, names


def short_name(name: str) -> str:
    """Return the last part of a hub name, or the name of a folder."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name.rstrip("/").split("/")[-1]
