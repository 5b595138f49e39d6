"""A plugin whose models misbehave when they are built: too much memory, no end, an exception, a segmentation fault."""

import dataclasses

import llmbench
from llmbench_plugins.models import gpt


def greedy_for_memory():
    import torch

    kept = []
    while True:
        kept.append(torch.ones(64 * 2**20 // 4))


def endless():
    import time

    while True:
        time.sleep(1)


def raising():
    raise ValueError("this plugin\nis broken")


def segfault():
    import ctypes

    ctypes.string_at(0)


FAULTS = {"greedy": greedy_for_memory, "endless": endless, "raising": raising, "segfault": segfault}


@llmbench.hookimpl
def llmbench_models():
    (sane,) = gpt.llmbench_models()

    def build_of(fault):
        return lambda request: fault() or sane.build(request)

    return [dataclasses.replace(sane, name=name, build=build_of(fault)) for name, fault in FAULTS.items()]
