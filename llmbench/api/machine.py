"""Questions to this machine: what it has (`llmbench doctor`) and what it can do at best (`llmbench calibrate`)."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.api.runs import discover_noting, open_executor
from llmbench.contract.errors import UserError
from llmbench.execution.worker_calls import CAPTURE_ENVIRONMENT

if TYPE_CHECKING:
    from llmbench.contract.record import Ceilings, JsonObject

#: Packages that only some uses need, and which; everything else works without them.
FOR_SOME_USES = {
    "rich": "tables with lines in a terminal",
    "orjson": "reading many records fast",
    "evaluate": "scoring",
    "datasets": "scoring, and data of Hugging Face",
    "scikit-learn": "the metric F1",
    "sacrebleu": "the metrics BLEU and chrF",
    "rouge-score": "the metric ROUGE",
    "pyarrow": "Parquet",
}


def _is_installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def examine() -> tuple[JsonObject, list[str]]:
    """Return the environment (empty where no process can look at it), and a line for each problem."""
    from llmbench.plugins.discovery import discover

    registry = discover((), Path.cwd())
    problems = registry.notes()
    environment: JsonObject = {}
    try:
        with open_executor() as executor:
            environment = dict(executor.call(CAPTURE_ENVIRONMENT))
    except (RuntimeError, UserError) as error:
        problems.append(f"no process can look at this machine: {(str(error).splitlines() or ['unknown'])[-1]}")
    packages = environment.get("packages", {})
    problems += [
        f"{name} is missing; install it with: pip install {name}"
        for name, version in packages.items()
        if not version and name not in FOR_SOME_USES
    ]
    problems += [
        f"{name} is not installed, for {use}; install it with: pip install {name}"
        for name, use in FOR_SOME_USES.items()
        if not _is_installed(name)
    ]
    return environment, problems


def ceilings_of(device: str, *, fresh: bool, say: Callable[[str], None]) -> Ceilings:
    """Return the ceilings of `device` (`auto`: the best there is), measured where the cache has none, or `fresh`.

    Raises UserError for a device that is not there.
    """
    from llmbench.contract.ceilings import best_device
    from llmbench.contract.errors import Unsupported
    from llmbench.execution.calibration import ensure

    precisions = [provided.spec for provided in discover_noting(()).by_kind["precision"].values()]
    with open_executor() as executor:
        environment = dict(executor.call(CAPTURE_ENVIRONMENT))
        chosen = best_device(environment) if device == "auto" else device
        try:
            return ensure(executor, environment, chosen, say, precisions=precisions, fresh=fresh)
        except Unsupported as error:
            raise UserError(f"--device {device}: {error}") from None
