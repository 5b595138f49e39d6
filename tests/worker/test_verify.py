"""How many pairs of blocks a trial takes: by their spread, never by what they say."""

import random

import pytest

from llmbench import stats
from llmbench.worker.verify import CLOSE_ENOUGH, MOST_PAIRS, enough


def pairs(spread, headroom, count=12, seed=0):
    rng = random.Random(seed)
    clean = [0.1 * (1 + rng.gauss(0, spread)) for _ in range(count)]
    return clean, [0.1 / headroom * (1 + rng.gauss(0, spread)) for _ in range(count)]


def test_more_spread_takes_more_pairs():
    calm, noisy = (enough(*pairs(spread, 1.3), 1.0) for spread in (0.005, 0.05))
    assert calm <= 12 < noisy


@pytest.mark.parametrize("headroom", [1.02, 1.1, 3.0])
def test_what_they_say_of_the_headroom_does_not_count(headroom):
    assert enough(*pairs(0.05, headroom), 1.0) == pytest.approx(enough(*pairs(0.05, 1.3), 1.0), abs=1)


def test_so_many_pairs_are_close_enough():
    wide = []
    for seed in range(40):
        count = enough(*pairs(0.04, 1.3, seed=seed), 1.0)
        clean, treated = pairs(0.04, 1.3, count=max(12, count), seed=1000 + seed)
        found = stats.ratio_interval([clean], [treated], paired=True)
        wide.append((found.high / found.low) ** 0.5 - 1)
    assert sorted(wide)[20] == pytest.approx(CLOSE_ENOUGH, rel=0.35)


def test_a_cause_of_which_little_is_removed_takes_more():
    assert enough(*pairs(0.02, 1.3), 0.5) > enough(*pairs(0.02, 1.3), 1.0)


def test_too_few_to_tell_take_all():
    assert enough([0.1] * 3, [0.09] * 3, 1.0) == MOST_PAIRS
