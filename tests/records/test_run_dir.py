"""Records survive a crash at any byte, and one folder has one writer."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.contract.errors import RunDirError
from llmbench.contract.job import SCHEMA_VERSION
from llmbench.records.run_dir import RECORDS, TORN, RunDir


def record(cell_id="a", repeat=0, attempt=0, status="ok", **more):
    return {
        "schema_version": SCHEMA_VERSION,
        "cell_id": cell_id,
        "repeat": repeat,
        "attempt": attempt,
        "status": status,
        **more,
    }


def test_a_record_comes_back_with_null_for_what_is_not_a_number(tmp_path):
    with RunDir.open(tmp_path / "new" / "run", write=True) as run:
        run.append(record(samples={"step_s": [1.5, float("nan"), float("inf")], 3: (1, True)}))
        with pytest.raises(TypeError):
            run.append(record(samples=object()))
    found = RunDir.open(tmp_path / "new" / "run", write=False).records()
    assert found == [record(samples={"step_s": [1.5, None, None], "3": [1, True]})]


texts = st.text(max_size=6)
payloads = st.dictionaries(
    texts,
    st.one_of(texts, st.integers(), st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3)),
    max_size=3,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(payloads, min_size=1, max_size=3), st.data())
def test_a_file_cut_anywhere_keeps_every_whole_record(contents, data):
    with tempfile.TemporaryDirectory() as folder:
        size = write_records(Path(folder), contents)[-1]
        check_cut(Path(folder), contents, data.draw(st.integers(0, size)))


def test_a_file_cut_at_any_byte_keeps_every_whole_record(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # slow, and this crash is made by hand
    contents = [{"a": "é"}, {}]
    for cut in range(write_records(tmp_path / "size", contents)[-1] + 1):
        check_cut(tmp_path / str(cut), contents, cut)


def write_records(path, contents):
    """Write one record for each payload; return the size of the file before the first and after each."""
    ends = [0]
    with RunDir.open(path, write=True) as run:
        for payload in contents:
            run.append(record(payload=payload))
            ends.append((path / RECORDS).stat().st_size)
    return ends


def check_cut(path, contents, cut):
    (path / RECORDS).unlink(missing_ok=True)
    ends = write_records(path, contents)
    data = (path / RECORDS).read_bytes()
    (path / RECORDS).write_bytes(data[:cut])
    whole = [record(payload=p) for p, end in zip(contents, ends[1:], strict=True) if end - 1 <= cut]
    assert RunDir.open(path, write=False).records() == whole
    with RunDir.open(path, write=True) as run:
        run.append(record("after"))
    assert RunDir.open(path, write=False).records() == [*whole, record("after")]
    torn = data[ends[len(whole)] : cut] if len(whole) < len(contents) else b""
    assert ((path / TORN).read_bytes() if (path / TORN).exists() else b"") == (torn + b"\n" if torn else b"")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"schema_version": 1, "cell', ":2: not a record"),
        (b"[1]", ":2: not a record"),
        (b"\xff\xfe", ":2: not a record"),
        (json.dumps(record() | {"schema_version": SCHEMA_VERSION + 1}).encode(), ":2: written by a newer llmbench"),
    ],
)
def test_a_bad_line_is_named_and_never_dropped(tmp_path, line, says):
    good = json.dumps(record()).encode()
    (tmp_path / RECORDS).write_bytes(b"\n".join([good, line, good, b""]))
    for write in (True, False):
        with pytest.raises(RunDirError, match=says) as caught:
            RunDir.open(tmp_path, write=write).records()
        assert "\n" not in str(caught.value)
    assert line in (tmp_path / RECORDS).read_bytes()


def test_settled_takes_the_latest_attempt(tmp_path):
    with RunDir.open(tmp_path, write=True) as run:
        for cell_id, attempt, status in [("a", 0, "ok"), ("b", 0, "oom"), ("c", 0, "interrupted"), ("d", 0, "skipped")]:
            run.append(record(cell_id, 0, attempt, status))
        run.append(record("e", 0, 0, "error"))
        run.append(record("e", 0, 1, "ok"))
        run.append(record("f", 1, 0, "ok"))
        run.append(record("f", 1, 1, "interrupted"))
        expected = {("a", 0), ("b", 0), ("e", 0)}
        assert run.list_settled() == expected
        assert run.list_settled(retry_failed=True) == expected - {("b", 0)}
        assert (run.next_attempt("e", 0), run.next_attempt("new", 0), run.status("f", 1)) == (2, 0, "interrupted")
    assert RunDir.open(tmp_path, write=False).list_settled() == expected


def test_a_second_run_on_a_folder_is_refused_in_one_line(tmp_path):
    with RunDir.open(tmp_path, write=True) as run:
        run.append(record())
        code = "import sys; from llmbench.records.run_dir import RunDir; RunDir.open(sys.argv[1], write=True)"
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert f"RunDirError: {tmp_path}: another run (process {os.getpid()})" in other.stderr.splitlines()[-1]
        assert RunDir.open(tmp_path, write=False).records() == [record()]
        with pytest.raises(ValueError, match="not open for writing"):
            RunDir.open(tmp_path, write=False).append(record())
    RunDir.open(tmp_path, write=True).close()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    for path, write in [
        (tmp_path, True),
        (tmp_path, False),
        (tmp_path / "none", False),
        (tmp_path / "thesis.tex", True),
    ]:
        with pytest.raises(RunDirError):
            RunDir.open(path, write=write)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_fresh_sets_records_aside_and_keeps_checkpoints(tmp_path):
    with RunDir.open(tmp_path, write=True) as run:
        assert run.archive() is None
        (run.checkpoints / "a").mkdir(parents=True)
        for number in (1, 2):
            run.append(record(f"cell{number}"))
            assert run.archive().name == f"records-{number}.jsonl"
            assert run.list_settled() == set() and run.records() == []
        assert (run.checkpoints / "a").is_dir()
    assert json.loads((tmp_path / "records-1.jsonl").read_text())["cell_id"] == "cell1"


def test_files_are_replaced_as_a_whole(tmp_path):
    with RunDir.open(tmp_path, write=True) as run:
        run.write_json("environment.json", {"x": float("nan")})
        with pytest.raises(TypeError):
            run.write_json("environment.json", {"x": object()})
        run.write_text("environments/a.txt", "é")
    assert json.loads((tmp_path / "environment.json").read_text()) == {"x": None}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "environment.json", "environments"]
