"""Personal data out of what is published: user and host names, home folders, tokens. Pure, and the same twice as once.

Names are taken out wherever they stand alone; what looks like a secret is taken out whoever it belongs to. Numbers and
the shape of the data stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

REMOVED = "[removed]"
#: Names that tell about nobody.
COMMON_NAMES = frozenset(
    {"root", "user", "admin", "ubuntu", "debian", "docker", "runner", "nobody", "guest", "test", "localhost"}
)
_HOME = re.compile(r"(?i)(?:[a-z]:)?[/\\]+(?:home|users)[/\\]+[^/\\\s\"':;,<>|)\]]+|(?<![\w./-])/root(?![\w.-])")
_LIBRARY = re.compile(r"(?:~|[a-zA-Z]:)?[/\\][^\s\"'<>|]*[/\\](?:site|dist)-packages[/\\]")
_SOURCE_FILE = re.compile(r"File \"[^\"\n]*[/\\]([^\"/\\\n]+)\"")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-zA-Z]{2,}")
_URL_LOGIN = re.compile(r"(?<=://)[^/\s@\[]+@")
_SECRET_WORD = r"(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?)"
_ASSIGNED = re.compile(rf"(?i)\b(\w*{_SECRET_WORD}\s*[=:]\s*)(?!\[removed\])[^\s\"',;&]+")
_SECRET_KEY = re.compile(rf"(?i)\w*{_SECRET_WORD}")
_TOKEN = re.compile(
    r"hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|\b(?:sk-[\w-]{16,}|"
    r"xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)(?!\[removed\])[\w.~+/=-]{8,}")
#: Escape sequences of terminals, and control characters but for tab and line ends.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def scrub(value: Any, names: Iterable[str] = ()) -> Any:
    """Return JSON-able `value` without personal data; `names` are those of users and machines.

    Names shorter than 3 characters, and those of nobody (`root`, `ubuntu`), stay: they would be found everywhere.
    """
    known = sorted({n for n in names if len(n) > 2 and n.lower() not in COMMON_NAMES}, key=len, reverse=True)
    pattern = "|".join(map(re.escape, known))
    private = re.compile(rf"(?i)(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])") if known else None
    return _value(value, private)


def _value(value: Any, private: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return _text(value, private)
    if isinstance(value, Mapping):
        found = {}
        for key, item in value.items():
            hidden = isinstance(item, str) and item and _SECRET_KEY.fullmatch(str(key))
            found[_text(str(key), private)] = REMOVED if hidden else _value(item, private)
        return found
    if isinstance(value, list | tuple):
        return [_value(item, private) for item in value]
    return value


def _text(text: str, private: re.Pattern[str] | None) -> str:
    """Return `text` without personal data; again until nothing changes, since taking out can join what was apart."""
    for _ in range(8):
        before = text
        text = _CONTROL.sub("", text)
        text = _BEARER.sub(rf"\g<1>{REMOVED}", _TOKEN.sub(REMOVED, text))
        text = _ASSIGNED.sub(rf"\g<1>{REMOVED}", text)
        text = _EMAIL.sub("*", _URL_LOGIN.sub("", text))
        text = _SOURCE_FILE.sub(r'File "\1"', _LIBRARY.sub("", _HOME.sub("~", text)))
        if private is not None:
            text = private.sub("*", text)
        if text == before:
            break
    return text
