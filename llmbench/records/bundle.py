"""A bundle: one run in one file, to publish and to send. A zip of a few known files and their hashes.

    manifest.json      format, schema_version, name, and bytes and SHA-256 of every other file
    records.jsonl      one record a line
    environment.json, ceilings.json, commands.json, suite.yaml      as in a run directory

It is read without unpacking: nothing is ever written. What comes from somebody else is checked first, and one thing
that is wrong refuses all of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.contract.errors import RunDirError
from llmbench.contract.job import SCHEMA_VERSION
from llmbench.records.json_lines import dump_json, parse_records
from llmbench.records.redaction import scrub
from llmbench.records.validation import name_problem, record_problem

if TYPE_CHECKING:
    from llmbench.contract.record import JsonObject, Record

FORMAT = "llmbench-bundle"
MANIFEST = "manifest.json"
JSON_FILES = ("environment.json", "ceilings.json", "commands.json")
FILES = ("records.jsonl", "suite.yaml", *JSON_FILES)
#: Bytes that the manifest, and that all files together may have when unpacked.
MANIFEST_BYTES, ALL_BYTES = 1 << 20, 1 << 30
#: Unpacked over packed size that a file of more than a MiB may have; records come to about 5.
RATIO, SMALL_BYTES = 100, 1 << 20
#: An escaped control character in JSON (but for tab and line ends).
_CONTROL = re.compile(rb"(?<!\\)(?:\\\\)*\\u(?:00(?:0[0-8bcBCeEfF]|1[0-9a-fA-F]|7[fF]|[89][0-9a-fA-F]))")
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest of the format: the same run makes the same bytes


def pack(
    name: str,
    records: Iterable[Record],
    documents: Mapping[str, Mapping[str, object]],
    suite: str | None = None,
    *,
    private: Iterable[str] | None = (),
) -> bytes:
    """Return a bundle; `documents` holds the JSON files by name. `private`: names to take out (see `scrub`).

    None keeps personal data.
    """

    def clean(value: Any) -> Any:
        return value if private is None else scrub(value, private)

    private = None if private is None else tuple(private)
    files = {"records.jsonl": "".join(dump_json(clean(record)) + "\n" for record in records).encode()}
    files |= {
        file: (dump_json(clean(documents[file]), indent=1) + "\n").encode()
        for file in JSON_FILES
        if documents.get(file)
    }
    if suite is not None:
        files["suite.yaml"] = clean(suite).encode()
    hashes = {file: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for file, data in files.items()}
    manifest = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "name": clean(name),
        "scrubbed": private is not None,
    }
    whole = {MANIFEST: (dump_json({**manifest, "files": hashes}, indent=1) + "\n").encode(), **files}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file, data in whole.items():
            entry = zipfile.ZipInfo(file, _TIMESTAMP)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, data)
    return out.getvalue()


def unpack(path: Path) -> tuple[list[Record], dict[str, JsonObject], str | None]:
    """Return records, JSON documents by file name, and the suite of a bundle, all of it checked.

    Raises RunDirError, in one line, for anything that `pack` does not make.
    """
    try:
        files = _files(path)
        documents = {name: _object(path, name, files[name]) for name in JSON_FILES if name in files}
        records = list(parse_records(io.BytesIO(files["records.jsonl"]), f"{path}: records.jsonl"))
        _check_records(path, records)
        _check_documents(path, documents)
        suite = files["suite.yaml"].decode("utf-8") if "suite.yaml" in files else None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise _refusal(path, f"damaged ({' '.join(str(error).split()) or type(error).__name__})") from None
    except (RecursionError, MemoryError):
        raise _refusal(path, "too deep or too large") from None
    return records, documents, suite


def _refusal(path: Path, why: str) -> RunDirError:
    return RunDirError(f"{path}: not a bundle that can be trusted: {why}; get it again from where it was made")


def _files(path: Path) -> dict[str, bytes]:
    """Return the files of a bundle by name, each as its hash says it is."""
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            raise _refusal(path, "not a zip file")
        with zipfile.ZipFile(stream) as archive:
            entries = _entries(path, archive)
            manifest = _manifest(path, archive, entries)
            listed = manifest["files"]
            if set(listed) != set(entries) - {MANIFEST}:
                raise _refusal(path, "its files are not those that its manifest lists")
            return {name: _read(path, archive, entries[name], listed[name]) for name in listed}


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by name; nothing is unpacked yet."""
    entries = archive.infolist()
    if archive.comment:
        raise _refusal(path, "it carries a comment")
    if len(entries) > len(FILES) + 1:
        raise _refusal(path, f"{len(entries)} files, at most {len(FILES) + 1}")
    for entry in entries:
        if entry.filename not in (*FILES, MANIFEST) or entry.orig_filename != entry.filename:
            raise _refusal(path, f"a file named {entry.orig_filename[:80]!r}, which no bundle has")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise _refusal(path, f"{entry.filename} is a link or a special file")
        if entry.flag_bits & 0x1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refusal(path, f"{entry.filename} is encrypted, or packed by another method")
        if entry.file_size > max(SMALL_BYTES, RATIO * entry.compress_size):
            raise _refusal(path, f"{entry.filename} unpacks to {RATIO} times its size or more")
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise _refusal(path, "two files of one name")
    if not {MANIFEST, "records.jsonl"} <= set(names):
        raise _refusal(path, "no manifest or no records")
    if sum(entry.file_size for entry in entries) > ALL_BYTES:
        raise _refusal(path, f"more than {ALL_BYTES >> 20} MiB when unpacked")
    return {entry.filename: entry for entry in entries}


def _manifest(path: Path, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> JsonObject:
    if entries[MANIFEST].file_size > MANIFEST_BYTES:
        raise _refusal(path, "its manifest is too large")
    with archive.open(entries[MANIFEST]) as stream:
        manifest = _object(path, MANIFEST, stream.read(MANIFEST_BYTES + 1))
    if manifest.get("format") != FORMAT:
        raise _refusal(path, f"its manifest does not say format: {FORMAT}")
    version = manifest.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _refusal(path, "its manifest has no schema_version")
    if version > SCHEMA_VERSION:
        raise RunDirError(
            f"{path}: written by a newer llmbench (schema {version}, this one knows {SCHEMA_VERSION}); upgrade llmbench"
        )
    if name_problem(manifest.get("name")) or not isinstance(manifest.get("files"), dict):
        raise _refusal(path, "its manifest has no name, or lists no files")
    return manifest


def _read(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, listed: object) -> bytes:
    """Return the content of one file, no more than it is said to have, if its size and hash are as listed."""
    if not isinstance(listed, dict) or listed.get("bytes") != entry.file_size:
        raise _refusal(path, f"{entry.filename} has another size than its manifest says")
    with archive.open(entry) as stream:
        data = stream.read(entry.file_size + 1)
    if len(data) != entry.file_size or hashlib.sha256(data).hexdigest() != listed.get("sha256"):
        raise _refusal(path, f"{entry.filename} is not what its hash says")
    if entry.filename != "suite.yaml" and _CONTROL.search(data):
        raise _refusal(path, f"{entry.filename} holds control characters")
    return data


def _object(path: Path, name: str, data: bytes) -> JsonObject:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise _refusal(path, f"{name} is not an object")
    return value


def _check_records(path: Path, records: Sequence[Record]) -> None:
    if not records:
        raise _refusal(path, "it holds no record")
    for number, record in enumerate(records, start=1):
        if problem := record_problem(record):
            raise _refusal(path, f"record {number}: {problem}")


def _check_documents(path: Path, documents: Mapping[str, JsonObject]) -> None:
    for name, document in documents.items():
        for key, value in document.items():
            good = isinstance(value, str) if name == "commands.json" else isinstance(value, dict)
            if not good or name_problem(key):
                raise _refusal(path, f"{name}: {key[:40]!r} is not what it should be")
