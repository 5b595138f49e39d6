"""The kinds of plugins, in a module of its own: `llmbench --help` names them, and must load nothing for it."""

from __future__ import annotations

from collections.abc import Mapping

#: Kind of a plugin -> its plural: the hook of models is `llmbench_models`, and their checks are in `models.py`.
PLURALS: Mapping[str, str] = {
    "model": "models",
    "task": "tasks",
    "dataset": "datasets",
    "metric": "metrics",
    "precision": "precisions",
    "cause": "causes",
    "remedy": "remedies",
    "reporter": "reporters",
    "engine": "engines",
}
KIND_NAMES = tuple(PLURALS)
