"""Torch with algorithms that give the same sums every time, and a model on it: the engine `repeatable` of llmbench."""

import dataclasses

import llmbench
from llmbench_plugins.engines.torch import open_engine
from llmbench_plugins.models import word2vec

LLMBENCH_API = 2


def open_repeatable(request):
    import torch

    torch.use_deterministic_algorithms(True)
    return open_engine(request)


@llmbench.hookimpl
def llmbench_engines():
    return [llmbench.EngineSpec("repeatable", open_repeatable, "torch, the same sums every time")]


@llmbench.hookimpl
def llmbench_models():
    return [dataclasses.replace(word2vec.llmbench_models()[0], name="repeatable", engine="repeatable")]
