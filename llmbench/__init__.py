"""llmbench: a plugin-based benchmarking suite for language models.

The names below are the public interface; plugins import them and nothing else. They are loaded on first use,
so that `import llmbench` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmbench.api import Diagnosis, calibrate, diagnose, doctor, found_plugins, load, planned, plant, run
    from llmbench.engines import Engine, EngineRequest, EngineSpec
    from llmbench.errors import (
        DataError,
        DoesNotApply,
        LlmbenchError,
        PluginError,
        SuiteError,
        Unisolated,
        Unsupported,
        UserError,
    )
    from llmbench.headroom import headroom_of, part_of, without
    from llmbench.hookspecs import API_VERSION, hookimpl
    from llmbench.results import Compared, Results
    from llmbench.specs import (
        BaselineContext,
        Batch,
        BuildRequest,
        CauseSpec,
        CollateContext,
        DataRequest,
        Dataset,
        DatasetSpec,
        EncodeContext,
        Forecast,
        Intervention,
        Layout,
        MetricSpec,
        ModelSpec,
        PrecisionSpec,
        RemedySpec,
        ReporterSpec,
        SpecialTokens,
        TaskSpec,
        Trial,
    )
    from llmbench.trials import StepTrial

__version__ = "0.1.0"

_HOMES = {
    "llmbench.errors": (
        "DataError",
        "DoesNotApply",
        "LlmbenchError",
        "PluginError",
        "SuiteError",
        "Unisolated",
        "Unsupported",
        "UserError",
    ),
    "llmbench.engines": ("Engine", "EngineRequest", "EngineSpec"),
    "llmbench.trials": ("StepTrial",),
    "llmbench.api": (
        "Diagnosis",
        "calibrate",
        "diagnose",
        "doctor",
        "found_plugins",
        "load",
        "plant",
        "planned",
        "run",
    ),
    "llmbench.results": ("Compared", "Results"),
    "llmbench.headroom": ("headroom_of", "part_of", "without"),
    "llmbench.hookspecs": ("API_VERSION", "hookimpl"),
    "llmbench.specs": (
        "BaselineContext",
        "Batch",
        "BuildRequest",
        "CauseSpec",
        "CollateContext",
        "DataRequest",
        "Dataset",
        "DatasetSpec",
        "EncodeContext",
        "Forecast",
        "Intervention",
        "Layout",
        "MetricSpec",
        "ModelSpec",
        "PrecisionSpec",
        "RemedySpec",
        "ReporterSpec",
        "SpecialTokens",
        "TaskSpec",
        "Trial",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "API_VERSION",
    "DataError",
    "DoesNotApply",
    "LlmbenchError",
    "PluginError",
    "SuiteError",
    "Unisolated",
    "Unsupported",
    "UserError",
    "hookimpl",
    "BaselineContext",
    "Batch",
    "BuildRequest",
    "CauseSpec",
    "CollateContext",
    "Compared",
    "DataRequest",
    "Dataset",
    "DatasetSpec",
    "Diagnosis",
    "EncodeContext",
    "Engine",
    "EngineRequest",
    "EngineSpec",
    "Forecast",
    "Intervention",
    "Layout",
    "MetricSpec",
    "ModelSpec",
    "PrecisionSpec",
    "RemedySpec",
    "ReporterSpec",
    "Results",
    "SpecialTokens",
    "StepTrial",
    "TaskSpec",
    "Trial",
    "calibrate",
    "diagnose",
    "doctor",
    "found_plugins",
    "headroom_of",
    "load",
    "part_of",
    "plant",
    "planned",
    "run",
    "without",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'llmbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
