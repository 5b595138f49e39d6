"""All cores at work at once without waiting for each other: the best of a CPU, also while others use it.

One operator on several threads ends when the slowest thread does. On a busy machine some thread nearly always waits for
a core, and the rate is that of the wait. So each member of a team works alone on its own data and notes when; where
members ran at the same moment, the sum of their rates is what the cores do together. Nothing is extrapolated: a member
that was off its core at that moment counts with the little it did.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.worker.ceilings.sampling import MAX_CALLS, Clock, Way, more_calls

Span = tuple[float, float, float]  # start, end (seconds of one clock), rate (work per second)
#: A burst lasts at least this many samples, so that members are at work together.
LEAST_SAMPLES = 12


@dataclass(frozen=True)
class Team:
    """Members that each do `work` per call, on a thread of their own, which `set_up(i)` prepares."""

    facts: Way
    work: float
    members: tuple[Callable[[], Any], ...]
    set_up: Callable[[int], Any]

    def meter(self, sample_s: float) -> TeamMeter:
        """Return a meter of all members together."""
        return TeamMeter(self, sample_s)


class TeamMeter:
    """Takes samples of a team; `rates` is the work per second of all members together."""

    def __init__(self, team: Team, sample_s: float) -> None:
        self.candidate = team
        self.sample_s = sample_s
        self.calls = [1] * len(team.members)
        self.rates: list[float] = []

    def burst(self, for_s: float, clock: Clock, least: int = 2) -> list[float]:
        """Let all members work for `for_s` (and until each has `least` samples), and return the joint rates."""
        end_s = clock() + max(for_s, LEAST_SAMPLES * self.sample_s)
        spans: list[list[Span]] = [[] for _ in self.candidate.members]
        failures: list[BaseException] = []

        def work(i: int) -> None:
            try:
                self.candidate.set_up(i)
                self.candidate.members[i]()
                while clock() < end_s or len(spans[i]) < least:
                    self._sample(i, spans[i], clock)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(spans))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        rates = joint_rates(spans)
        self.rates += rates
        return rates

    def _sample(self, i: int, spans: list[Span], clock: Clock) -> None:
        op, calls = self.candidate.members[i], self.calls[i]
        start_s = clock()
        for _ in range(calls):
            op()
        end_s = clock()
        if end_s - start_s < self.sample_s / 2 and calls < MAX_CALLS:
            self.calls[i] = more_calls(calls, end_s - start_s, self.sample_s)
        elif end_s > start_s:
            spans.append((start_s, end_s, calls * self.candidate.work / (end_s - start_s)))


def joint_rates(spans: Sequence[Sequence[Span]]) -> list[float]:
    """Return, at the middle of each span of the first member, the sum of the rates of all members.

    A member that was between two spans then adds nothing. Spans of one member do not overlap and are in order.
    """
    others = [([span[0] for span in member], member) for member in spans[1:]]
    rates = []
    for start_s, end_s, rate in spans[0]:
        middle_s, total = (start_s + end_s) / 2, rate
        for starts, member in others:
            place = bisect.bisect_right(starts, middle_s) - 1
            if place >= 0 and middle_s < member[place][1]:
                total += member[place][2]
        rates.append(total)
    return rates
