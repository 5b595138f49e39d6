"""Where the time of a step goes, operator by operator, from torch.profiler.

The profiler makes every operator that it sees a little longer, so its times are corrected and then scaled. On the CPU:

1. the same steps are timed without the profiler (`clean`: the median, the device waited for at each phase boundary);
2. what being seen adds to an operator is measured on trivial ones (`added_s`); a counted operator's time is that of
   its event and of all events inside (`addmm` copies its bias), less `added_s` for each event inside;
3. the rest of the clean phase, in which no counted operator ran (Python, autograd's engine, dispatch), is HOST. Where
   the operators add up to more than the clean phase, they are scaled to it.

So the times of a phase add up to its clean time, and shares can be scaled to any other clean time of the same step.
On CUDA an operator's time is that of the kernels it launched, as measured, and HOST is when none of them ran.
Phases are separated by time: backward operators run on other threads, while the main thread waits in its range.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from llmbench.worker.torch_engine.profile_events import Event, host_events

STEPS = 3  # that are profiled
HOST = "host"
PREFIX = "llmbench."  # of the profiler's ranges, before the phase
TRIVIAL_CALLS = 100  # of an operator that does nothing, in each round
TRIVIAL_ROUNDS = 3

Enter = Callable[[str], AbstractContextManager[None]]
Run = Callable[[Enter], None]  # a step, which enters each of its phases
TimeKey = tuple[str, str]  # phase, operator name or HOST


class Device(Protocol):
    """Where the step runs."""

    device: torch.device

    def synchronize(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Times:
    """The times of one step, from several profiled ones."""

    seconds: Mapping[TimeKey, float]
    phases_s: Mapping[str, float]  # clean
    kernels: float  # on CUDA


def measure(run: Run, where: Device, names: Mapping[str, set[str]], *, steps: int) -> Times:
    """Return the times of the operators called `names` (by phase), over `steps` profiled steps."""
    clean_s = clean_phases(run, where, max(2, steps))
    cuda = where.device.type == "cuda"
    profiler = profile_steps(run, where, steps)
    events = host_events(profiler, cuda=cuda)
    added_s = 0.0 if cuda else profiler_cost_s()
    samples: dict[TimeKey, list[float]] = {}
    for number, windows in enumerate(step_windows(events, len(clean_s))):
        for key, spent in attribute(events, windows, names, added_s).items():
            samples.setdefault(key, [0.0] * steps)[number] = spent
    seconds = split_generate({key: max(0.0, statistics.median(values)) for key, values in samples.items()})
    phases_s = split_phases(clean_s)
    kernel_count = sum(map(is_kernel, profiler.events())) / steps if cuda else 0.0
    return Times(with_host(seconds, phases_s, scale=not cuda), phases_s, kernel_count)


def kernels(run: Run, where: Device) -> float:
    """Return the CUDA kernels of one step, of a compiled module too."""
    return sum(map(is_kernel, profile_steps(run, where, STEPS).events())) / STEPS


def clean_phases(run: Run, where: Device, steps: int) -> dict[str, float]:
    """Return the median seconds of each phase over `steps` steps without a profiler."""
    samples: dict[str, list[float]] = {}

    @contextmanager
    def enter(phase: str) -> Iterator[None]:
        where.synchronize()
        begin = time.perf_counter()
        yield
        where.synchronize()
        samples.setdefault(phase, []).append(time.perf_counter() - begin)

    for _ in range(steps):
        run(enter)
    return {phase: statistics.median(values) for phase, values in samples.items()}


def profile_steps(run: Run, where: Device, steps: int) -> Any:
    """Return the profile of `steps` steps, after one that pays for the start of the profiler."""
    activities = [ProfilerActivity.CPU]
    if where.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)

    @contextmanager
    def enter(phase: str) -> Iterator[None]:
        with record_function(PREFIX + phase):
            yield
            where.synchronize()

    plan = schedule(wait=0, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan) as profiler:
        for _ in range(1 + steps):
            run(enter)
            profiler.step()
    return profiler


def profiler_cost_s() -> float:
    """Return the seconds that the profiler adds per event: the fastest of several rounds with it, and without."""
    x = torch.zeros(2, 2)

    def round_s() -> float:
        begin = time.perf_counter()
        for _ in range(TRIVIAL_CALLS):
            x.t()
        return time.perf_counter() - begin

    clean_s = min(round_s() for _ in range(TRIVIAL_ROUNDS))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        seen_s = min(round_s() for _ in range(TRIVIAL_ROUNDS))
    events = len(host_events(profiler, cuda=False)) / TRIVIAL_ROUNDS
    return max(0.0, seen_s - clean_s) / max(1.0, events)


def step_windows(events: Sequence[Event], phases: int) -> Iterator[list[tuple[str, float, float]]]:
    """Yield (phase, begin, end) of each range, step by step."""
    marks = sorted((e for e in events if e.name.startswith(PREFIX)), key=lambda e: e.start_s)
    for first in range(0, len(marks), phases):
        yield [(e.name.removeprefix(PREFIX), e.start_s, e.end_s) for e in marks[first : first + phases]]


def attribute(
    events: Sequence[Event],
    windows: Sequence[tuple[str, float, float]],
    names: Mapping[str, set[str]],
    added_s: float,
) -> dict[TimeKey, float]:
    """Return the seconds of the counted operators of one step."""
    seconds: dict[TimeKey, float] = {}
    for event in events:
        phase = next((name for name, begin, end in windows if begin <= event.start_s < end), None)
        operator = owner(event, names.get(phase, set())) if phase is not None else None
        if operator is not None and phase is not None:
            own_s = event.own_s - (0.0 if event is operator else added_s)
            seconds[phase, operator.name] = seconds.get((phase, operator.name), 0.0) + own_s
    return seconds


def owner(event: Event, names: set[str]) -> Event | None:
    """Return the outermost event around `event` (or itself) that is a counted operator, or None."""
    outermost: Event | None = None
    around: Event | None = event
    while around is not None:
        outermost = around if around.name in names else outermost
        around = around.around
    return outermost


def is_kernel(event: Any) -> bool:
    """Return whether an event is a kernel that ran on the device (copies and fills by the copy engine are not)."""
    on_device = event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    return on_device and not event.name.startswith(("Memcpy", "Memset", PREFIX))


def with_host(seconds: Mapping[TimeKey, float], clean_s: Mapping[str, float], *, scale: bool) -> dict[TimeKey, float]:
    """Return `seconds` with the rest of each phase as HOST; with `scale`, never more than the clean phase."""
    out: dict[TimeKey, float] = {}
    for phase, whole_s in clean_s.items():
        own = {key: value for key, value in seconds.items() if key[0] == phase}
        busy_s = sum(own.values())
        factor = whole_s / busy_s if scale and busy_s > whole_s else 1.0
        out |= {key: value * factor for key, value in own.items()}
        out[phase, HOST] = max(0.0, whole_s - busy_s)
    return out


def split_generate(seconds: Mapping[TimeKey, float]) -> dict[TimeKey, float]:
    """Return `seconds` with `decode` in the place of `generate`: what that took more than `prefill`."""
    rest = {
        ("decode", name): max(0.0, value - seconds.get(("prefill", name), 0.0))
        for (phase, name), value in seconds.items()
        if phase == "generate"
    }
    return {key: value for key, value in seconds.items() if key[0] != "generate"} | rest


def split_phases(clean_s: Mapping[str, float]) -> dict[str, float]:
    """Return the clean seconds of phases with `decode`, what `generate` took more than `prefill`, in its place."""
    keyed = split_generate({(phase, HOST): value for phase, value in clean_s.items()})
    return {phase: value for (phase, _), value in keyed.items()}
