"""llmbench: a plugin-based benchmarking suite for language models.

The names below are the public interface; plugins import them and nothing else. They are loaded on first use,
so that `import llmbench` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmbench.api.diagnosis import Diagnosis, diagnose
    from llmbench.api.functions import calibrate, doctor, found_plugins, load, planned, plant, run
    from llmbench.api.results import Compared, Results
    from llmbench.contract.engines import Engine, EngineRequest, EngineSpec
    from llmbench.contract.errors import (
        DataError,
        DoesNotApply,
        LlmbenchError,
        PluginError,
        SuiteError,
        Unisolated,
        Unsupported,
        UserError,
    )
    from llmbench.contract.headroom import headroom_of, part_of, without
    from llmbench.contract.hookspecs import API_VERSION, hookimpl
    from llmbench.contract.specs import (
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
    from llmbench.contract.step_trial import StepTrial

__version__ = "0.1.0"

_HOMES = {
    "llmbench.contract.errors": (
        "DataError",
        "DoesNotApply",
        "LlmbenchError",
        "PluginError",
        "SuiteError",
        "Unisolated",
        "Unsupported",
        "UserError",
    ),
    "llmbench.contract.engines": ("Engine", "EngineRequest", "EngineSpec"),
    "llmbench.contract.step_trial": ("StepTrial",),
    "llmbench.api.diagnosis": ("Diagnosis", "diagnose"),
    "llmbench.api.functions": (
        "calibrate",
        "doctor",
        "found_plugins",
        "load",
        "plant",
        "planned",
        "run",
    ),
    "llmbench.api.results": ("Compared", "Results"),
    "llmbench.contract.headroom": ("headroom_of", "part_of", "without"),
    "llmbench.contract.hookspecs": ("API_VERSION", "hookimpl"),
    "llmbench.contract.specs": (
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
