"""The suite's tokenizer: byte-level BPE (as in GPT-2), trained on the union of the suite's training text.

Every text can be encoded and comes back unchanged: there are no unknown characters, and the names of special
tokens inside a text (`<unk>` in WikiText) are ordinary text. Special tokens have the ids 0 to 5.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.contract.errors import DataError, SuiteError
from llmbench.contract.specs import SpecialTokens

if TYPE_CHECKING:
    import tokenizers

SPECIAL = SpecialTokens()
#: Names in the order of their ids.
SPECIAL_NAMES = tuple(f"<{name}>" for name, _ in sorted(asdict(SPECIAL).items(), key=lambda pair: pair[1]))
#: The smallest vocabulary: special tokens and one token per byte.
MIN_VOCAB_SIZE = len(SPECIAL_NAMES) + 256


class BpeTokenizer:
    """A byte-level BPE tokenizer; implements `llmbench.contract.specs.Tokenizer`.

    Can be pickled and used after a fork.
    """

    special: SpecialTokens = SPECIAL

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        _use_one_thread()
        inner.encode_special_tokens = True  # "<unk>" in a text is text; not kept by the JSON, so set here
        self._inner = inner
        self.vocab_size: int = inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special tokens."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens."""
        return [e.ids for e in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and, for each, its (start, end) in characters of `text`, leading spaces left out.

        Tokens that share a character (its bytes) have the same offsets; a token of spaces only has start == end.
        """
        encoding = self._inner.encode(text, add_special_tokens=False)
        offsets = [(end - len(text[start:end].lstrip(" ")), end) for start, end in encoding.offsets]
        return list(encoding.ids), offsets

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens and without spaces at its ends.

        `decode(encode(text)) == text` for every text without a space at its ends. Bytes that are no UTF-8 (a
        model's output may be cut within a character) become U+FFFD.
        """
        return str(self._inner.decode([int(i) for i in ids], skip_special_tokens=True)).strip(" ")

    def to_json(self) -> str:
        """Return the tokenizer in the JSON format of Hugging Face `tokenizers`."""
        return str(self._inner.to_str())

    def save(self, path: str | Path) -> None:
        """Write `to_json` to `path`, which is then either the old or the complete new file, never half of one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return from_json, (self.to_json(),)


def from_json(text: str) -> BpeTokenizer:
    """Rebuild a tokenizer from `BpeTokenizer.to_json`. Raises ValueError if it is none of ours."""
    import tokenizers

    try:
        inner = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"not a tokenizer ({error})") from error
    for number, name in enumerate(SPECIAL_NAMES):
        if inner.token_to_id(name) != number:
            raise ValueError(f"the id of {name} is not {number}")
    return BpeTokenizer(inner)


def load(path: str | Path) -> BpeTokenizer:
    """Read a tokenizer written by `BpeTokenizer.save`. Raises DataError (one line) when that cannot be done."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot read the tokenizer: {error.strerror}") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a tokenizer of llmbench: {reason}; delete the file to train it again") from error


def train(texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """Train a tokenizer of at most `vocab_size` tokens; the same texts give the same tokenizer everywhere.

    Little text gives fewer tokens: `BpeTokenizer.vocab_size` says how many. Raises SuiteError when `vocab_size`
    does not hold the special tokens and the 256 bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < MIN_VOCAB_SIZE:
        raise SuiteError(f"vocab_size {vocab_size}: byte-level BPE needs {MIN_VOCAB_SIZE} or more")
    _use_one_thread()
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_NAMES),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return BpeTokenizer(inner)


def _use_one_thread() -> None:
    """Keep `tokenizers` from starting threads, which a later fork (loader processes) would lose and warn about.

    A value that the user has set stays.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
