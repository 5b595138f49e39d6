"""A plugin with the model `late`: a GPT that sleeps LATE_PCT percent of each step, and is the same otherwise."""

import dataclasses
import os
import time

import llmbench
from llmbench_plugins.models import gpt

LONGEST_STEP_S = 0.2  # what lies between two forward passes and takes longer is no step


class Sleeper:
    """Before every forward pass, sleep a share of the time since the last one began."""

    def __init__(self, share):
        self.share, self.last, self.slept = share, None, 0.0

    def __call__(self, *_):
        now = time.perf_counter()
        step_s = now - self.last - self.slept if self.last is not None else 0.0
        self.slept = self.share * min(step_s, LONGEST_STEP_S)
        self.last = now
        if self.slept > 0:
            time.sleep(self.slept)


@llmbench.hookimpl
def llmbench_models():
    (sane,) = gpt.llmbench_models()
    share = float(os.environ.get("LATE_PCT") or 0) / 100

    def build(request):
        model = sane.build(request)
        model.register_forward_pre_hook(Sleeper(share))
        return model

    return [dataclasses.replace(sane, name="late", build=build)]
