"""Languages: what file and folder names say about them, and what the script of a text does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

#: ISO 639-2/3 codes that file and folder names use, and their ISO 639-1 codes
_LANGUAGES = {
    **{"eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "ita": "it", "por": "pt"},
    **{"rus": "ru", "jpn": "ja", "kor": "ko", "cmn": "zh", "zho": "zh", "chi": "zh", "ces": "cs", "cze": "cs"},
    **{"pol": "pl", "nld": "nl", "ron": "ro", "tur": "tr", "vie": "vi", "hin": "hi", "ara": "ar", "fin": "fi"},
    **{"swe": "sv", "dan": "da", "ukr": "uk", "ell": "el", "heb": "he", "hun": "hu", "est": "et", "lav": "lv"},
}
_CODES = frozenset(_LANGUAGES.values()) | {"gu", "kk", "lt", "is", "ha", "km", "ps", "ta"}
_LANGUAGE = re.compile(r"([a-z]{2,3})([-_][A-Za-z]{2,4})?")
_IDEOGRAPH = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA = re.compile(r"[\u3040-\u30ff]")

Languages = tuple[str | None, str | None]  # of source and target; None: unknown


def is_language(word: str) -> bool:
    """Return whether `word` is a language code, such as `de`, `deu` or `pt_BR`."""
    found = _LANGUAGE.fullmatch(word)
    return found is not None and (found.group(1) in _CODES or found.group(1) in _LANGUAGES)


def iso_code(code: str) -> str:
    """Return the ISO 639-1 code of `code`: `deu` and `de_AT` are `de`."""
    base = re.split("[-_]", code)[0]
    return _LANGUAGES.get(base, base)


def languages_in(name: str) -> tuple[str, str] | None:
    """Return the two languages that a folder name such as `wmt14_en_de` tells, in its order, else None."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in _CODES or word in _LANGUAGES]
    return (iso_code(words[0]), iso_code(words[1])) if len(words) == 2 else None


def _script_language(texts: Sequence[str]) -> str | None:
    """Return `zh` or `ja` where most texts are in that script, else None."""
    counts = Counter("ja" if _KANA.search(t) else "zh" if _IDEOGRAPH.search(t) else "" for t in texts)
    if counts["ja"] + counts["zh"] < len(texts) / 2:
        return None
    return "ja" if counts["ja"] > counts["zh"] / 10 else "zh"


def pair_languages(named: Languages, rows: Sequence[Mapping[str, Any]]) -> Languages:
    """Return the languages of source and target: what the script says, else what the names say."""
    source, target = named
    seen = _script_language([r["source"] for r in rows[:1000]]), _script_language([r["target"] for r in rows[:1000]])
    if (seen[0] and seen[0] == target) or (seen[1] and seen[1] == source):
        source, target = target, source  # named in the other order than the columns have
    return seen[0] or source, seen[1] or target
