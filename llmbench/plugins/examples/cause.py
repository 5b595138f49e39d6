"""Dropout as a bottleneck: the cause `dropout` of llmbench."""

import contextlib

import llmbench

LLMBENCH_API = 2


def find_dropouts(trial):
    from torch import nn

    modules = [m for m in trial.module.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    if not modules or not trial.trains:
        raise llmbench.DoesNotApply("no dropout in a step")
    return modules


@contextlib.contextmanager
def replace_forward(modules, new):
    for m in modules:
        m.forward = new(m.forward)  # hides the method of the class
    try:
        yield
    finally:
        for m in modules:
            del m.forward


def probe(trial):
    modules = find_dropouts(trial)
    return {"part_s": trial.timed(lambda timer: replace_forward(modules, timer))}


def predict(record, facts):
    return llmbench.without(record, facts["part_s"])


def intervene(trial):
    modules = find_dropouts(trial)
    return llmbench.Intervention(lambda: replace_forward(modules, lambda forward: lambda x: x))


@llmbench.hookimpl
def llmbench_causes():
    return [llmbench.CauseSpec("dropout", "where", "algorithm", probe, predict, intervene)]
