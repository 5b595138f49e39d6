"""The host's events of a finished torch profile, each with the event that it is inside of.

On the CPU they are read from the profiler's raw results. `profile.events()` would make a list of all that an event may
hold, which takes ten times as long, and more than the steps themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.autograd import DeviceType
from torch.autograd.profiler_util import _filter_name


@dataclass(eq=False, slots=True)
class Event:
    """A call of an operator, or a range. Times in seconds since the profile began."""

    name: str
    start_s: float
    end_s: float
    own_s: float  # without the events inside; on CUDA that of the kernels that it launched itself
    around: Event | None  # the event that this one is inside of


def host_events(profiler: Any, *, cuda: bool) -> list[Event]:
    """Return the events of a profile (`torch.profiler.profile`) that is over."""
    return of_function_events(profiler.events()) if cuda else of_results(profiler.profiler.kineto_results)


def of_results(results: Any) -> list[Event]:
    """Return the CPU's events; those of one thread that lie within each other are nested."""
    start_of_all_ns = results.trace_start_ns()
    threads: dict[int, list[tuple[int, int, str]]] = {}
    for raw in results.events():
        name = raw.name()
        if raw.device_type() == DeviceType.CPU and not _filter_name(name) and not raw.is_async():
            threads.setdefault(raw.start_thread_id(), []).append((raw.start_ns(), -raw.end_ns(), name))
    nested: list[Event] = []
    for spans in threads.values():
        open_: list[Event] = []
        for start_ns, minus_end_ns, name in sorted(spans):
            start_s, end_s = (start_ns - start_of_all_ns) * 1e-9, (-minus_end_ns - start_of_all_ns) * 1e-9
            while open_ and (start_s >= open_[-1].end_s or end_s > open_[-1].end_s):
                open_.pop()
            event = Event(name, start_s, end_s, end_s - start_s, open_[-1] if open_ else None)
            if event.around is not None:
                event.around.own_s -= event.own_s
            open_.append(event)
            nested.append(event)
    return nested


def of_function_events(functions: Any) -> list[Event]:
    """Return the host's events of a profile on CUDA, with the seconds of their kernels."""
    host = [raw for raw in functions or () if raw.device_type == DeviceType.CPU]
    events = {
        id(raw): Event(
            raw.name, raw.time_range.start * 1e-6, raw.time_range.end * 1e-6, raw.self_device_time_total * 1e-6, None
        )
        for raw in host
    }
    for raw in host:
        events[id(raw)].around = events.get(id(raw.cpu_parent)) if raw.cpu_parent is not None else None
    return list(events.values())
