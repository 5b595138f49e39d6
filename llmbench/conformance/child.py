"""The process that makes checks: reads what to check as JSON, writes `begin` and `end` of each to a pipe."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmbench import conformance
from llmbench.conformance.subject import CHECKS, Failed, NotHere, Subject, one_line
from llmbench.contract.errors import NotMeasured, UserError
from llmbench.plugins.discovery import discover
from llmbench.plugins.registry import Provided, Registry


def main() -> None:
    """Make the checks that the command line's JSON names."""
    pipe = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8", buffering=1)
    asked = json.loads(sys.argv[2])
    conformance.known()
    registry = discover(asked["files"], Path(asked["cwd"]))
    with tempfile.TemporaryDirectory(prefix="llmbench-check-") as folder:
        for number, (kind, name, check) in asked["items"]:
            pipe.write(json.dumps({"begin": number}) + "\n")
            subject = _subject(registry, kind, name, asked, Path(folder))
            pipe.write(json.dumps({"end": number, **_made(check, subject)}) + "\n")
    pipe.flush()
    os._exit(0)


def _subject(registry: Registry, kind: str, name: str, asked: Mapping[str, Any], folder: Path) -> Subject:
    base, _, argument = name.partition(":")
    provided: Provided = registry.by_kind[kind][base]
    spec = provided.spec.of_weights(argument) if kind == "model" and argument else provided.spec
    return Subject(kind, name, spec, provided.owner, registry, tuple(asked["files"]), folder)


def _made(check: str, subject: Subject) -> dict[str, str]:
    """Make one check; return its status and, unless it passed, the reason."""
    import random

    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    try:
        CHECKS[subject.kind][check].run(subject)
    except (NotHere, NotMeasured) as reason:
        said = isinstance(reason, NotHere) or (subject.kind == "cause" and str(reason).strip())
        status = "does not apply" if said else "failed"  # a cause may find out only while it is tried
        return {"status": status, "reason": str(reason) if said else one_line(reason)}
    except Failed as reason:
        return {"status": "failed", "reason": " ".join(str(reason).split())}
    except UserError as error:
        return {"status": "failed", "reason": " ".join(str(error).split())}
    except (Exception, SystemExit) as error:
        return {"status": "failed", "reason": one_line(error)}
    return {"status": "passed", "reason": ""}


if __name__ == "__main__":
    main()
