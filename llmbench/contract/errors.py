"""Every error that llmbench raises on purpose.

LlmbenchError
├── UserError            the user's input is wrong: one line, exit code 2
│   ├── SuiteError       a suite file, or a value set on the command line
│   ├── DataError        a data set that cannot be read or is malformed
│   ├── PluginError      a plugin that is missing, clashes with another or breaks its contract
│   └── RunDirError      a run directory that is locked, not one, or from a newer version
├── Unsupported          this cell cannot run here; recorded as `unsupported` with this reason
│   └── MissingPackage   a package that only some uses need is not installed (a UserError, too)
└── NotMeasured          a cause that is not measured on this cell, and why
    ├── DoesNotApply     it cannot bound this cell: there is nothing of that kind in it
    ├── OutOfTime        the budget ended first
    └── Unisolated       it may bound this cell, but here nothing removes it and leaves the rest alone

Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

#: How torch, numpy, libgomp and the C++ runtime say that memory ran out.
OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|bad_alloc|not enough memory|unable to allocate|"
    r"can't start new thread|thread creation failed",
    re.IGNORECASE,
)


class LlmbenchError(Exception):
    """Root of all errors raised on purpose."""


class UserError(LlmbenchError):
    """The user's input is wrong. The message is one line: where, what, and what to write instead."""


class SuiteError(UserError):
    """A suite file or a `--set` value is wrong."""


class DataError(UserError):
    """A data set cannot be read, is empty or is malformed."""


class PluginError(UserError):
    """A plugin is missing, claims a name that is taken, or breaks its contract."""


class RunDirError(UserError):
    """A run directory is locked by another run, or is not one."""


class Unsupported(LlmbenchError):
    """This model, device and precision (or option) cannot run together; the message is the reason."""


class MissingPackage(UserError, Unsupported):
    """A package that only some uses need is not installed: a cell is unsupported, a command ends with one line."""


class NotMeasured(LlmbenchError):
    """A cause is not measured on this cell; the message is the reason, in a few words."""


class DoesNotApply(NotMeasured):
    """The cause cannot bound this cell, since what it is about is not part of a step."""


class OutOfTime(NotMeasured):
    """The budget ended while the cause was being looked at or measured."""

    def __init__(self, reason: str = "no time was left to measure it") -> None:
        super().__init__(reason)


class Unisolated(NotMeasured):
    """The cause may bound this cell, but no intervention removes it and leaves the rest alone."""


#: Packages whose name is not that of the module that is imported.
PACKAGE_OF = {"sklearn": "scikit-learn", "rouge_score": "rouge-score", "yaml": "PyYAML"}


@contextlib.contextmanager
def needs_packages(purpose: str) -> Iterator[None]:
    """Turn an import that fails inside into MissingPackage: one line that says what `purpose` needs installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if not module:
            raise
        package = PACKAGE_OF.get(module, module)
        raise MissingPackage(f"{purpose} needs {package}, which is not installed: pip install {package}") from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)`, ` (known: a, b)` or an empty string, to append to a message.

    >>> did_you_mean("brt", ["bert", "gpt"])
    " (did you mean 'bert'?)"
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(names)})" if names else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether `error`, or what it was raised from, means that memory ran out, on the host or on a device."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return True
        if isinstance(cause, RuntimeError | OSError) and OUT_OF_MEMORY.search(str(cause)):
            return True
        cause = cause.__cause__
    return False
