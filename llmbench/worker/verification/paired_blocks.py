"""Paired blocks: blocks of steps with and without a cause, in turns, on the same batches.

The number of pairs is fixed by the spread of the first ones, never by the headroom that they show (Stein 1945), so that
intervals cover as they claim.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmbench import stats
from llmbench.contract.errors import NotMeasured
from llmbench.contract.specs import Intervention
from llmbench.contract.step_trial import StepTrial
from llmbench.worker.verification.policy import TrialPolicy

if TYPE_CHECKING:
    from llmbench.contract.record import Intervention as TrialFields


@contextlib.contextmanager
def zero_learning_rates(optimizer: Any) -> Iterator[None]:
    """Set the optimizer's learning rates to 0 and put them back."""
    groups = getattr(optimizer, "param_groups", ())
    before = [group.get("lr") for group in groups]
    for group in groups:
        if "lr" in group:
            group["lr"] = group["lr"] * 0
    try:
        yield
    finally:
        for group, rate in zip(groups, before, strict=True):
            if rate is not None:
                group["lr"] = rate


@dataclass
class PairedBlocks:
    """The pairs of one intervention, as far as they are taken; index i of every list is the same pair."""

    trial: StepTrial
    change: Intervention
    steps: int  # of a block
    first: bool  # whether the clean block of the first pair comes first; the order then alternates
    policy: TrialPolicy
    clean_s: list[float] = field(default_factory=list)  # seconds per step
    treated_s: list[float] = field(default_factory=list)
    clean_first: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.clean_first)

    def take(self, count: int, is_over: Callable[[], bool]) -> bool:
        """Take `count` further pairs; return False where the time or the trial's budget ended before.

        Raises NotMeasured where so few pairs are there that they are worth nothing.
        """
        for _ in range(count):
            enough = len(self) >= self.policy.short_pairs
            if enough and is_over():
                return False
            try:
                self._take_pair()
            except NotMeasured:  # the end of the budget: the pairs so far stand
                if not enough:
                    raise
                return False
        return True

    def _take_pair(self) -> None:
        pair = len(self)
        batches = batches_of(self.trial, pair * self.steps, self.steps, self.change.burn)
        clean_is_first = self.first == (pair % 2 == 0)
        seconds = {
            changed: time_block(self.trial, self.change, batches, changed) / self.steps
            for changed in ((False, True) if clean_is_first else (True, False))
        }
        self.clean_s.append(seconds[False])
        self.treated_s.append(seconds[True])
        self.clean_first.append(clean_is_first)

    def pairs_needed(self) -> int:
        """Return the number of pairs that would be close enough, by the spread of these."""
        return pairs_needed(self.clean_s, self.treated_s, self.change.share, self.policy)

    def fields(self) -> TrialFields:
        """Return the pairs as the record has them."""
        pairs: TrialFields = {"clean_s": self.clean_s, "treated_s": self.treated_s, "clean_first": self.clean_first}
        return {**pairs, "block_steps": self.steps}


def measure_pairs(
    trial: StepTrial,
    change: Intervention,
    seconds: float,
    rng: random.Random,
    patience_s: float,
    policy: TrialPolicy,
) -> TrialFields:
    """Take pairs of blocks, as many as needed if `seconds` suffice; return `outcome`, `reason` and their times.

    The fewest pairs may take `patience_s`. Where the machine then stalls, the pairs taken by that time must do.
    """
    steps = change.steps or max(1, min(len(trial.pool), math.ceil(policy.block_s / trial.step_s)))
    begin = time.perf_counter()
    pair_s = time_pair(trial, change, steps)  # shows whether it works
    if pair_s * policy.short_pairs > patience_s > 2 * pair_s:
        pair_s = time_pair(trial, change, steps)  # the first one may have started loader processes
    if (fewest_s := pair_s * policy.short_pairs) > patience_s:
        reason = f"{policy.short_pairs} pairs would take {fewest_s:.1f} s, there were {patience_s:.1f} s"
        return {"outcome": "out_of_time", "reason": reason}
    many = steps < policy.long_block_steps and pair_s * policy.first_pairs <= patience_s
    fewest = policy.first_pairs if many else policy.short_pairs
    most = max(fewest, min(policy.most_pairs, int(seconds / pair_s) - 1))
    pairs = PairedBlocks(trial, change, steps, rng.random() < 0.5, policy)

    def is_over() -> bool:
        return time.perf_counter() - begin > max(seconds, patience_s)

    if pairs.take(fewest, is_over) and most > fewest:
        pairs.take(max(1, min(most, pairs.pairs_needed()) - fewest), is_over)
    return {"outcome": "measured", "reason": None, **pairs.fields()}


def time_pair(trial: StepTrial, change: Intervention, steps: int) -> float:
    """Return the seconds that a pair of blocks takes, with all that is not timed in it."""
    begin = time.perf_counter()
    for changed in (True, False):
        time_block(trial, change, batches_of(trial, 0, steps, change.burn), changed)
    return time.perf_counter() - begin


def pairs_needed(clean_s: Sequence[float], treated_s: Sequence[float], share: float, policy: TrialPolicy) -> int:
    """Return the number of pairs that give an interval of `half_width` to each side, by the spread of these."""
    headroom = stats.Paired.of([clean_s], [treated_s], [share]).interval()
    if headroom.low is None or headroom.high is None:
        return policy.most_pairs
    half = math.log(headroom.high / headroom.low) / 2
    return math.ceil(len(clean_s) * (half / policy.half_width) ** 2)


def batches_of(trial: StepTrial, start: int, steps: int, burn: int) -> list[Any]:
    """Return the batches of a block: `burn` that are not timed, then `steps` that are."""
    count = len(trial.pool)
    return [trial.pool[(start + i) % count] for i in range(-burn, steps)]


def time_block(trial: StepTrial, change: Intervention, batches: Sequence[Any], changed: bool) -> float:
    """Return the seconds that one arm takes for the block's batches."""

    def take_steps(some: Sequence[Any]) -> None:
        for batch in some:
            trial.step(batch)

    run = (change.treated if changed else change.clean) or take_steps
    with change.changed() if changed else contextlib.nullcontext():
        if change.burn:
            run(batches[: change.burn])
        begin = trial.mark()
        run(batches[change.burn :])
        return trial.between([begin, trial.mark()])[0]
