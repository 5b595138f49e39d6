"""Blocks of steps with and without a cause, in turns, on the same batches."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmbench import stats
from llmbench.contract.errors import NotMeasured
from llmbench.contract.specs import Intervention
from llmbench.contract.step_trial import StepTrial

BLOCK_S = 0.02  # a block is at least so long, where steps are short: the clock and the switch must not count
#: Half of the pairs select and half estimate, so both need 5 for an interval; where time is short, LEFT must do.
FEWEST_PAIRS, MOST_PAIRS, LEFT_PAIRS = 12, 60, 6
#: Pairs are taken until the interval should be so narrow, to each side, as a share of the headroom: a quarter of what
#: is between no headroom and a material one. How many that takes, the spread of the first ones says.
CLOSE_ENOUGH = 0.025
LONG_BLOCK = 12  # blocks of so many steps are steadier: LEFT_PAIRS will do
#: One whose fewest pairs take so many times its share (or LEAST_S) waits for what is left; the first of an axis may
#: take more, that of the components most: theirs is the headline.
PATIENCE, LEAST_S, LEADING_SHARE = 3.0, 1.0, {"where": 0.85, "why": 0.5}
TOGETHER_FROM = 1.05


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


def measure_pairs(
    trial: StepTrial, change: Intervention, seconds: float, rng: random.Random, patience_s: float
) -> dict[str, Any]:
    """Return the seconds of pairs of blocks, `enough` of them if `seconds` suffice.

    Their number is fixed behind the first ones by the spread of those, never by what they say of the headroom (Stein
    1945), so that intervals cover what they claim. The fewest may take `patience_s`. Where the machine then stalls,
    what has been measured by that time must do.
    """
    steps = change.steps or max(1, min(len(trial.pool), math.ceil(BLOCK_S / trial.step_s)))
    begin = time.perf_counter()
    pair_s = _pair_s(trial, change, steps)  # shows whether it works
    if pair_s * LEFT_PAIRS > patience_s > 2 * pair_s:
        pair_s = _pair_s(trial, change, steps)  # the first one may have started loader processes
    if pair_s * LEFT_PAIRS > patience_s:
        reason = f"{LEFT_PAIRS} pairs would take {pair_s * LEFT_PAIRS:.1f} s, there were {patience_s:.1f} s"
        return {"outcome": "out_of_time", "reason": reason}
    many = steps < LONG_BLOCK and pair_s * FEWEST_PAIRS <= patience_s
    fewest = FEWEST_PAIRS if many else LEFT_PAIRS
    pairs = most = max(fewest, min(MOST_PAIRS, int(seconds / pair_s) - 1))
    times: dict[bool, list[float]] = {True: [], False: []}
    clean_first: list[bool] = []
    first = rng.random() < 0.5
    while len(clean_first) < pairs:
        pair = len(clean_first)
        if pair >= LEFT_PAIRS and time.perf_counter() - begin > max(seconds, patience_s):
            break
        if pair == fewest:
            pairs = min(most, pairs_needed(times[False], times[True], change.share))
        batches = batches_of(trial, pair * steps, steps, change.burn)
        clean_is_first = first == (pair % 2 == 0)
        try:
            took = {
                changed: time_block(trial, change, batches, changed) / steps
                for changed in ((False, True) if clean_is_first else (True, False))
            }
        except NotMeasured:  # the end of the budget: what has been measured stands
            if pair < LEFT_PAIRS:
                raise
            break
        clean_first.append(clean_is_first)
        for changed, seconds_per_step in took.items():
            times[changed].append(seconds_per_step)
    fields = {"clean_s": times[False], "treated_s": times[True], "clean_first": clean_first, "block_steps": steps}
    return {"outcome": "measured", "reason": None, **fields}


def _pair_s(trial: StepTrial, change: Intervention, steps: int) -> float:
    """Return the seconds that a pair of blocks takes, all in all."""
    begin = time.perf_counter()
    for changed in (True, False):
        time_block(trial, change, batches_of(trial, 0, steps, change.burn), changed)
    return time.perf_counter() - begin


def pairs_needed(clean_s: Sequence[float], treated_s: Sequence[float], share: float) -> int:
    """Return how many pairs give an interval of `CLOSE_ENOUGH` to each side, by the spread of these."""
    found = stats.Paired.of([clean_s], [treated_s], [share]).interval()
    if found.low is None or found.high is None:
        return MOST_PAIRS
    half = math.log(found.high / found.low) / 2
    return math.ceil(len(clean_s) * (half / CLOSE_ENOUGH) ** 2)


def batches_of(trial: StepTrial, start: int, steps: int, burn: int) -> list[Any]:
    """Return the `burn` batches of a block that are not timed, and the `steps` that are."""
    count = len(trial.pool)
    return [trial.pool[(start + i) % count] for i in range(-burn, steps)]


def time_block(trial: StepTrial, change: Intervention, batches: Sequence[Any], changed: bool) -> float:
    """Return the seconds that one arm takes for the block's batches."""

    def ordinary(some: Sequence[Any]) -> None:
        for batch in some:
            trial.step(batch)

    run = (change.treated if changed else change.clean) or ordinary
    with change.changed() if changed else contextlib.nullcontext():
        if change.burn:
            run(batches[: change.burn])
        begin = trial.mark()
        run(batches[change.burn :])
        return trial.between([begin, trial.mark()])[0]


def try_together(
    trial: StepTrial,
    found: Mapping[str, Mapping[str, Any]],
    changes: Mapping[str, Intervention],
    seconds: float,
    rng: random.Random,
) -> dict[str, Any] | None:
    """Return the pairs with the two largest causes removed at once, where both only change what a step does."""

    def gain(name: str) -> float:
        row = found[name]
        return sum(row["clean_s"]) / sum(row["treated_s"]) if row["treated_s"] else 0.0

    plain = [n for n, c in changes.items() if c.treated is None and c.clean is None and gain(n) >= TOGETHER_FROM]
    if len(plain) < 2:
        return None
    names = sorted(plain, key=gain)[-1:-3:-1]

    @contextlib.contextmanager
    def changed() -> Iterator[None]:
        with changes[names[1]].changed(), changes[names[0]].changed():
            yield

    try:
        patience_s = PATIENCE * max(seconds, LEAST_S)
        row = measure_pairs(trial, Intervention(changed, steps=changes[names[0]].steps), seconds, rng, patience_s)
    except Exception:  # two changes of the same thing need not go together
        return None
    if row["outcome"] != "measured":
        return None
    return {"causes": names, **{key: row[key] for key in ("clean_s", "treated_s", "clean_first", "block_steps")}}
