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
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llmbench.records.attempts import by_cell
from llmbench.records.json_lines import not_a_record, parse_line, parse_records

if TYPE_CHECKING:
    from llmbench.contract.record import Record

T = TypeVar("T")
Place = tuple[int, int]  # of a record in its file: where it begins, and how many bytes it has

#: Fields that stay in memory: they tell which cell a record is of, and whether it counts.
HEAD = ("cell_id", "cell", "repeat", "repeats", "budget", "attempt", "status", "environment_id")
_AT = {name: i for i, name in enumerate(HEAD)}
_MISSING = object()
#: Fewer records are not worth a second process.
MIN_RECORDS = 5000
#: More processes do not help.
MAX_PROCESSES = 4
#: A process gets so many cells at once, or fewer where their records have more bytes than this: they are all in memory.
MAX_CELLS = 250
MAX_BYTES = 4_000_000


class RecordFile:
    """The file of `StoredRecord`s. The last record that was read stays: readers ask for one field after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._fd)
        self._last: tuple[Place, Record] = ((-1, 0), cast("Record", {}))

    def records(self) -> Records:
        """Return all records in the order they were written. Raises RunDirError as `parse_records` does.

        They are read-only, whatever the type says: `Record` is what their readers go by.
        """
        shared: dict[object, object] = {}
        place: Place = (0, 0)

        def lines() -> Iterator[bytes]:
            nonlocal place
            os.lseek(self._fd, 0, os.SEEK_SET)
            with open(self._fd, "rb", closefd=False) as file:
                for line in file:
                    place = (sum(place), len(line))
                    yield line

        heads = parse_records(lines(), str(self.path), _parse_head)
        return Records(cast("Record", StoredRecord(self, place, _head(record, shared))) for record in heads)

    def read(self, place: Place) -> Record:
        """Return the record at `place`."""
        if self._last[0] != place:
            self._last = (place, next(self.read_all([place])))
        return self._last[1]

    def read_all(self, places: Iterable[Place]) -> Iterator[Record]:
        """Yield the records at `places`. Raises RunDirError for one that is none."""
        for begin, size in places:
            record = parse_line(os.pread(self._fd, size, begin))
            if record is None:
                raise not_a_record(str(self.path), 1 + os.pread(self._fd, begin, 0).count(b"\n"))
            yield record


class Records(list["Record"]):
    """All records of a file, which stay as they are."""

    @cached_property
    def groups(self) -> dict[str, list[Record]]:
        """The records by cell, as `attempts.by_cell` returns them: many tables ask for them."""
        return by_cell(iter(self))


class StoredRecord(Mapping[str, object]):
    """A record whose head is in memory; all other fields are read from its file when somebody asks for them."""

    __slots__ = ("_head", "file", "place")

    def __init__(self, file: RecordFile, place: Place, head: tuple[object, ...]) -> None:
        self.file, self.place, self._head = file, place, head

    def __getitem__(self, name: str) -> Any:
        if name not in _AT:
            return cast("Mapping[str, object]", self.file.read(self.place))[name]
        value = self._head[_AT[name]]
        if value is _MISSING:
            raise KeyError(name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or `default` where there is none."""
        try:
            return self[name]
        except KeyError:
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.read(self.place))

    def __len__(self) -> int:
        return len(self.file.read(self.place))


def _parse_head(line: bytes) -> Record | None:
    """Return the fields before the samples, which are most of a record; the whole record if they lack one of HEAD."""
    cut = line.find(b', "samples": ')
    head = parse_line(line[:cut] + b"}") if cut > 0 and line.endswith(b"}\n") else None
    return head if head is not None and head.keys() >= _AT.keys() else parse_line(line)


def _head(record: Record, shared: dict[object, object]) -> tuple[object, ...]:
    """Return the values of HEAD; equal values of many records are one object, from `shared`."""
    values: list[object] = [record.get(name, _MISSING) for name in HEAD]
    for i, value in enumerate(values):
        if type(value) is str:
            values[i] = shared.setdefault(value, value)
        elif type(value) is dict:
            known = shared.setdefault((HEAD[i], record["cell_id"] if HEAD[i] == "cell" else None), value)
            values[i] = known if known == value else value
    return tuple(values)


def map_cells(function: Callable[[Sequence[Sequence[Record]]], list[T]], groups: Sequence[Sequence[Record]]) -> list[T]:
    """Apply `function` to groups of records; it returns a result for each group it gets.

    Stored records are read from their file some groups at a time, so that memory stays small; many of them are read in
    a process per core.
    """
    files = [_file_of(record) for group in groups for record in group]
    file = files[0] if files else None
    if file is None or any(one is not file for one in files):
        return function(groups)
    places = [[_place_of(record) for record in group] for group in groups]
    tasks = list(_tasks(places))
    count = min(len(os.sched_getaffinity(0)), MAX_PROCESSES) if sys.platform == "linux" else 1
    if count < 2 or len(files) < MIN_RECORDS:
        return [result for task in tasks for result in _apply(function, file, task)]
    with ProcessPoolExecutor(count, get_context("fork"), _begin, (function, file)) as pool:
        return [result for part in pool.map(_work, tasks) for result in part]


def _file_of(record: object) -> RecordFile | None:
    return record.file if isinstance(record, StoredRecord) else None


def _place_of(record: object) -> Place:
    assert isinstance(record, StoredRecord)
    return record.place


def _tasks(places: Sequence[Sequence[Place]]) -> Iterator[list[Sequence[Place]]]:
    """Yield the groups, some at once: up to `MAX_CELLS` of them, and about `MAX_BYTES` in their file."""
    some: list[Sequence[Place]] = []
    size = 0
    for group in places:
        some.append(group)
        size += sum(length for _, length in group)
        if len(some) == MAX_CELLS or size >= MAX_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _apply(
    function: Callable[[Sequence[Sequence[Record]]], list[T]], file: RecordFile, places: Sequence[Sequence[Place]]
) -> list[T]:
    records = file.read_all(place for group in places for place in group)
    return function([[next(records) for _ in group] for group in places])


#: Of a process of `map_cells`: its function and file, which would take too long to send with each task.
_common: list[Any] = []


def _begin(*common: Any) -> None:
    _common[:] = common


def _work(places: Sequence[Sequence[Place]]) -> list[Any]:
    function, file = _common
    return _apply(function, file, places)
