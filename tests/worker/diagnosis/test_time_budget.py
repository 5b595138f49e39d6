"""What a diagnosis may take, by a clock that only steps move: the budget is wall time, all in all."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch
from support import plain_models as plain

from llmbench.contract.errors import OutOfTime
from llmbench.contract.specs import CauseSpec, Intervention
from llmbench.plugins.discovery import discover
from llmbench.worker.diagnosis import diagnose, restore, user_step
from llmbench.worker.diagnosis.time_budget import BoundedTrial, TimeBudget
from llmbench.worker.diagnosis.user_engine import UserEngine, pool_of
from llmbench.worker.measuring import passes


class FakeTime:
    """A clock in which a step takes `step_s`, and nothing else takes any time."""

    def __init__(self, step_s):
        self.now, self.step_s, self.steps = 0.0, step_s, 0

    def __call__(self):
        return self.now

    def step(self, batch):
        self.steps += 1
        self.now += self.step_s


class FakeEngine:
    """Steps of a fake clock: what the clean pass and the phase pass need of an engine."""

    module, given, own_step = torch.nn.Linear(1, 1), {}, None
    device = torch.device("cpu")

    def __init__(self, clock):
        self.clock, self.step, self.mark = clock, clock.step, clock
        self.copy = self.forward = lambda given: given
        self.backward = self.clock.step
        self.update = self.synchronize = lambda: None

    def seconds_between(self, marks):
        return [b - a for a, b in itertools.pairwise(marks)]

    def parameters(self):
        return 2

    def peak_memory_mib(self):
        return 1.0

    def capacity_mib(self):
        return 100.0


def batches():
    return diagnose.wrap_batches(diagnose.endless(plain.texts()), None)


class NoMonitor:
    """A watch over the machine that sees nothing and takes no time."""

    def __init__(self, device_kind):
        self.device_kind = device_kind

    def start(self):
        pass

    def stop(self):
        return {}


@pytest.fixture
def still(monkeypatch):
    """Let warm-up and the watch over the machine take no part in it."""
    monkeypatch.setattr(diagnose, "Monitor", NoMonitor)
    monkeypatch.setattr(passes.time, "perf_counter", lambda: 0.0)


@pytest.mark.parametrize("step_s", [0.001, 0.05, 0.4, 1.0, 2.0])
def test_measuring_the_step_leaves_most_of_the_budget_to_the_causes(still, step_s):
    clock = FakeTime(step_s)
    time_budget = TimeBudget(60.0, 0.0, clock=clock)
    fields = diagnose.measure(FakeEngine(clock), user_step.UserStep(), batches(), time_budget)
    assert time_budget.remaining_s() > 0.5 * 60
    assert len(fields["samples"]["step_s"]) >= 3 and len(fields["phases"]["forward_s"]) >= 2
    if step_s <= 0.05:  # the usual fewest, where there is time for them
        assert len(fields["samples"]["step_s"]) >= passes.MIN_SAMPLES
        assert len(fields["phases"]["forward_s"]) >= passes.MIN_PAIRS


def test_a_clean_pass_takes_no_more_steps_than_it_may():
    clock = FakeTime(1.0)
    clean = passes.run_clean_pass(
        FakeEngine(clock), batches(), lambda e, b: e.step(b), seconds=9, ci_pct=1, most_steps=8
    )
    assert clock.steps == 8 and len(clean.samples["step_s"]) == 4
    assert clean.how["steady"] is None  # not: False, which would say that it was still changing


def trial_of(clock, **fields):
    return BoundedTrial(
        module=None,
        optimizer=None,
        device="cpu",
        trains=True,
        generates=False,
        pool=plain.texts(),
        take_step=clock.step,
        make_fresh=lambda: diagnose.endless(plain.texts()),
        mark=clock,
        between=lambda marks: [b - a for a, b in itertools.pairwise(marks)],
        **fields,
    )


def cause(name, steps):
    """A cause whose look takes so many steps, and whose intervention changes nothing."""

    def probe(trial):
        for _ in range(steps):
            trial.step(trial.pool[0])
        return {}

    return CauseSpec(
        name=name,
        axis="where",
        cause_class="algorithm",
        description="",
        advice="",
        probe=probe,
        predict=lambda record, facts: 2.0,
        intervene=lambda trial: Intervention(contextlib.nullcontext),
    )


@pytest.mark.parametrize(("step_s", "steps"), [(0.05, 2), (0.3, 10), (1.0, 6), (0.3, 400)])
def test_causes_end_with_the_budget_whatever_they_take(monkeypatch, step_s, steps):
    clock = FakeTime(step_s)
    time_budget = TimeBudget(30.0, 0.0, end_s=1.0, clock=clock)
    trial = trial_of(clock, step_s=step_s)
    monkeypatch.setattr(diagnose, "causes", lambda registry, device: [cause(f"c{i}", steps) for i in range(8)])
    monkeypatch.setattr("llmbench.worker.verification.verify.time.perf_counter", clock)
    monkeypatch.setattr("llmbench.worker.verification.paired_blocks.time.perf_counter", clock)
    monkeypatch.setattr("llmbench.contract.step_trial.time.perf_counter", clock)
    fields = {"memory": {"peak_mib": 1.0, "capacity_mib": 100.0}}
    found, _ = diagnose.try_causes(trial, None, fields, "verdict", time_budget, 0, lambda event: None)
    assert clock.now <= time_budget.until + step_s  # a step that has begun ends
    assert set(found) == {f"c{i}" for i in range(8)}
    if steps == 400:
        assert {row["outcome"] for row in found.values()} == {"out_of_time"}
        assert str(OutOfTime()) in {row["reason"] for row in found.values()}
    if step_s == 0.05:
        assert any(row["outcome"] == "measured" for row in found.values())


def test_a_budget_that_is_used_up_is_overrun_by_a_few_steps_only():
    clock = FakeTime(0.5)
    clock.now = 70.0
    time_budget, trial = TimeBudget(60.0, 0.0, clock=clock), trial_of(clock, step_s=0.5)
    assert time_budget.remaining_s() == 0 and time_budget.steps(0.5, 0.3, 6) == 6
    time_budget.limit(trial)
    with pytest.raises(OutOfTime):
        for _ in range(100):
            trial.step(None)
    assert 8 <= clock.steps <= 12


def test_parts_add_up_to_what_was_spent():
    clock = FakeTime(2.0)
    time_budget = TimeBudget(60.0, -3.0, end_s=1.0, clock=clock)
    with time_budget.spending("a"):
        clock.step(None)
    with pytest.raises(ValueError, match="x"), time_budget.spending("a"):
        clock.step(None)
        raise ValueError("x")
    assert time_budget.spent_s == {"a": 4.0} and time_budget.remaining_s() == 60 - 1 - 3 - 4


def test_a_slow_loader_fills_a_smaller_pool(monkeypatch):
    clock = FakeTime(1.0)
    monkeypatch.setattr("llmbench.worker.diagnosis.user_engine.time.perf_counter", clock)

    class Slow:
        def __iter__(self):
            for batch in plain.texts(count=20):
                clock.step(batch)
                yield batch

    assert len(pool_of(Slow(), 16, least=6, seconds=3.0)) == 6
    clock.steps = 0
    assert len(pool_of(Slow(), 16, least=6, seconds=100.0)) == 16


def test_optimizers_of_an_own_step_are_given_back_too():
    torch.manual_seed(0)
    model, head = plain.Deep(), torch.nn.Linear(64, 1)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, head)]
    before = [p.detach().clone() for m in (model, head) for p in m.parameters()]

    def step(batch):
        head(model(batch[0])).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    engine = UserEngine({"model": model, "data": [], "step": step}, discover().get("precision", "fp32"))
    with restore.restore_after(engine) as snapshot:
        trains, first = user_step.watch_step(engine, (torch.randn(4, 64),), snapshot)
        assert trains and first is optimizers[0]
        assert not torch.equal(head.weight, before[-2])
    after = [p for m in (model, head) for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(not o.state_dict()["state"] for o in optimizers)


def test_what_is_random_goes_on_as_if_nothing_had_been(monkeypatch):
    import random

    import numpy as np

    model = plain.GPT()
    engine = UserEngine({"model": model, "data": []}, discover().get("precision", "fp32"))
    states = random.random, np.random.rand, lambda: torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = [draw() for draw in states]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    with restore.restore_after(engine):
        [draw() for draw in states for _ in range(3)]
    assert [draw() for draw in states] == expected
