"""What is asked of a fresh process: `python -m llmbench.conformance.fresh FUNCTION ARGS` prints a JSON object."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import locale
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmbench.contract.errors import UserError

#: Libraries that take long to import, or start threads: what needs them imports them where it does.
HEAVY = ("torch", "transformers", "tensorflow", "keras", "jax", "evaluate", "datasets", "pandas", "sklearn", "scipy")


def imported(origin: str, owner: str) -> dict[str, Any]:
    """Import one plugin's module and nothing else; say what that did."""
    from llmbench.plugins.discovery import load_file
    from llmbench.plugins.guard import watching

    load, root = _loader(origin, owner, load_file)
    before, state, threads = set(sys.modules), _state(), threading.active_count()
    begin = time.process_time()
    with watching(root) as seen:
        load()
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    return {
        "seconds": time.process_time() - begin,
        "heavy": [name for name in HEAVY if name in new],
        "printed": seen.output,
        "patched": seen.patches,
        "threads": threading.active_count() - threads,
        "changed": [name for name, value in _state().items() if value != state[name]],
    }


def _loader(origin: str, owner: str, load_file: Callable[[Path], Any]) -> tuple[Callable[[], Any], str]:
    if origin.startswith("module "):
        name = origin.removeprefix("module ")
        return lambda: importlib.import_module(name), name.partition(".")[0]
    if not origin.startswith("entry point "):
        return lambda: load_file(Path(origin)), "llmbench_file_plugin_"
    name = origin.removeprefix("entry point ")
    points = importlib.metadata.entry_points(group="llmbench", name=name)
    (point,) = [one for one in points if one.dist is not None and one.dist.name == owner]
    return point.load, point.module.partition(".")[0]


def _state() -> dict[str, Any]:
    """Return what of a process everything in it shares, and nobody may change for others."""
    import random

    import numpy as np

    return {
        "the working directory": str(Path.cwd()),
        "files in the working directory": sorted(path.name for path in Path.cwd().iterdir()),
        "environment variables": dict(os.environ),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the state of `random`": random.getstate(),
        "the random state of numpy": str(np.random.get_state()),
        "the recursion limit": sys.getrecursionlimit(),
    }


def described(kind: str, name: str, files: list[str], cwd: str) -> dict[str, Any]:
    """Find a plugin as a worker does; return its fields."""
    from llmbench.conformance.common import plain
    from llmbench.plugins.discovery import discover

    return {"spec": plain(discover(files, Path(cwd)).get(kind, name))}


def loaded(name: str, task: str, argument: str, files: list[str], cwd: str) -> dict[str, Any]:
    """Load a data set; return what tells its content."""
    from llmbench.conformance.datasets import digest
    from llmbench.contract.specs import DataRequest
    from llmbench.plugins.discovery import discover

    registry = discover(files, Path(cwd))
    request = DataRequest(registry.get("task", task), argument)
    spec = registry.get("dataset", name)
    return {"identity": spec.identify(request), "digest": digest(spec.load(request))}


def rendered(name: str, files: list[str], cwd: str) -> dict[str, Any]:
    """Render a report; say whether that needed torch."""
    from llmbench.conformance.reporters import record
    from llmbench.plugins.discovery import discover
    from llmbench.records.read import Run
    from llmbench.report import Report

    spec = discover(files, Path(cwd)).get("reporter", name)
    spec.render(Report([Run("run", [record()], {}, {}, {})]))
    return {"torch": "torch" in sys.modules}


def main() -> None:
    """Run the function that the command line names."""
    from llmbench.plugins.guard import keep_standard_output

    functions: dict[str, Callable[..., dict[str, Any]]] = {
        f.__name__: f for f in (imported, described, loaded, rendered)
    }
    try:
        with keep_standard_output():
            found = functions[sys.argv[1]](*json.loads(sys.argv[2]))
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        found = {"error": text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)  # whatever threads there are


if __name__ == "__main__":
    main()
