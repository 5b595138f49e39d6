"""What `torch.compile` did in the first steps: time, graphs, recompilations, graph breaks, cache hits.

Dynamo keeps these counts anyway. They are read before and after the steps, so that nothing is attached to the steps.
The names are those of `torch._dynamo.utils` in torch 2.7 to 2.13; a count that this version does not keep is None.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmbench.contract.record import Compilation, GraphBreak

#: Dynamo's phases whose seconds go into the record; all others lie inside of the first two.
PHASES = ("entire_frame_compile", "entire_backward_compile", "backend_compile", "inductor_compile", "code_gen")
LONGEST_REASON = 300  # characters
CACHES = {"fx_graph": ("inductor", "fxgraph_cache"), "autograd": ("aot_autograd", "autograd_cache")}


@dataclass(frozen=True)
class Snapshot:
    """Dynamo's counts at one moment."""

    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    phase_s: Mapping[str, float] = field(default_factory=dict)
    compile_counts: Mapping[Any, int] = field(default_factory=dict)  # frame -> how often it was compiled
    breaks: Sequence[tuple[str, str | None]] = ()  # reason and place of every graph break so far
    events: Sequence[Any] = ()  # CompilationMetrics, the last 64


class CompileWatch:
    """Reads Dynamo's counts before and after the first steps of a compiled module; costs nothing where none is."""

    def start(self) -> None:
        """Read the counts; call it before the first step."""
        self._start = snapshot()

    def stop(self, first_step_s: float | None = None, steady_step_s: float | None = None) -> Compilation:
        """Return the counts since `start`, as the record's `compilation`.

        `first_step_s`: wall time of the first call, which compiles; `steady_step_s`: of a step when nothing is
        compiled any more. `dynamo_s` is Dynamo's own account, recompilations in later steps included.
        `graph_breaks`: one entry per place; `times` counts recompilations again. `fell_back`: why frames run eager.
        """
        end = snapshot()
        grown = subtract(self._start.counters, end.counters)
        phase_s = {name: end.phase_s.get(name, 0.0) - self._start.phase_s.get(name, 0.0) for name in PHASES}
        frames = grown.get("frames", {})
        new = [event for event in end.events if not any(event is old for old in self._start.events)]
        return {
            "first_step_s": first_step_s,
            "steady_step_s": steady_step_s,
            "compile_s": compile_seconds(first_step_s, steady_step_s),
            "dynamo_s": phase_s["entire_frame_compile"] + phase_s["entire_backward_compile"],
            "phase_s": {name: seconds for name, seconds in phase_s.items() if seconds > 0},
            "frames": frames.get("total", 0),
            "frames_compiled": frames.get("ok", 0),
            "graphs": grown.get("stats", {}).get("unique_graphs", 0),
            "recompilations": recompilations(self._start.compile_counts, end.compile_counts),
            "recompile_reasons": texts(new, "recompile_reason"),
            "graph_breaks": graph_breaks(new_items(self._start.breaks, end.breaks), grown.get("graph_break", {})),
            "fell_back": texts(new, "fail_reason"),
            "cache": {name: hits(grown.get(group, {}), prefix) for name, (group, prefix) in CACHES.items()},
        }


def compile_seconds(first_step_s: float | None, steady_step_s: float | None) -> float | None:
    """Return the seconds that compiling adds to the first step; None where either time is not known."""
    return None if first_step_s is None or steady_step_s is None else max(0.0, first_step_s - steady_step_s)


def snapshot() -> Snapshot:
    """Return Dynamo's counts now; nothing is imported for it, since without Dynamo nothing was compiled."""
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is None:
        return Snapshot()
    convert = sys.modules.get("torch._dynamo.convert_frame")
    phase_s: dict[str, float] = getattr(utils, "calculate_time_spent", dict)()
    breaks = [(why(b.reason), place(b.user_stack)) for b in getattr(utils, "graph_break_reasons", ())]
    return Snapshot(
        counters={name: dict(counts) for name, counts in utils.counters.items()},
        phase_s=phase_s,
        compile_counts=dict(getattr(convert, "FRAME_COMPILE_COUNTER", {})),
        breaks=breaks,
        events=list(getattr(utils, "get_compilation_metrics", list)()),
    )


def subtract(start: Mapping[str, Mapping[str, int]], end: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Return the counts that grew, and by how much."""
    grown = {
        group: {name: count - start.get(group, {}).get(name, 0) for name, count in counts.items()}
        for group, counts in end.items()
    }
    return {group: {name: n for name, n in counts.items() if n > 0} for group, counts in grown.items()}


def new_items(start: Sequence[Any], end: Sequence[Any]) -> Sequence[Any]:
    """Return the new items of a list that only grows, unless a reset of Dynamo emptied it in between."""
    return end[len(start) :] if len(end) >= len(start) else end


def recompilations(start: Mapping[Any, int], end: Mapping[Any, int]) -> int:
    """Return how often a frame was compiled that had been compiled before, in this process and for any module."""
    return sum(max(0, n - max(1, start.get(frame, 0))) for frame, n in end.items())


def texts(events: Sequence[Any], name: str) -> list[str]:
    """Return the distinct texts of one field of Dynamo's compilation events."""
    values = [getattr(event, name, None) for event in events]
    return list(dict.fromkeys(short(str(text)) for text in values if text))


def graph_breaks(places: Sequence[tuple[str, str | None]], counts: Mapping[str, int]) -> list[GraphBreak]:
    """Return each place that broke a graph, with its reason; without places, the reasons that Dynamo counts."""
    times: Counter[tuple[str, str | None]] = Counter(places)
    if not times:
        times.update({(why(reason), None): count for reason, count in counts.items()})
    return [{"reason": reason, "where": where, "times": n} for (reason, where), n in times.items()]


def why(reason: str) -> str:
    """Return why a graph broke, in one line: Dynamo's heading and its explanation, without hints and links."""
    lines = [line.strip() for line in reason.strip().splitlines()]
    explained = [line.removeprefix("Explanation:").strip() for line in lines if line.startswith("Explanation:")]
    return short(": ".join([*lines[:1], *explained[:1]]))


def place(stack: Sequence[Any]) -> str | None:
    """Return `file.py:line` of the user's code, without its folder."""
    return f"{Path(stack[-1].filename).name}:{stack[-1].lineno}" if stack else None


def short(text: str) -> str:
    """Return one line of bounded length in which paths of Python files, and absolute paths, are file names."""
    text = re.sub(r"[^\s'\",:]*/([^\s/'\",:]+\.py)\b", r"\1", " ".join(text.split()))
    text = re.sub(r"(?<![^\s'\"(=])(?:/[^\s/'\",:]+)+/([^\s/'\",:]+)", r"\1", text)
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"


def hits(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Return a cache's hits, misses and bypasses."""
    return {kind: counts.get(f"{prefix}_{kind}", 0) for kind in ("hit", "miss", "bypass")}
