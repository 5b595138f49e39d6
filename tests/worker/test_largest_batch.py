"""The largest batch that fits: the search against known capacities, and on an engine that runs out of memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import llmbench
from llmbench.contract.job import KEEP
from llmbench.contract.specs import CollateContext, SpecialTokens
from llmbench.layouts import CausalBlocks, EncoderDecoder, TwoSequences
from llmbench.worker import largest_batch
from llmbench.worker.largest_batch import Rehearsal, add_largest_batch, longest, search, unending
from llmbench.worker.measuring.loops import train_step
from llmbench.worker.torch_engine.engine import TorchEngine

SPECIAL = SpecialTokens()
CTX = CollateContext(SPECIAL, seq_len=16, target_len=6, vocab_size=60, train=True)


@given(st.integers(1, 1_000_000), st.integers(1, 5000))
def test_the_search_ends_within_five_percent_below_the_limit(capacity, first):
    tried = []
    assert search(lambda batch: batch <= capacity, first, tried, clock=lambda: 0.0) is None
    found, failing = largest_batch.bracket(tried)
    assert found <= capacity < failing and failing - found <= max(1, 0.05 * found)
    assert len({batch for batch, _ in tried}) == len(tried) and tried[0][0] == first


def test_doubling_then_bisection():
    tried = []
    search(lambda batch: batch <= 100, 16, tried, clock=lambda: 0.0)
    assert [batch for batch, _ in tried] == [16, 32, 64, 128, 96, 112, 104, 100]
    assert [ok for _, ok in tried] == [True, True, True, False, True, False, False, True]


def test_not_even_one_row():
    tried = []
    assert "not even one row" in search(lambda batch: False, 4, tried, clock=lambda: 0.0)
    assert tried == [(4, False), (2, False), (1, False)]


def test_a_try_that_would_end_too_late_is_not_begun():
    now = [0.0]

    def fits(batch):
        now[0] += batch  # seconds
        return True

    tried = []
    why = search(fits, 10, tried, clock=lambda: now[0])
    assert tried == [(10, True), (20, True), (40, True)]  # 70 s, and 80 more would be beyond 120
    assert "stopped after 3 tries and 70 s" in why and "40 fits, nothing beyond was tried" in why
    assert now[0] <= largest_batch.LIMIT_S


def test_the_longest_row_is_as_long_as_the_cell_allows():
    pairs = [{"source": [7, 8], "target": [9]}, {"source": [7, 8, 9], "target": [6, 7]}]
    batch = EncoderDecoder().collate([longest(pairs, EncoderDecoder(), CTX)] * 3, CTX)
    assert batch.arrays["input_ids"].shape == (3, 16) and batch.arrays["decoder_input_ids"].shape == (3, 6)
    span = [{"question": [7, 8], "context": [9, 10, 11], "start": 1, "end": 2}]
    arrays = TwoSequences().collate([longest(span, TwoSequences(), CTX)], CTX).arrays
    assert arrays["question_ids"].shape[1] + arrays["input_ids"].shape[1] == 16
    assert arrays["start_positions"].tolist() == [1]
    assert longest([{"ids": [6] * 40, "label": 2}], CausalBlocks(), CTX) == {"ids": [6] * 40, "label": 2}


def model(limit, says):
    """A model that has no memory for more than `limit` rows; fails in the update, when some state is made already."""

    def build(request):
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = torch.nn.Embedding(request.vocab_size, 4)
                self.head = torch.nn.Linear(4, request.vocab_size)

            def forward(self, input_ids, attention_mask, labels=None):
                self.rows = len(input_ids)
                return {"loss": self.head(self.embed(input_ids)).square().mean()}

        module = Net()
        update = torch.optim.AdamW.step

        class Optimizer(torch.optim.AdamW):
            def step(self, closure=None):
                assert bool(self.state) == (module.calls > 0)  # fresh at the first step of a try
                module.calls += 1
                update(self, closure)
                if module.rows > limit:
                    raise RuntimeError(says)

        module.optimizer = Optimizer
        return module

    return llmbench.ModelSpec("net", {"tiny": {}}, {"pretrain": CausalBlocks()}, build)


def rehearsal(limit, says="DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"):
    engine = TorchEngine(device="cpu", precision=llmbench.PrecisionSpec("fp32"))
    spec = model(limit, says)
    engine.build(spec, llmbench.BuildRequest("pretrain", "tiny", {}, 60, SPECIAL, 16, 6), seed=0)

    def prepare():
        assert all(p.grad is None for p in engine.module.parameters())
        engine.prepare_training(learning_rate=1e-3, steps=10, optimizer="adamw")
        engine.optimizer = engine.module.optimizer(engine.module.parameters())
        engine.schedule = torch.optim.lr_scheduler.LambdaLR(engine.optimizer, lambda step: 1.0)
        engine.module.calls = 0

    feature = longest([{"ids": [2, 7, 8]}], CausalBlocks(), CTX)
    return Rehearsal(engine, feature, CausalBlocks(), CTX, train_step, largest_batch.TRAIN_STEPS, prepare)


@pytest.fixture
def no_limit(monkeypatch):
    """Let a search take as long as this machine needs."""
    monkeypatch.setattr(largest_batch, "LIMIT_S", math.inf)


def record():
    return {"memory": {"peak_mib": 1.0}, "warnings": ["w"], "spent": {}, "samples": {"step_s": [0.1]}}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.usefixtures("no_limit")
def test_running_out_of_memory_is_an_answer_and_each_try_starts_afresh():
    events, made = [], record()
    add_largest_batch(made, lambda: rehearsal(21), 4, events.append, limited=True)
    memory = made["memory"]
    assert memory["largest_batch"] == 21 and memory["largest_batch_reason"] is None and memory["peak_mib"] == 1.0
    assert memory["largest_batch_tried"][:4] == [[4, True], [8, True], [16, True], [32, False]]
    assert made["warnings"] == ["w"] and made["spent"]["largest_batch_s"] > 0


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.usefixtures("no_limit")
def test_before_each_try_the_record_is_handed_over_with_what_is_known():
    events, made = [], record()
    add_largest_batch(made, lambda: rehearsal(21), 4, events.append, limited=True)
    kept = [event["record"] for event in events if event["event"] == KEEP]
    assert len(kept) == len(made["memory"]["largest_batch_tried"])
    assert kept[0]["memory"]["largest_batch_tried"] == [] and kept[0]["samples"] == made["samples"]
    third = kept[2]["memory"]
    assert third["largest_batch"] is None and third["largest_batch_tried"] == [[4, True], [8, True]]
    assert "did not survive a batch of 16" in third["largest_batch_reason"]
    assert kept[2]["warnings"][0] == "w" and "did not survive a batch of 16" in kept[2]["warnings"][1]


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.usefixtures("no_limit")
def test_a_primitive_that_is_missing_is_a_lack_of_memory_only_behind_a_batch_that_ran():
    says = "could not create a primitive"
    made = record()
    add_largest_batch(made, lambda: rehearsal(21, says), 4, lambda event: None, limited=True)
    assert made["memory"]["largest_batch"] == 21
    add_largest_batch(made, lambda: rehearsal(3, says), 4, lambda event: None, limited=True)
    assert made["memory"]["largest_batch"] is None and says in made["memory"]["largest_batch_reason"]


def test_what_is_not_a_lack_of_memory_is_the_reason_and_the_record_stays():
    def broken():
        raise ValueError("no such kernel")

    made = record()
    add_largest_batch(made, broken, 4, lambda event: None, limited=True)
    assert made["memory"]["largest_batch"] is None and made["samples"] == {"step_s": [0.1]}
    assert made["memory"]["largest_batch_reason"] == "a batch of 4 failed: ValueError: no such kernel"


def test_without_a_limit_on_the_cpu_nothing_is_tried():
    events, made = [], record()
    add_largest_batch(made, lambda: pytest.fail("tried"), 4, events.append, limited=False)
    assert events == [] and made["memory"]["largest_batch"] is None
    assert "memory_mib" in made["memory"]["largest_batch_reason"]


def test_a_generation_for_the_search_never_ends():
    request = unending(llmbench.BuildRequest("generate", "tiny", {}, 60, SPECIAL, 16, 6))
    logits = np.zeros((2, 60))
    assert request.special.eos not in logits.argmax(-1) and request.special.pad == SPECIAL.pad
