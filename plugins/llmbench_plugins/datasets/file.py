"""Data sets in files, in their official formats: `file:FOLDER` or `file:FILE`.

- classification: `train.csv` ("class","title","description"; `classes.txt` may name the classes) or `train.tsv`
  (label TAB text)
- translation: `train.en` and `train.de` (any two language codes) or `train.tsv` (source TAB target [TAB attribution])
- summarization: `train.jsonl` (`document`, `summary` and optionally `references`)
- qa: `train.json` (SQuAD v1.1)
- pretraining: `train.txt` (one paragraph per line)

Other splits are named `valid*`, `val*` or `dev*`, and `test*`; `_splits` says what happens when one is missing.
A single file is split 90/5/5.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench import DataError, DataRequest, Dataset, DatasetSpec, hookimpl
from llmbench_plugins.datasets import _formats, _samples, _splits
from llmbench_plugins.datasets._formats import Rows
from llmbench_plugins.datasets._languages import Languages, is_language, iso_code, languages_in, pair_languages

Unit = tuple[Path, ...]  # one file, or the source and the target file of parallel text


@dataclass(frozen=True)
class _Found:
    """The files of a data set: what each split is made of. `single`: one file, to be split."""

    name: str
    kind: str
    splits: dict[str, list[Unit]]
    single: bool = False
    languages: Languages = (None, None)  # of source and target, as far as names tell
    classes: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All files that decide the content, in a fixed order."""
        files = [path for _, units in sorted(self.splits.items()) for unit in units for path in unit]
        return [*files, self.classes] if self.classes else files


@hookimpl
def llmbench_datasets() -> list[DatasetSpec]:
    """Bring data sets in local files."""
    description = "local files in official formats: AG News CSV, TSV, parallel text, JSONL, SQuAD JSON, plain text"
    spec = DatasetSpec("file", identify, load, description=description, validate=True, samples=_samples.files)
    return [spec]


def identify(request: DataRequest) -> str:
    """Return `file:NAME@HASH`: folder name or file stem, and a hash of the files' names and bytes and the task."""
    return _identity(_find(request), request.task.name)


def load(request: DataRequest) -> Dataset:
    """Read everything. Raises DataError with file and line where something is wrong."""
    found = _find(request)
    raw = {split: _read_split(found, units) for split, units in found.splits.items()}
    for split, units in found.splits.items():
        if not raw[split]:
            raise DataError(f"{units[0][0]}: no examples; write {_formats.EXPECTED[found.kind]}")
    info = _info(found, raw)
    names = {
        split: ", ".join("/".join(p.name for p in unit) for unit in units) for split, units in found.splits.items()
    }
    splits, notes = _splits.complete(raw, found.kind, request.argument, names)
    notes += [f"{split} joins {names[split]}" for split, units in found.splits.items() if len(units) > 1]
    return Dataset(
        identity=_identity(found, request.task.name),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        info={**info, "notes": notes},
    )


def _identity(found: _Found, task: str) -> str:
    digest = hashlib.sha256(task.encode())
    for path in found.files:
        content = hashlib.sha256(_formats.read_bytes(path)).hexdigest()
        digest.update(f"\n{path.name} {content}".encode())
    return f"file:{found.name}@{digest.hexdigest()[:12]}"


# --- finding the files ----------------------------------------------------------------------------------


def _find(request: DataRequest) -> _Found:
    kind = _formats.kind_of(request.task)
    if not request.argument.strip():
        raise DataError("file: needs a path; write file:FOLDER or file:FILE")
    path = Path(request.argument).expanduser()
    try:
        if path.is_dir():
            return _find_in_folder(path, kind)
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; write file:FOLDER or file:FILE")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return _single_file(path, kind, _short_name(path, path.stem))


def _short_name(path: Path, name: str) -> str:
    if name in ("", "..", "."):
        name = path.resolve().name
    return re.sub(r"[^\w.+-]+", "_", name) or "data"


def _single_file(path: Path, kind: str, name: str) -> _Found:
    known = path.suffix in _formats.READERS[kind]
    plain = kind in _formats.PLAIN_READERS and path.suffix in ("", ".txt", ".text", ".md", ".raw")
    if kind == "translation" and _language(path):
        raise DataError(f"{path}: parallel text is two files; write their folder, file:{path.parent}")
    if not (known or plain):
        raise _unknown_format(path, kind)
    return _Found(
        name,
        kind,
        {"train": [(path,)]},
        single=True,
        languages=languages_in(path.stem) or languages_in(path.absolute().parent.name) or (None, None),
        classes=_classes_file(path.parent, kind, path.suffix),
    )


def _unknown_format(path: Path, kind: str) -> DataError:
    return DataError(f"{path}: unknown format for {kind}; write {_formats.EXPECTED[kind]}")


def _find_in_folder(folder: Path, kind: str) -> _Found:
    visible = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "_")))
    files = [p for p in visible if p.is_file()]
    name = _short_name(folder, folder.name)
    named = [p for p in files if _splits.split_of(p.name)]
    usable = [p for p in named if p.suffix in _formats.READERS[kind]]
    if not usable and kind == "translation":
        parallel = [p for p in named if _language(p)]
        if parallel:
            return _find_parallel(folder, name, parallel)
    if not usable and not named:
        others = [p for p in files if p.suffix in _formats.READERS[kind]]
        if len(others) == 1:
            return _single_file(others[0], kind, name)
    if not usable:
        raise _nothing_usable(folder, kind, visible)
    extensions = sorted({p.suffix for p in usable})
    if len(extensions) > 1:
        raise DataError(f"{folder}: has {' and '.join(extensions)} files; keep one format in the folder")
    splits = _by_split([(p,) for p in usable])
    _check_train(folder, splits)
    languages = languages_in(folder.absolute().name) or (None, None)
    return _Found(name, kind, splits, languages=languages, classes=_classes_file(folder, kind, extensions[0]))


def _nothing_usable(folder: Path, kind: str, visible: Sequence[Path]) -> DataError:
    names = [p.name for p in visible]
    found = f"found {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}" if names else "the folder is empty"
    hint = "; name one of its folders" if any(p.is_dir() for p in visible) else ""
    return DataError(f"{folder}: unknown format for {kind}: {found}{hint}; write train = {_formats.EXPECTED[kind]}")


def _by_split(units: Sequence[Unit]) -> dict[str, list[Unit]]:
    splits: dict[str, list[Unit]] = {}
    for unit in units:
        splits.setdefault(str(_splits.split_of(unit[0].name)), []).append(unit)
    return splits


def _check_train(folder: Path, splits: dict[str, list[Unit]]) -> None:
    if "train" not in splits:
        have = ", ".join(unit[0].name for units in splits.values() for unit in units)
        raise DataError(f"{folder}: has {have} but no train file; add one, or name a single file to have it split")


def _classes_file(folder: Path, kind: str, extension: str) -> Path | None:
    path = folder / "classes.txt"
    return path if kind == "classification" and extension == ".csv" and path.is_file() else None


def _language(path: Path) -> str:
    return path.suffix[1:] if is_language(path.suffix[1:]) else ""


def _find_parallel(folder: Path, name: str, files: Sequence[Path]) -> _Found:
    languages = sorted({_language(p) for p in files}, key=lambda code: (iso_code(code) != "en", code))
    if len(languages) != 2:
        raise DataError(f"{folder}: parallel text in {', '.join(languages)}; keep the files of two languages")
    source, target = languages
    stems = sorted({p.name.removesuffix(p.suffix) for p in files})
    units = []
    for stem in stems:
        pair = [folder / f"{stem}.{language}" for language in (source, target)]
        for path, other in (pair, pair[::-1]):
            if path not in files:
                raise DataError(f"{other}: has no partner {path.name}; add it")
        units.append(tuple(pair))
    splits = _by_split(units)
    _check_train(folder, splits)
    return _Found(name, "translation", splits, languages=(iso_code(source), iso_code(target)))


# --- reading --------------------------------------------------------------------------------------------


def _read_split(found: _Found, units: Sequence[Unit]) -> Rows:
    classes = _class_names(found.classes) if found.classes else None
    rows: Rows = []
    for unit in units:
        if len(unit) == 2:
            rows += _formats.read_parallel(*unit)
        elif unit[0].suffix == ".csv":
            rows += _formats.read_class_csv(unit[0], classes)
        else:
            readers = _formats.READERS[found.kind]
            reader = readers.get(unit[0].suffix) or _formats.PLAIN_READERS[found.kind]
            rows += reader(unit[0])
    return rows


def _info(found: _Found, raw: dict[str, Rows]) -> dict[str, Any]:
    """Return the fields that describe all examples; labels that are names become class numbers."""
    if found.kind == "classification":
        return {"labels": _number_labels(found, [row for rows in raw.values() for row in rows])}
    if found.kind == "translation":
        source, target = pair_languages(found.languages, raw["train"])
        return {"source_lang": source, "target_lang": target}
    return {}


def _class_names(path: Path) -> list[str]:
    names = [line.strip() for line in _formats.read_lines(path) if line.strip()]
    if not names:
        raise DataError(f"{path}: no classes; write one name per line, or remove the file")
    return names


def _number_labels(found: _Found, rows: Rows) -> list[str]:
    if found.classes:
        return _class_names(found.classes)
    values = sorted({row["label"] for row in rows})
    if isinstance(values[0], int):
        absent = sorted(set(range(values[-1])) - set(values))
        if absent:
            raise DataError(
                f"{found.files[0]}: class {values[-1] + 1} occurs but class {absent[0] + 1} never does;"
                " number the classes from 1 without gaps, or name them all in classes.txt"
            )
        return [str(value + 1) for value in values]
    number_of = {label: number for number, label in enumerate(values)}
    for row in rows:
        row["label"] = number_of[row["label"]]
    return values
