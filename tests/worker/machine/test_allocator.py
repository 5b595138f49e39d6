"""Memory that is freed stays with the process, where that is asked for."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from support.limits import HANG_S

from llmbench.contract.errors import Unsupported
from llmbench.worker.machine import allocator

STEPS = """
import resource, sys
import numpy as np
from llmbench.worker.machine.allocator import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
def step():
    small = [np.ones(2**17) for _ in range(40)]  # 1 MiB each
    large = np.ones(5 * 2**20)  # 40 MiB: glibc maps it alone, whatever was freed before
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_what_a_step_frees_is_there_for_the_next_one():
    plain, kept = faults("plain"), faults("keep")
    assert plain > 10 * 40 * 2**20 / 2**21 and kept < plain / 10  # huge pages of 2 MiB at most


def test_another_c_library_is_told_from_one_that_can(monkeypatch):
    class Other:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Other())
    with pytest.raises(Unsupported, match="no mallopt"):
        allocator.keep_freed()
