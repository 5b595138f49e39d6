"""A bundle is read as it was written, and nothing that is wrong with one gets past the reader."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import record, scored

from llmbench.cli import cli
from llmbench.contract.errors import UserError
from llmbench.records import bundle
from llmbench.records.read import read_runs

ENVIRONMENT = {"e1": {"environment_id": "e1", "cpu": "x"}}
DOCUMENTS = {"environment.json": ENVIRONMENT, "commands.json": {"a": "llmbench run quick"}}


def records():
    return [scored(), record(repeat=1), record("error", stage="eval", error={"type": "E", "message": "m"})]


def packed(**changed) -> bytes:
    arguments = {"name": "quick", "records": records(), "documents": DOCUMENTS, "suite": "name: quick\n"}
    arguments.update(changed)
    return bundle.pack(arguments.pop("name"), arguments.pop("records"), **arguments)


def files_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(entries, comment=b"", method=zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of (name or ZipInfo, bytes); names may be hostile and may repeat."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, data in entries:
            archive.writestr(name, data)
        archive.comment = comment
    return out.getvalue()


def rehashed(content: dict[str, bytes], **manifest) -> bytes:
    """A bundle of `content` whose hashes are right."""
    known = json.loads(content["manifest.json"])
    rest = {name: data for name, data in content.items() if name != "manifest.json"}
    hashes = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in rest.items()}
    whole = {**known, "files": hashes, **manifest}
    return zipped([("manifest.json", json.dumps(whole).encode()), *rest.items()])


def with_records(change) -> bytes:
    found = copy.deepcopy(records())
    change(found[0])
    lines = "".join(json.dumps(one) + "\n" for one in found).encode()
    return rehashed(files_of(packed()) | {"records.jsonl": lines})


def put(path, value):
    """Return a change that sets record[path[0]][path[1]]... to `value`."""

    def change(one):
        for key in path[:-1]:
            one = one[key]
        one[path[-1]] = value

    return change


def special(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (mode | 0o777) << 16
    return entry


def lying_size(data: bytes) -> bytes:
    """The records are said to unpack to one byte less than they do, in every header."""
    size = struct.pack("<L", len(files_of(data)["records.jsonl"]))
    assert data.count(size) >= 2
    return data.replace(size, struct.pack("<L", len(files_of(data)["records.jsonl"]) - 1))


def encrypted(data: bytes) -> bytes:
    out = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            out[at + offset] |= 1
    return bytes(out)


def extra(name, data=b"x") -> bytes:
    return zipped([*files_of(packed()).items(), (name, data)])


def deep() -> bytes:
    return rehashed(files_of(packed()) | {"ceilings.json": b'{"a":' * 100_000 + b"1" + b"}" * 100_000})


BOMB = b"\0" * (32 << 20)
HOSTILE = {
    "empty": lambda: b"",
    "not a zip": lambda: b"hello world" * 100,
    "cut": lambda: packed()[:-40],
    "cut in half": lambda: packed()[: len(packed()) // 2],
    "something before": lambda: b"<script>" + packed(),
    "comment": lambda: zipped(files_of(packed()).items(), comment=b"hi"),
    "no manifest": lambda: zipped([(n, d) for n, d in files_of(packed()).items() if n != "manifest.json"]),
    "no records": lambda: rehashed({n: d for n, d in files_of(packed()).items() if n != "records.jsonl"}),
    "traversal": lambda: extra("../../evil.txt"),
    "absolute": lambda: extra("/tmp/evil.txt"),
    "backslashes": lambda: extra("..\\evil.txt"),
    "script in a file name": lambda: extra("<script>alert(1)</script>.html"),
    "nul in a file name": lambda: extra("records.jsonl\0.exe"),
    "folder": lambda: extra("suite.yaml/"),
    "code": lambda: extra("plugin.py", b"import os"),
    "pickle": lambda: extra("weights.pkl"),
    "twice": lambda: extra("records.jsonl", b"{}"),
    "many files": lambda: zipped([(f"f{i}", b"") for i in range(5000)]),
    "link": lambda: zipped([*files_of(packed()).items(), (special("ceilings.json", stat.S_IFLNK), b"/etc/passwd")]),
    "device": lambda: zipped([*files_of(packed()).items(), (special("ceilings.json", stat.S_IFCHR), b"")]),
    "bomb": lambda: rehashed(files_of(packed()) | {"ceilings.json": BOMB}),
    "bomb in the manifest": lambda: zipped([("manifest.json", BOMB), ("records.jsonl", b"")]),
    "bomb of another method": lambda: zipped(
        [("manifest.json", b"{}"), ("records.jsonl", BOMB)], method=zipfile.ZIP_LZMA
    ),
    "lying size": lambda: lying_size(packed()),
    "encrypted": lambda: encrypted(packed()),
    "wrong hash": lambda: zipped((files_of(packed()) | {"suite.yaml": b"name: slick\n"}).items()),
    "wrong size": lambda: zipped((files_of(packed()) | {"suite.yaml": b"name: quick and more\n"}).items()),
    "unlisted file": lambda: extra("ceilings.json", b"{}"),
    "missing file": lambda: zipped([(n, d) for n, d in files_of(packed()).items() if n != "suite.yaml"]),
    "manifest is a list": lambda: zipped((files_of(packed()) | {"manifest.json": b"[]"}).items()),
    "manifest is not JSON": lambda: zipped((files_of(packed()) | {"manifest.json": b"{"}).items()),
    "other format": lambda: rehashed(files_of(packed()), format="zip"),
    "future schema": lambda: rehashed(files_of(packed()), schema_version=99),
    "no schema": lambda: rehashed(files_of(packed()), schema_version="1"),
    "script as a name": lambda: rehashed(files_of(packed()), name="<script>alert(1)</script>"),
    "files are a number": lambda: rehashed(files_of(packed()), files=3),
    "records of the future": lambda: with_records(put(["schema_version"], 99)),
    "record is not JSON": lambda: rehashed(files_of(packed()) | {"records.jsonl": b"{}\n{\n"}),
    "no record": lambda: rehashed(files_of(packed()) | {"records.jsonl": b"\n"}),
    "script as a model": lambda: with_records(put(["cell", "model"], "<img src=x onerror=alert(1)>")),
    "cell with another id": lambda: with_records(put(["cell", "batch_size"], 32)),
    "cell is a list": lambda: with_records(put(["cell"], [])),
    "unknown status": lambda: with_records(put(["status"], "fine")),
    "steps are text": lambda: with_records(put(["samples", "step_s"], ["1"])),
    "negative steps": lambda: with_records(put(["samples", "step_s"], [-1.0, 1.0])),
    "infinite steps": lambda: with_records(put(["samples", "step_s"], [float("inf")])),
    "no float": lambda: with_records(put(["samples", "step_s"], [10**400])),
    "quality is text": lambda: with_records(put(["quality", "values"], {"acc": "high"})),
    "huge repeat": lambda: with_records(put(["repeat"], 10**12)),
    "escape sequence": lambda: with_records(put(["warnings"], ["\x1b]0;owned\x07"])),
    "deep": deep,
    "environment is a list": lambda: rehashed(files_of(packed()) | {"environment.json": b'{"e1": []}'}),
    "command is a number": lambda: rehashed(files_of(packed()) | {"commands.json": b'{"a": 1}'}),
    "suite is not text": lambda: rehashed(files_of(packed()) | {"suite.yaml": b"\xff\xfe"}),
}


def tree(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_bundle_is_refused_in_one_line_and_nothing_is_written(what, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    path = tmp_path / "x.llmbench.zip"
    path.write_bytes(HOSTILE[what]())
    before = tree(tmp_path)
    with pytest.raises(UserError) as refused:
        read_runs(path)
    text = str(refused.value)
    assert str(path) in text and "\n" not in text and "\x1b" not in text and len(text) < 500
    assert tree(tmp_path) == before


def test_what_is_packed_is_read(tmp_path):
    path = tmp_path / "quick.llmbench.zip"
    path.write_bytes(packed())
    (run,) = read_runs(path)
    assert run.name == "quick" and list(run.records) == records() and run.suite == "name: quick\n"
    assert run.environments == ENVIRONMENT and run.commands == DOCUMENTS["commands.json"] and run.ceilings == {}
    assert packed() == packed()  # the same run is the same file


def test_personal_data_is_left_out_unless_kept():
    hurt = [record("error", error={"type": "E", "message": "/home/alice/x on box17", "traceback": ""})]
    for private, left in ((["box17"], b"~/x on *"), (None, b"/home/alice/x on box17")):
        files = files_of(packed(records=hurt, private=private))
        assert left in files["records.jsonl"]
        assert json.loads(files["manifest.json"])["scrubbed"] is (private is not None)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_bundle_is_refused_or_read_whole(tmp_path_factory, data):
    good = packed()
    broken = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("b") / "x.llmbench.zip"
    path.write_bytes(bytes(broken))
    try:
        (run,) = read_runs(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert list(run.records) == records()


def leaves(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*path, 0))


@pytest.mark.parametrize("seed", range(6))
def test_a_record_with_a_wrong_value_somewhere_ends_in_one_line_or_a_report(seed, tmp_path):
    """The hashes are right, since whoever sends a bundle can make them: then a value anywhere is of another kind."""
    rng = random.Random(seed)
    for i in range(12):
        path = rng.choice([p for p in leaves(records()[0]) if p])
        value = rng.choice([None, "x", -1, 1e308, 10**400, [], {}, [["x"]], {"a": {}}, True])
        file = tmp_path / f"{i}.llmbench.zip"
        file.write_bytes(with_records(put(list(path), value)))
        done = CliRunner().invoke(cli, ["report", str(file), "--format", "json"], standalone_mode=False)
        assert done.exception is None or isinstance(done.exception, UserError), (path, value, done.exception)


def test_a_bundle_in_a_folder_is_found(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/quick.llmbench.zip").write_bytes(packed())
    assert [run.name for run in read_runs(tmp_path)] == ["m/quick"]
