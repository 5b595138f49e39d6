"""The run directory: append-only records that survive a crash at any byte, and one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llmbench.contract.errors import RunDirError
from llmbench.contract.files import sync_folder, write_atomic
from llmbench.contract.job import FAILED, SETTLED
from llmbench.records.json_lines import dump_json, parse_line, parse_records

if TYPE_CHECKING:
    from llmbench.contract.record import Record

RECORDS = "records.jsonl"
TORN = "records.jsonl.torn"
LOCK = ".lock"
WORK = ".work"
#: Any of these makes a folder a run directory.
MARKS = (RECORDS, "suite.yaml", "environment.json", LOCK)


class RunDir:
    """One run on disk; open it with `RunDir.open` and use it as a context manager."""

    def __init__(self, path: Path, lock_fd: int | None) -> None:
        self.path = path
        self._lock_fd = lock_fd
        self._latest: dict[tuple[str, int], tuple[int, str]] | None = None  # -> (attempt, status)

    @classmethod
    def open(cls, path: str | Path, *, write: bool) -> RunDir:
        """Open a run directory, for writing (created when new, locked, repaired) or for reading only.

        Raises RunDirError when another run writes to it, when the folder is something else, or when a record in
        it cannot be read.
        """
        path = Path(path)
        if not write:
            if not (path / RECORDS).is_file():
                raise RunDirError(f"{path}: not a run directory (no {RECORDS}); give the folder of a run")
            return cls(path, None)
        if path.exists() and not path.is_dir():
            raise RunDirError(f"{path}: is a file; give a folder to write the run to")
        with contextlib.suppress(FileNotFoundError):
            visible = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
            if visible and not any((path / mark).exists() for mark in MARKS):
                raise RunDirError(f"{path}: holds other files (such as {visible[0]}); give a new or empty folder")
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock_fd = _lock(path)
        except OSError as error:
            raise RunDirError(f"{path}: cannot be written ({error.strerror}); give another folder") from error
        run_dir = cls(path, lock_fd)
        try:
            run_dir._repair()
            run_dir._index()
        except BaseException:
            run_dir.close()
            raise
        shutil.rmtree(path / WORK, ignore_errors=True)
        return run_dir

    def close(self) -> None:
        """Give the lock back; closing twice does nothing."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- layout ---

    @property
    def checkpoints(self) -> Path:
        """Return the folder with one folder of weights per cell id."""
        return self.path / "checkpoints"

    @property
    def cache(self) -> Path:
        """Return the folder of what can be made again (tokenizers, encoded data)."""
        return self.path / "cache"

    @property
    def logs(self) -> Path:
        """Return the folder with the output of each cell's process."""
        return self.path / "logs"

    # --- records ---

    def append(self, record: Record) -> None:
        """Add one record durably: it is on the disk when this returns, or (on an error) not in the file at all."""
        self._must_write()
        line = (dump_json(record) + "\n").encode("ascii")
        new = not (self.path / RECORDS).exists()
        fd = os.open(self.path / RECORDS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(fd).st_size
            try:
                _write_all(fd, line)
                os.fsync(fd)
            except OSError as error:
                os.ftruncate(fd, size)
                raise RunDirError(f"{self.path / RECORDS}: cannot be written ({error.strerror})") from error
        finally:
            os.close(fd)
        if new:
            sync_folder(self.path)
        if self._latest is not None:
            _note(self._latest, record)

    def records(self) -> list[Record]:
        """Return all records in the order they were written; a torn last line is left out.

        Raises RunDirError naming the line when one is malformed or was written by a newer llmbench.
        """
        return list(self._parse())

    def _parse(self) -> Iterator[Record]:
        path = self.path / RECORDS
        if not path.exists():
            return
        with path.open("rb") as file:
            yield from parse_records(file, str(path))

    def _repair(self) -> None:
        """Cut a torn last line off and keep its bytes aside; finish a whole one that only lacks its end."""
        path = self.path / RECORDS
        if not path.exists():
            return
        data = path.read_bytes()
        start = data.rfind(b"\n") + 1
        tail = data[start:]
        if not tail:
            return
        if parse_line(tail) is not None:
            with path.open("ab") as file:
                file.write(b"\n")
                file.flush()
                os.fsync(file.fileno())
            return
        with (self.path / TORN).open("ab") as file:
            file.write(tail + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with path.open("r+b") as file:
            file.truncate(start)
            os.fsync(file.fileno())

    def _index(self) -> dict[tuple[str, int], tuple[int, str]]:
        if self._latest is None or self._lock_fd is None:  # without the lock, somebody else may have appended
            latest: dict[tuple[str, int], tuple[int, str]] = {}
            for record in self._parse():
                _note(latest, record)
            self._latest = latest
        return self._latest

    def status(self, cell_id: str, repeat: int) -> str | None:
        """Return the status of the latest attempt at a repeat of a cell, None when there was none."""
        found = self._index().get((cell_id, repeat))
        return found[1] if found else None

    def list_settled(self, retry_failed: bool = False) -> set[tuple[str, int]]:
        """Return the (cell id, repeat) that need not run again; the latest attempt counts."""
        done = SETTLED - FAILED if retry_failed else SETTLED
        return {key for key, (_, status) in self._index().items() if status in done}

    def next_attempt(self, cell_id: str, repeat: int) -> int:
        """Return the number of the next attempt at a repeat of a cell, from 0."""
        found = self._index().get((cell_id, repeat))
        return found[0] + 1 if found else 0

    def archive(self) -> Path | None:
        """Set the records aside as `records-N.jsonl` to start afresh, and return where; checkpoints stay."""
        self._must_write()
        path = self.path / RECORDS
        self._latest = {}
        if not path.exists():
            return None
        number = 1
        while (kept := self.path / f"records-{number}.jsonl").exists():
            number += 1
        path.rename(kept)
        sync_folder(self.path)
        return kept

    # --- other files ---

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the run atomically and return its path."""
        self._must_write()
        write_atomic(self.path / name, text)
        return self.path / name

    def write_json(self, name: str, value: object) -> Path:
        """Write a JSON file of the run atomically (NaN as null) and return its path."""
        return self.write_text(name, dump_json(value, indent=2) + "\n")

    def _must_write(self) -> None:
        if self._lock_fd is None:
            raise ValueError(f"{self.path} is not open for writing")


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _lock(path: Path) -> int:
    """Lock the folder for this process and return the descriptor that holds the lock."""
    fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise RunDirError(
            f"{path}: another run (process {owner}) is writing to it; wait for it or give another folder"
        ) from None
    except OSError:
        os.close(fd)
        raise
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _note(latest: dict[tuple[str, int], tuple[int, str]], record: Record) -> None:
    key = (record["cell_id"], record.get("repeat", 0))
    attempt = record.get("attempt", 0)
    if key not in latest or attempt >= latest[key][0]:
        latest[key] = (attempt, record["status"])
