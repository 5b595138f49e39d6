"""What a training step's memory is for, against sizes worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmbench.worker.torch_engine import memory


class Engine:
    def __init__(self, module):
        self.module = module
        self.optimizer = torch.optim.AdamW(module.parameters(), fused=True)

    def forward(self, arrays):
        return self.module(arrays["x"]).relu().square().sum()

    def backward(self, loss):
        loss.backward()

    def update(self):
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def test_parts_of_a_linear_layer():
    engine = Engine(nn.Linear(256, 128, bias=False))
    found = memory.parts(engine, {"x": torch.ones(64, 256)})
    weights = 256 * 128 * 4
    assert found["weights_mib"] * memory.MIB == weights
    assert found["gradients_mib"] * memory.MIB == weights
    assert found["optimizer_mib"] * memory.MIB == 2 * weights + 4  # two moments and the step
    assert found["activations_mib"] * memory.MIB == 64 * 128 * 4  # relu's output; the batch and the weights are not


def test_tied_weights_count_once():
    first, second = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
    second.weight = first.weight
    assert memory.weights_mib(nn.Sequential(first, second)) * memory.MIB == 16 * 16 * 4


def test_activations_grow_with_the_batch():
    found = [memory.parts(Engine(nn.Linear(32, 32)), {"x": torch.ones(n, 32)})["activations_mib"] for n in (10, 20)]
    assert found[1] == pytest.approx(2 * found[0])
