"""The hooks a plugin may implement. Each returns specs (see `llmbench.contract.specs`) and changes nothing.

A plugin is one module; registering it is one line of its distribution's pyproject.toml::

    [project.entry-points.llmbench]
    my-plugin = "my_plugin"

or `llmbench run --plugin my_plugin.py`, or a file in `./plugins/`. `llmbench plugins new NAME --kind KIND` writes
such a distribution around the complete plugin that a hook names; `llmbench plugins hooks` prints all of them, and
`llmbench plugins check NAME` says whether a plugin keeps its contract.

A line `LLMBENCH_API = 2` says which version of this interface a plugin was written for; it is read before the plugin
is imported. This llmbench takes the versions from `OLDEST_API` to `API_VERSION`: see docs/plugins.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from llmbench.contract.engines import EngineSpec
from llmbench.contract.specs import (
    CauseSpec,
    DatasetSpec,
    MetricSpec,
    ModelSpec,
    PrecisionSpec,
    RemedySpec,
    ReporterSpec,
    TaskSpec,
)

PROJECT = "llmbench"
API_VERSION = 2  # raised by every addition to the hooks and the specs, and by every removal
OLDEST_API = 1  # raised by removals: plugins written for an older version are left out
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def llmbench_models() -> Iterable[ModelSpec]:
    """Return the models this plugin brings.

    A complete plugin: `llmbench/plugins/examples/model.py`.
    """
    raise NotImplementedError


@hookspec
def llmbench_tasks() -> Iterable[TaskSpec]:
    """Return the tasks this plugin brings.

    A complete plugin: `llmbench/plugins/examples/task.py`.
    """
    raise NotImplementedError


@hookspec
def llmbench_datasets() -> Iterable[DatasetSpec]:
    """Return the sources of data this plugin brings.

    A complete plugin: `llmbench/plugins/examples/dataset.py`.
    """
    raise NotImplementedError


@hookspec
def llmbench_metrics() -> Iterable[MetricSpec]:
    """Return the metrics this plugin brings.

    A complete plugin: `llmbench/plugins/examples/metric.py`.
    """
    raise NotImplementedError


@hookspec
def llmbench_precisions() -> Iterable[PrecisionSpec]:
    """Return the numeric settings this plugin brings.

    A complete plugin: `llmbench/plugins/examples/precision.py`.
    """
    raise NotImplementedError


@hookspec
def llmbench_causes() -> Iterable[CauseSpec]:
    """Return the causes that this plugin can predict, remove and measure.

    A complete plugin: `llmbench/plugins/examples/cause.py`.
    """
    raise NotImplementedError


@hookspec
def llmbench_remedies() -> Iterable[RemedySpec]:
    """Return the changes that `llmbench run --remedies` may try.

    A complete plugin: `llmbench/plugins/examples/remedy.py`.
    """
    raise NotImplementedError


@hookspec
def llmbench_reporters() -> Iterable[ReporterSpec]:
    """Return the formats of `llmbench report` that this plugin brings.

    A complete plugin: `llmbench/plugins/examples/reporter.py`.
    """
    raise NotImplementedError


@hookspec
def llmbench_engines() -> Iterable[EngineSpec]:
    """Return the engines this plugin brings: what drives the models whose `ModelSpec.engine` names them.

    `open(request)` returns an object with the methods of `llmbench.Engine`, whose docstrings say what each does.
    `llmbench_plugins/engines/keras.py` is one for another framework, made of public names alone.

    A complete plugin: `llmbench/plugins/examples/engine.py`.
    """
    raise NotImplementedError
