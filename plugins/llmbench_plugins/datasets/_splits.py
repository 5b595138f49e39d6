"""Splits: which file or split name means which, and how missing ones are made from the others.

A split that is carved out of the training data is chosen by a hash of the content, so it is the same on every
machine and in every file order, and equal inputs never end up in two splits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmbench import DataError

SHARE = 0.05  # of the training data, for each split that has to be carved out of it

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
_PATTERN = re.compile(rf"(?:^|[._-])({'|'.join(sorted(_SPLIT_OF_WORD, key=len, reverse=True))})(?![a-z])")

#: kind of task -> field whose content decides where an example goes, so that no input leaks between splits
KEY_FIELDS: Mapping[str, str] = {
    "classification": "text",
    "translation": "source",
    "summarization": "document",
    "qa": "context",
    "pretraining": "text",
}

Rows = list[dict[str, Any]]


def split_of(name: str) -> str | None:
    """Return `train`, `validation` or `test` for a file or split name, None if it names none.

    >>> split_of("test_2016_flickr.en"), split_of("wiki.valid.tokens"), split_of("testament.txt")
    ('test', 'validation', None)
    """
    found = _PATTERN.search(name.lower())
    return _SPLIT_OF_WORD[found.group(1)] if found else None


def complete(
    splits: Mapping[str, Rows], kind: str, where: str, names: Mapping[str, str]
) -> tuple[dict[str, Rows], list[str]]:
    """Return all three splits, and notes on those that had to be made.

    Without a test split the validation split becomes the test split; what is then missing is carved out of the
    training split (5 % each). `where` starts error messages; `names` says what each split is called where it
    comes from. Raises DataError when there is too little training data to carve from.
    """
    have = {split: rows for split, rows in splits.items() if rows}
    notes = []
    if "test" not in have and "validation" in have:
        have["test"] = have.pop("validation")
        notes.append(f"test is {names['validation']}, since there is no test split")
    missing = [split for split in ("validation", "test") if split not in have]
    if missing:
        have |= carve(have["train"], KEY_FIELDS[kind], missing, where)
        source = names["train"]
        notes += [f"{split} is {SHARE:.0%} of {source}, chosen by hash of the content" for split in missing]
    return have, notes


def carve(rows: Rows, field: str, parts: Sequence[str], where: str) -> dict[str, Rows]:
    """Split `rows` into `train` and `parts`, each about 5 % and at least one, by the hash of `field`."""
    places = [_place(row[field]) for row in rows]
    part_of = {}
    for place in places:
        index = int(place / SHARE)
        part_of[place] = parts[index] if index < len(parts) else "train"
    for part in parts:
        left = [place for place in part_of if part_of[place] == "train"]
        if part not in part_of.values() and left:
            part_of[min(left)] = part
    out: dict[str, Rows] = {part: [] for part in ("train", *parts)}
    for place, row in zip(places, rows, strict=True):
        out[part_of[place]].append(row)
    if not all(out.values()):
        raise DataError(
            f"{where}: {len(part_of)} different {field} value(s) are too few to split into train, {', '.join(parts)};"
            " add examples or separate split files"
        )
    return out


def _place(text: str) -> float:
    """Return a number in [0, 1) that depends on `text` only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48
