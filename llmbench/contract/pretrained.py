"""Pretrained models of transformers: where one is on this machine, and how cells name it without a path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmbench.contract.errors import UserError

CONFIGURATION, TOKENIZER = "config.json", "tokenizer.json"
#: Files that decide what a model is and reads; the first kind of weights that is there counts.
FILES = (CONFIGURATION, TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS = ("*.safetensors", "*.bin")
CHUNK = 1 << 22


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model. `identity` is `NAME@FINGERPRINT`: the folder's or hub's name, and a hash of the content."""

    identity: str
    folder: str
    has_tokenizer: bool
    vocab_size: int | None


def locate(name: str) -> Pretrained:
    """Return the model in a folder written by `save_pretrained`, or of that name on the hub or in its cache.

    Raises UserError, one line, where there is none.
    """
    given = Path(name).expanduser()
    folder = given.resolve() if given.is_dir() else _download(name)
    if not (folder / CONFIGURATION).is_file():
        raise UserError(f"model {name!r}: the folder has no {CONFIGURATION}; give one written by save_pretrained")
    found = list(_files(folder))
    if not any(path.suffix in (".safetensors", ".bin") for path in found):
        raise UserError(
            f"model {name!r}: no weights ({' or '.join(WEIGHTS)}); give a folder written by save_pretrained"
        )
    digest = hashlib.sha256()
    for path in found:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    short = folder.name if given.is_dir() else name.strip("/")
    config = json.loads((folder / CONFIGURATION).read_text(encoding="utf-8"))
    return Pretrained(
        identity=f"{short}@{digest.hexdigest()[:12]}",
        folder=str(folder),
        has_tokenizer=(folder / TOKENIZER).is_file(),
        vocab_size=config.get("vocab_size"),
    )


def _files(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in FILES if (folder / name).is_file())
    for pattern in WEIGHTS:
        found = sorted(folder.glob(pattern))
        if found:
            yield from found
            return


def _download(name: str) -> Path:
    """Return the folder of a hub's model in the cache, fetched if it is not there yet."""
    from huggingface_hub import snapshot_download

    try:
        for patterns in ([*FILES, "*.safetensors"], ["*.bin"]):
            folder = Path(snapshot_download(name, allow_patterns=patterns))
            if any(folder.glob(patterns[-1])):
                break
        return folder
    except Exception as error:  # network, names and permissions: each has a class of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"model {name!r}: no such folder, and the hub gives none: {reason}; write a folder or a hub name"
        ) from None
