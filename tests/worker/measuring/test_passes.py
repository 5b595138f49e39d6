"""Measuring, on an engine whose clock is known: what is timed, what is paired, and what adds up."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.contract.specs import Batch, BuildRequest, SpecialTokens
from llmbench.worker.measuring import loops, passes
from llmbench.worker.measuring.step_kinds import TRAIN_PHASES, Prediction, Training

COSTS = {"input": 3.0, "copy": 0.5, "forward": 2.0, "backward": 4.0, "update": 1.0}


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """Let no limit of seconds end what these tests see by the engine's own clock."""
    monkeypatch.setattr(passes.time, "perf_counter", lambda: 0.0)


class Clock:
    """An engine that does nothing and takes known times; a batch of n tokens takes n times as long."""

    graphs = None

    def __init__(self, drift=0.0, generated=(2, 4)):
        self.now, self.drift, self.generated, self.taken = 0.0, drift, generated, []
        self.tokens = 1

    def spend(self, what):
        self.now += COSTS[what] * self.tokens * (1 + self.drift * self.now)

    def batches(self, order):
        for tokens in order:
            self.tokens = tokens
            self.taken.append(tokens)
            self.spend("input")
            yield Batch({"input_ids": np.zeros((2, tokens))}, 2, 2 * tokens, 0, fetch_s=0.1, collate_s=0.2)

    def copy(self, batch):
        self.spend("copy")
        return batch.arrays

    def parts(self, arrays):
        return [(arrays, 1)]

    def forward(self, arrays):
        self.spend("forward")
        return 1.0

    def backward(self, loss):
        self.spend("backward")

    def update(self):
        self.spend("update")

    def predict(self, arrays, *, max_new_tokens):
        for _ in range(min(max_new_tokens, 1 + max(self.generated))):
            self.spend("forward")
        return [[7] * n for n in self.generated]

    def synchronize(self):
        pass

    def mark(self):
        return self.now

    def seconds_between(self, marks):
        return [b - a for a, b in itertools.pairwise(marks)]


class Model:
    flops = None
    cache_bytes = None


def request(head="classify", target_len=5):
    return BuildRequest(head, "tiny", {}, 300, SpecialTokens(), 16, target_len)


def test_a_step_is_timed_from_the_wait_for_its_batch_to_the_end_of_its_update():
    engine = Clock()
    samples = loops.run_steps(engine, engine.batches([1, 2, 1]), loops.train_step, 3)
    whole = sum(COSTS.values())
    assert samples["step_s"] == [whole, 2 * whole, whole]
    assert samples["step_tokens"] == [2, 4, 2]
    assert samples["step_fetch_s"] == [0.1] * 3 and samples["step_collate_s"] == [0.2] * 3


def test_tokens_over_the_sum_of_steps_is_tokens_over_wall_time():
    engine = Clock()
    clean = passes.run_clean_pass(
        engine, engine.batches(itertools.cycle([1, 3])), loops.train_step, seconds=1, ci_pct=2
    )
    begin_to_end = engine.now - sum(COSTS.values()) * sum(engine.taken[: -len(clean.samples["step_s"])])
    assert sum(clean.samples["step_s"]) == pytest.approx(begin_to_end)
    assert len(clean.samples["step_s"]) == clean.how["samples"] >= passes.MIN_SAMPLES


def test_warm_up_goes_on_while_steps_get_faster():
    class Warming(Clock):
        def spend(self, what):
            self.now += COSTS[what] * (1 + 5 * max(0, 20 - len(self.taken)))

    engine, cold = Clock(), Warming()
    assert passes.warm_up(engine, engine.batches(itertools.repeat(1)), loops.train_step, limit_s=math.inf) == (6, True)
    steps, steady = passes.warm_up(cold, cold.batches(itertools.repeat(1)), loops.train_step, limit_s=math.inf)
    assert steady and 20 < steps <= 2 * passes.MAX_WARMUP_STEPS


def test_warm_up_that_never_ends_is_said_to():
    class Worse(Clock):
        def spend(self, what):
            self.now += COSTS[what] * 1.2 ** len(self.taken)

    engine = Worse()
    steps, steady = passes.warm_up(engine, engine.batches(itertools.repeat(1)), loops.train_step, limit_s=math.inf)
    assert not steady and steps >= passes.MAX_WARMUP_STEPS


def test_no_batch_and_no_loss_is_kept_from_step_to_step():
    """They would hold on to memory, and slow the later steps down."""
    alive = []

    class Loss:
        pass

    class Watching(Clock):
        def forward(self, arrays):
            loss = Loss()
            alive.append(weakref.ref(loss))
            return loss

        def mark(self):
            assert sum(ref() is not None for ref in alive) == bool(alive)  # the last one, as any loop keeps it
            return super().mark()

    engine, work = Watching(), Training(Model(), request())
    loops.run_steps(engine, engine.batches([1] * 9), work.step, 9, work.note)
    assert len(alive) == 9 and len(work.shapes) == 9


def test_watches_see_the_clean_pass_and_nothing_else():
    class Look:
        def start(self):
            self.begin = engine.now

        def stop(self):
            return {"seconds": engine.now - self.begin}

    engine = Clock()
    clean = passes.run_clean_pass(
        engine, engine.batches(itertools.repeat(1)), loops.train_step, seconds=1, ci_pct=2, watches={"look": Look()}
    )
    assert clean.readings["look"]["seconds"] == pytest.approx(sum(clean.samples["step_s"]))


@given(st.integers(1, 40), st.integers(0, 60))
def test_every_batch_of_a_pair_is_given_twice_in_a_row(pairs, extra):
    order = [[i] for i in range(passes.PHASE_WARMUP_STEPS + pairs + extra)]
    given_ = passes.order_in_pairs(order, pairs)
    rest = given_[passes.PHASE_WARMUP_STEPS :]
    assert given_[: passes.PHASE_WARMUP_STEPS] == order[: passes.PHASE_WARMUP_STEPS]
    assert rest[::2] == rest[1::2] == order[passes.PHASE_WARMUP_STEPS : passes.PHASE_WARMUP_STEPS + pairs]


@given(st.floats(1e-6, 1e3), st.floats(1e-3, 1e3))
def test_the_number_of_pairs_fits_the_time_within_its_limits(step_s, seconds):
    pairs = passes.affordable_pairs(step_s, seconds)
    assert passes.MIN_PAIRS <= pairs <= passes.MAX_PAIRS
    if pairs > passes.MIN_PAIRS:
        assert 2 * pairs * step_s <= seconds * (1 + 1e-9)


@pytest.mark.parametrize("pairs", [6, 9])
def test_phases_of_training_add_up_to_the_clean_steps_of_the_same_batches(pairs):
    engine = Clock()
    order = passes.order_in_pairs([1 + i % 4 for i in range(50)], pairs)
    work = Training(Model(), request())
    found = passes.run_phase_pass(engine, engine.batches(order), work, pairs)
    assert list(found.phases) == list(TRAIN_PHASES)
    sums = [sum(times) for times in zip(*found.phases.values(), strict=True)]
    assert sums == pytest.approx(found.samples["paired_step_s"]) and len(sums) == pairs
    assert found.phases["backward_s"][0] == COSTS["backward"] * order[passes.PHASE_WARMUP_STEPS]


def test_drift_cancels_between_the_halves_of_the_phase_pass():
    engine = Clock(drift=1e-4)
    work = Training(Model(), request())
    found = passes.run_phase_pass(engine, engine.batches(passes.order_in_pairs([1] * 50, 20)), work, 20)
    sums = [sum(times) for times in zip(*found.phases.values(), strict=True)]
    ratios = [a / b for a, b in zip(sums, found.samples["paired_step_s"], strict=True)]
    assert max(ratios) > 1 > min(ratios)  # each half comes first as often
    assert statistics.fmean(map(math.log, ratios)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("noise", "taken"), [(0.0, 8), (0.05, 8), (0.12, (12, 40)), (0.6, 40)])
def test_pairs_that_scatter_are_followed_by_more(noise, taken):
    draw = random.Random(1)

    class Noisy(Clock):
        def seconds_between(self, marks):
            scale = math.exp(draw.gauss(0, noise / math.sqrt(2)))
            return [scale * seconds for seconds in super().seconds_between(marks)]

    engine = Noisy()
    order = passes.order_in_pairs([1] * 50, 40)
    found = passes.run_phase_pass(engine, engine.batches(order), Training(Model(), request()), 8, 40)
    number = len(found.samples["paired_step_s"])
    assert number == taken if isinstance(taken, int) else taken[0] <= number < taken[1]
    assert {len(times) for times in found.phases.values()} == {number}


def test_of_a_generation_the_first_token_is_told_from_the_others():
    engine = Clock(generated=(2, 4))
    work = Prediction(Model(), request("generate", target_len=9))
    found = passes.run_phase_pass(engine, engine.batches(passes.order_in_pairs([1] * 50, 6)), work, 6)
    assert found.phases["prefill_s"] == [COSTS["forward"]] * 6
    assert found.phases["decode_s"] == [4 * COSTS["forward"]] * 6  # 5 calls for 4 tokens and the end, one is prefill
    sums = [sum(times) for times in zip(*found.phases.values(), strict=True)]
    assert sums == pytest.approx(found.samples["paired_step_s"])


def test_a_generation_counts_the_end_as_a_token_and_no_more_than_was_allowed():
    work = Prediction(Model(), request("generate", target_len=4))
    work.note({"input_ids": (3, 8)}, [[1, 2], [], [1, 2, 3, 4]])
    assert work.samples() == {"step_generated_tokens": [3 + 1 + 4], "step_decode_steps": [3]}


def test_counts_of_one_traced_batch_are_scaled_to_the_mean_batch_by_model_flops():
    class Square:
        @staticmethod
        def flops(request, shapes):
            return float(shapes["input_ids"][1] ** 2)

    work = Training(Square(), request())
    for length in (2, 4):
        work.note({"input_ids": (2, length)}, None)
    totals = {"flops": 400.0, "recomputed_flops": 0.0, "bytes": 1000.0, "kernels": 7}
    counts = work.counts({"shapes": {"input_ids": [2, 2]}, "totals": totals})
    assert work.samples() == {"step_model_flops": [12.0, 48.0]}  # three forward passes' worth
    assert counts["model_flops"] == 30.0
    assert counts["flops"] == 400.0 * (4 + 16) / 2 / 4 and counts["bytes"] == 1000.0 * 2.5
    assert counts["kernels"] == 7


def test_without_a_formula_counts_are_scaled_by_size_and_model_flops_stay_unknown():
    work = Training(Model(), request())
    for length in (2, 4):
        work.note({"input_ids": (2, length)}, None)
    totals = {"flops": 100.0, "recomputed_flops": 0.0, "bytes": 10.0, "kernels": None}
    counts = work.counts({"shapes": {"input_ids": [2, 2]}, "totals": totals})
    assert counts["flops"] == 150.0 and counts["model_flops"] is None and work.samples() == {}


def test_the_cache_is_that_of_the_mean_batch_of_the_clean_pass():
    class Keeps(Model):
        def cache_bytes(self, request, shapes, element_bytes):
            (rows, tokens), (_, made) = shapes["input_ids"], shapes["new_ids"]
            return rows * (tokens + made) * element_bytes * 2**20

    engine = Clock(generated=(2, 4))
    for model, mean in ((Keeps(), 2 * (statistics.fmean([3, 5]) + 5) * 2), (Model(), None)):
        work = Prediction(model, request("generate", target_len=9), 2)
        loops.run_steps(engine, engine.batches([3, 5]), work.step, 2, work.note)
        assert work.cache_memory() == {"kv_cache_mib": mean}
    for work in (Prediction(Keeps(), request()), Training(Keeps(), request("generate"))):
        loops.run_steps(engine, engine.batches([3]), work.step, 1, work.note)
        assert work.cache_memory() == {}
