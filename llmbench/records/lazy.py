"""Records that stay in their file: what a report is made of, so that a hundred thousand of them need little memory."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from llmbench.records.json_lines import not_a_record, parse_line, parse_records

T = TypeVar("T")
Record = Mapping[str, Any]
Place = tuple[int, int]  # of a record in its file: where it begins, and how many bytes it has

#: Fields that are kept in memory: what says of which cell a record is, and whether it counts.
HEAD = ("cell_id", "cell", "repeat", "repeats", "budget", "attempt", "status", "environment_id")
_AT = {name: i for i, name in enumerate(HEAD)}
_MISSING = object()
#: Fewer records are not worth a second process; more processes do not help.
MANY, MOST_PROCESSES = 5000, 4
#: A process is given so many cells at once; fewer, where their records are large: they are all in memory then.
CELLS, BYTES = 250, 4_000_000


class RecordFile:
    """The file of `StoredRecord`s. The one that was read last is kept: its fields are asked for one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._fd)
        self._last: tuple[Place, dict[str, Any]] = ((-1, 0), {})

    def records(self) -> Records:
        """Return all records in the order they were written. Raises RunDirError as `parse_records` does."""
        shared: dict[Any, Any] = {}
        place: Place = (0, 0)

        def lines() -> Iterator[bytes]:
            nonlocal place
            os.lseek(self._fd, 0, os.SEEK_SET)
            with open(self._fd, "rb", closefd=False) as file:
                for line in file:
                    place = (sum(place), len(line))
                    yield line

        found = parse_records(lines(), str(self.path), _parse_head)
        return Records(StoredRecord(self, place, _head(record, shared)) for record in found)

    def read(self, place: Place) -> dict[str, Any]:
        """Return the record at `place`."""
        if self._last[0] != place:
            self._last = (place, next(self.read_all([place])))
        return self._last[1]

    def read_all(self, places: Iterable[Place]) -> Iterator[dict[str, Any]]:
        """Yield the records at `places`. Raises RunDirError for one that is none."""
        for begin, size in places:
            record = parse_line(os.pread(self._fd, size, begin))
            if record is None:
                raise not_a_record(str(self.path), 1 + os.pread(self._fd, begin, 0).count(b"\n"))
            yield record


class Records(list[Record]):
    """All records of a file, which stay as they are."""

    @cached_property
    def groups(self) -> dict[str, list[Record]]:
        """Records by cell, as `processes.by_cell` returns them: many tables ask for them."""
        from llmbench.records.attempts import by_cell  # statistics and numpy come with it

        return by_cell(iter(self))


class StoredRecord(Mapping[str, Any]):
    """A record whose head is at hand; all else is read from its file when it is asked for."""

    __slots__ = ("_head", "file", "place")

    def __init__(self, file: RecordFile, place: Place, head: tuple[Any, ...]) -> None:
        self.file, self.place, self._head = file, place, head

    def __getitem__(self, name: str) -> Any:
        if name not in _AT:
            return self.file.read(self.place)[name]
        value = self._head[_AT[name]]
        if value is _MISSING:
            raise KeyError(name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field, `default` where there is none."""
        try:
            return self[name]
        except KeyError:
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.read(self.place))

    def __len__(self) -> int:
        return len(self.file.read(self.place))


def _parse_head(line: bytes) -> dict[str, Any] | None:
    """Return what a record has before its samples, which are most of it, where that is all of HEAD; else the record."""
    cut = line.find(b', "samples": ')
    head = parse_line(line[:cut] + b"}") if cut > 0 and line.endswith(b"}\n") else None
    return head if head is not None and head.keys() >= _AT.keys() else parse_line(line)


def _head(record: Record, shared: dict[Any, Any]) -> tuple[Any, ...]:
    """Return the values of HEAD; those that many records have are taken from `shared`."""
    values = [record.get(name, _MISSING) for name in HEAD]
    for i, value in enumerate(values):
        if type(value) is str:
            values[i] = shared.setdefault(value, value)
        elif type(value) is dict:
            known = shared.setdefault((HEAD[i], record["cell_id"] if HEAD[i] == "cell" else None), value)
            values[i] = known if known == value else value
    return tuple(values)


def mapped(function: Callable[[Sequence[Sequence[Record]]], list[T]], groups: Sequence[Sequence[Record]]) -> list[T]:
    """Return what `function` makes of groups of records, one for each: of many stored ones, in a process per core.

    It is given some groups at once, of whole records, which are read when their turn comes and not kept.
    """
    files = [record.file if isinstance(record, StoredRecord) else None for group in groups for record in group]
    file = files[0] if files else None
    if file is None or any(one is not file for one in files):
        return function(groups)
    places = [[record.place for record in group] for group in groups]  # type: ignore[attr-defined]
    tasks = list(_tasks(places))
    count = min(len(os.sched_getaffinity(0)), MOST_PROCESSES) if sys.platform == "linux" else 1
    if count < 2 or len(files) < MANY:
        return [made for task in tasks for made in _made(function, file, task)]
    with ProcessPoolExecutor(count, get_context("fork"), _begin, (function, file)) as pool:
        return [made for part in pool.map(_work, tasks) for made in part]


def _tasks(places: Sequence[Sequence[Place]]) -> Iterator[list[Sequence[Place]]]:
    """Yield the groups, some at once: up to `CELLS` of them, and up to `BYTES` in their file."""
    some: list[Sequence[Place]] = []
    size = 0
    for group in places:
        some.append(group)
        size += sum(length for _, length in group)
        if len(some) == CELLS or size >= BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _made(
    function: Callable[[Sequence[Sequence[Record]]], list[T]], file: RecordFile, places: Sequence[Sequence[Place]]
) -> list[T]:
    read = file.read_all(place for group in places for place in group)
    return function([[next(read) for _ in group] for group in places])


_given: list[Any] = []  # of a process of `mapped`: its function and file, which are too large to be sent with each task


def _begin(*given: Any) -> None:
    _given[:] = given


def _work(places: Sequence[Sequence[Place]]) -> list[Any]:
    function, file = _given
    return _made(function, file, places)
