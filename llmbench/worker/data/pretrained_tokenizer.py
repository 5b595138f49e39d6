"""The tokenizer that comes with a pretrained model, as tasks and data sets use one.

Models may lack special tokens that layouts need (a Llama has no `sep`). These become ids after the vocabulary, for
which the model's embedding grows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.contract.errors import DataError
from llmbench.contract.pretrained import FILES, TOKENIZER
from llmbench.contract.specs import SpecialTokens
from llmbench.worker.data.tokenizer import BpeTokenizer

if TYPE_CHECKING:
    import tokenizers

    from llmbench.contract.record import JsonObject

#: Ours -> theirs, the first that the model has: BERT's marks of a text's ends are `cls` and `sep`.
NAMES = {
    "pad": ("pad_token",),
    "unk": ("unk_token",),
    "bos": ("bos_token", "cls_token"),
    "eos": ("eos_token", "sep_token"),
    "sep": ("sep_token",),
    "mask": ("mask_token",),
}


class PretrainedTokenizer(BpeTokenizer):
    """A tokenizer of transformers, in the format of `tokenizers`."""

    def __init__(self, inner: tokenizers.Tokenizer, special: SpecialTokens, folder: str) -> None:
        inner.no_padding()
        inner.no_truncation()
        super().__init__(inner)
        self.special, self.folder = special, folder
        self._known = max(inner.get_vocab(with_added_tokens=True).values()) + 1
        self.vocab_size = max(self._known, *(i + 1 for i in vars(special).values()))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens and without spaces at its ends."""
        marks = set(vars(self.special).values())
        return super().decode([i for i in ids if int(i) < self._known and int(i) not in marks])

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return load, (self.folder,)


def load(folder: str) -> PretrainedTokenizer:
    """Read the tokenizer in the folder. Raises DataError (one line) where it is none."""
    import tokenizers

    path = Path(folder)
    try:
        inner = tokenizers.Tokenizer.from_file(str(path / TOKENIZER))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path.name}/{TOKENIZER}: not a tokenizer ({' '.join(str(error).split())[:200]})") from error
    special: JsonObject = {}  # name of a special token in the model's files -> the token
    for file in FILES[2:]:
        if (path / file).is_file():
            special = {**json.loads((path / file).read_text(encoding="utf-8")), **special}
    next_id = max(inner.get_vocab(with_added_tokens=True).values()) + 1
    ids: dict[str, int] = {}
    for ours, theirs in NAMES.items():
        words = [special[name] for name in theirs if special.get(name)]
        texts = [word["content"] if isinstance(word, dict) else str(word) for word in words]
        known = next((i for i in map(inner.token_to_id, texts) if i is not None), None)
        ids[ours] = next_id if known is None else known
        next_id += known is None
    return PretrainedTokenizer(inner, SpecialTokens(**ids), folder)
