"""What all tests share: a cache of their own, so that no test reads or writes the user's."""

from __future__ import annotations

import functools
import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # torch in two processes with two threads each waits for itself on two cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@functools.cache
def runs_lstm_in_bf16():
    """Return whether torch has a kernel for it on this CPU: oneDNN has none without AVX-512."""
    import torch

    try:
        torch.nn.LSTM(8, 8).to(torch.bfloat16)(torch.zeros(1, 1, 8, dtype=torch.bfloat16))
        with torch.autocast("cpu", torch.bfloat16):
            torch.nn.LSTM(8, 8)(torch.zeros(1, 1, 8))
    except RuntimeError:
        return False
    return True


@pytest.fixture(scope="session")
def lstm_in_bf16():
    """Skip where this CPU cannot run an LSTM in bfloat16."""
    if not runs_lstm_in_bf16():
        pytest.skip("torch has no bfloat16 LSTM for this CPU")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep measured ceilings for the session; child processes inherit the variable."""
    before = os.environ.get("LLMBENCH_CACHE")
    os.environ["LLMBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["LLMBENCH_CACHE"]
    else:
        os.environ["LLMBENCH_CACHE"] = before
