"""Records that stay in their file are those that `RunDir.records` reads, in one process and in several."""

from __future__ import annotations

import json
import os
import sys

import pytest

from benchmarks.many_records import records
from llmbench.analysis import remedy_trials
from llmbench.analysis.studies import learning, scaling
from llmbench.contract.errors import RunDirError
from llmbench.plugins.discovery import discover
from llmbench.records import lazy
from llmbench.records.lazy import RecordFile, StoredRecord
from llmbench.records.read import Run, read_all, read_runs
from llmbench.report import Report

COUNT = 24


@pytest.fixture
def folder(tmp_path):
    made = list(records(COUNT, repeats=3, verified=True))
    made[4] |= {"status": "oom", "samples": {}, "error": {"type": "OOM", "message": "too large", "traceback": ""}}
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in made))
    return tmp_path


@pytest.fixture
def several(monkeypatch):
    """Make a few cells enough for several processes."""
    monkeypatch.setattr(lazy, "MIN_RECORDS", 1)
    monkeypatch.setattr(lazy, "MAX_CELLS", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})


def file_of(folder, lines):
    path = folder / "records.jsonl"
    path.write_bytes(b"\n".join(lines))
    return RecordFile(path)


def test_every_field_of_a_stored_record_is_there(folder):
    (run,) = read_runs(folder)
    found = RecordFile(folder / "records.jsonl").records()
    assert len(found) == COUNT and all(isinstance(one, StoredRecord) for one in found)
    assert [dict(one) for one in found] == run.records
    assert found == run.records
    assert found[4].get("nothing", 5) == 5 and "samples" in found[4] and len(found[4]) == len(run.records[4])
    assert found[0]["cell"] is found[1]["cell"], "what a cell's records repeat is there once"


def test_a_record_in_another_order_or_from_an_older_version_is_read_too(tmp_path):
    (made,) = records(1, repeats=1)
    reordered = dict(sorted(made.items()))
    older = {k: v for k, v in made.items() if k not in ("budget", "environment_id")}
    dense = json.dumps(made, separators=(",", ":"))
    lines = [json.dumps(reordered), "", json.dumps(older), dense, '{"schema_version": 1, "cell']
    found = file_of(tmp_path, [line.encode() for line in lines]).records()
    assert [dict(one) for one in found] == [made, older, made]
    assert found[0]["status"] == "ok" and found[1].get("budget") is None
    with pytest.raises(KeyError):
        found[1]["budget"]


def test_a_line_that_is_no_record_is_named_also_when_its_samples_are_what_is_damaged(tmp_path):
    made = [json.dumps(one).encode() for one in records(3, repeats=1)]
    with pytest.raises(RunDirError, match=r"records\.jsonl:2: not a record"):
        file_of(tmp_path, [made[0], b"{}", made[2], b""]).records()
    damaged = made[1].replace(b'"samples": {', b'"samples": {{')
    found = file_of(tmp_path, [made[0], b"", damaged, made[2], b""]).records()
    assert found[2]["samples"]
    with pytest.raises(RunDirError, match=r"records\.jsonl:3: not a record"):
        found[1]["samples"]


def _pids(groups):
    return [(os.getpid(), [dict(record) for record in group]) for group in groups]


@pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere")
def test_groups_are_looked_at_in_several_processes_and_keep_their_order(folder, several):
    (run,) = read_all([folder], stored=True)
    groups = [[run.records[i + 1], run.records[i]] for i in range(0, COUNT, 2)]
    found = lazy.map_cells(_pids, groups)
    assert [group for _, group in found] == groups
    assert os.getpid() not in {pid for pid, _ in found}
    assert {pid for pid, _ in lazy.map_cells(_pids, [[dict(run.records[0])]])} == {os.getpid()}


@pytest.mark.parametrize("form", ["json", "html"])
def test_reports_are_the_same_to_the_byte_from_memory_from_the_file_and_from_several_processes(
    form, folder, request, monkeypatch
):
    render = discover().get("reporter", form).render
    whole = render(Report(read_runs(folder)))
    assert render(Report(read_all([folder], stored=True))) == whole
    request.getfixturevalue("several")
    assert render(Report(read_all([folder], stored=True))) == whole


def test_a_damaged_record_is_one_line_from_another_process_too(folder, several):
    path = folder / "records.jsonl"
    lines = path.read_bytes().replace(b'"samples": {', b'"samples": {{', 1)
    path.write_bytes(lines)
    (run,) = read_all([folder], stored=True)
    with pytest.raises(RunDirError, match=r"records\.jsonl:1: not a record; remove the line"):
        Report([Run("r", run.records)]).summaries


def test_records_that_nothing_is_compared_with_are_not_read_for_studies(folder, monkeypatch):
    (run,) = read_all([folder], stored=True)
    monkeypatch.setattr(RecordFile, "read", lambda *_: pytest.fail("a record was read"))
    assert learning.group_by_setup(run.records) == {}
    assert scaling.curves(run.records) == []
    assert remedy_trials.trials_of(run.records) == {}
