"""The contract of an engine: it drives the models that name it."""

from __future__ import annotations

from collections.abc import Callable

from llmbench.conformance import models
from llmbench.conformance.subject import NotHere, Subject, check


def _on_a_model(subject: Subject, run: Callable[[Subject], None]) -> None:
    """Run a check of models on the first model that names the engine."""
    for name, provided in sorted(subject.registry.by_kind["model"].items()):
        spec = provided.spec
        if spec.engine == subject.name and spec.layouts:
            run(Subject("model", name, spec, provided.owner, subject.registry, subject.files, subject.folder))
            return
    raise NotHere("no model names it")


@check("engine", says="it gives a finite loss, and a prediction for every row")
def drives(subject: Subject) -> None:
    """Take a step and predict."""
    _on_a_model(subject, models.outputs)


@check("engine", says="training with it lowers the loss")
def trains(subject: Subject) -> None:
    """Train on one batch."""
    _on_a_model(subject, models.learns)


@check("engine", says="the same seed gives the same losses")
def repeats(subject: Subject) -> None:
    """Train twice."""
    _on_a_model(subject, models.seed)


@check("engine", says="what it saves it can load")
def saves(subject: Subject) -> None:
    """Save and load."""
    _on_a_model(subject, models.checkpoint)
