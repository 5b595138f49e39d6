"""Files and folders appear whole under their name, or not at all."""

from __future__ import annotations

import os

import pytest

from llmbench.contract.files import atomic_folder, write_atomic


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("content", ["text, ä", b"\x00bytes"])
def test_a_file_holds_its_content_and_nothing_lies_next_to_it(tmp_path, content, sync):
    path = tmp_path / "new" / "a.txt"
    for _ in range(2):
        write_atomic(path, content, sync=sync)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
        assert list(path.parent.iterdir()) == [path]


def test_only_what_must_last_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_atomic(tmp_path / "cache", "a", sync=False)
    assert synced == []
    write_atomic(tmp_path / "result", "a")
    assert len(synced) == 2  # the file, and the folder that names it


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "cells" / "a"
    for text in ("old", "new"):
        with atomic_folder(path) as folder:
            assert folder.parent == path.parent and list(folder.iterdir()) == []
            (folder / text).write_text(text)
            assert not (path / text).exists()
        assert [file.name for file in path.iterdir()] == [text]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_filled_leaves_the_old_one(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as folder:
        (folder / "new").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [path] and [file.name for file in path.iterdir()] == ["old"]
