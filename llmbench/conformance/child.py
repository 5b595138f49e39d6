"""The process that runs checks: it reads their names as JSON, and writes `begin` and `end` of each to a pipe."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from llmbench import conformance
from llmbench.conformance.subject import CHECKS, Failed, NotHere, Subject, one_line
from llmbench.contract.errors import NotMeasured, UserError
from llmbench.plugins.discovery import discover
from llmbench.plugins.registry import Provided, Registry


class Request(TypedDict):
    """What the parent asks for."""

    items: list[tuple[int, tuple[str, str, str]]]  # number, and kind, name and check
    files: list[str]  # of plugins
    cwd: str


def main() -> None:
    """Run the checks that the JSON on the command line names."""
    pipe = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8", buffering=1)
    request: Request = json.loads(sys.argv[2])
    conformance.known()
    registry = discover(request["files"], Path(request["cwd"]))
    with tempfile.TemporaryDirectory(prefix="llmbench-check-") as folder:
        for number, (kind, name, check) in request["items"]:
            pipe.write(json.dumps({"begin": number}) + "\n")
            subject = _subject(registry, kind, name, request["files"], Path(folder))
            pipe.write(json.dumps({"end": number, **_run_check(check, subject)}) + "\n")
    pipe.flush()
    os._exit(0)


def _subject(registry: Registry, kind: str, name: str, files: Sequence[str], folder: Path) -> Subject:
    base, _, argument = name.partition(":")
    provided: Provided = registry.by_kind[kind][base]
    spec = provided.spec.of_weights(argument) if kind == "model" and argument else provided.spec
    return Subject(kind, name, spec, provided.owner, registry, tuple(files), folder)


def _run_check(check: str, subject: Subject) -> dict[str, str]:
    """Run one check; return its status and, unless it passed, the reason."""
    import random

    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    try:
        CHECKS[subject.kind][check].run(subject)
    except (NotHere, NotMeasured) as reason:
        # a cause may see only while it is tried that it does not apply
        declined = isinstance(reason, NotHere) or (subject.kind == "cause" and str(reason).strip())
        status = "does not apply" if declined else "failed"
        return {"status": status, "reason": str(reason) if declined else one_line(reason)}
    except Failed as reason:
        return {"status": "failed", "reason": " ".join(str(reason).split())}
    except UserError as error:
        return {"status": "failed", "reason": " ".join(str(error).split())}
    except (Exception, SystemExit) as error:
        return {"status": "failed", "reason": one_line(error)}
    return {"status": "passed", "reason": ""}


if __name__ == "__main__":
    main()
