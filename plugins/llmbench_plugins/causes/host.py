"""`host`: Python between the operators. Removed by a replay of the same operators: a trace, or a CUDA graph.

On the CPU the forward pass is replaced by its trace, which runs the same operators without Python; the backward pass
has none. On CUDA the whole step is captured and replayed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._host_clock import host_seconds
from llmbench_plugins.causes._replay import check_replayable, make_traces, replay

MAX_OUTSIDE = 0.05  # of a step: as much Python outside of the module may stay
MAX_OUTSIDE_S = 5e-4  # as much may stay however short a step is


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the seconds of the host in a step: in the forward pass less its operators, and between the step's parts.

    `outside_s` is what a step of the user's own spends neither in the module, nor backward, nor updating, nor in
    collectives, nor in operators; `asleep_s` is what of all this is `time.sleep`.
    """
    check_replayable(trial)
    if trial.device != "cpu":
        return {}
    python = host_seconds(trial)
    facts = {"part_s": python.inside, "outside_s": python.outside, "asleep_s": python.asleep}
    trial.scratch["host"] = facts
    return facts


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / device-busy time; on the CPU T / (T - t), t the Python of the forward pass and between the step's parts."""
    if "part_s" in facts:
        both = [a + b for a, b in zip(facts["part_s"], facts["outside_s"], strict=True)]
        return llmbench.without(record, both)
    return llmbench.without(record, record["phases"].get("idle_s", ()))


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Replay the operators without Python, and do not sleep."""
    facts = trial.scratch.get("host") or probe(trial)
    stays = statistics.median(facts["outside_s"]) - statistics.median(facts["asleep_s"]) if facts else 0.0
    if stays > max(MAX_OUTSIDE_S, MAX_OUTSIDE * trial.step_s):
        raise llmbench.Unisolated("Python of the step outside of the module cannot be replayed")
    traces, batches = make_traces(trial)

    def same(given: Sequence[Any]) -> None:
        for i in range(len(given)):
            trial.step(batches[i % len(batches)])

    return llmbench.Intervention(lambda: replay(traces), treated=same, clean=same)


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="host",
            axis="why",
            cause_class="hardware",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="Python and launching between the operators",
            advice="torch.compile, CUDA graphs, less Python in the forward pass",
        )
    ]
