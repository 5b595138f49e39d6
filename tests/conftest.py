"""What all tests share: a cache of their own, so that no test reads or writes the user's; and how times are tested."""

from __future__ import annotations

import functools
import os

import hypothesis
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # torch in two processes with two threads each waits for itself on two cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LLMBENCH_PLUGIN_SECONDS", "900")  # a plugin that is sane may take long on a busy machine

# How long an example takes says something of the machine, and nothing of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

RETRIES = 2  # of a test that is marked `timed`
RETRIED = "retried"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Try a test that is marked `timed` again where it fails; note how often. What it measures, it measures itself."""
    if pyfuncitem.get_closest_marker("timed") is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    for left in range(RETRIES, -1, -1):
        try:
            pyfuncitem.obj(**arguments)
        except (Exception, pytest.fail.Exception) as error:
            if not left:
                raise
            pyfuncitem.user_properties.append((RETRIED, f"{type(error).__name__}: {error}".partition("\n")[0]))
        else:
            break
    return True


def pytest_terminal_summary(terminalreporter):
    """Print how often tests that are marked `timed` were tried again, and why."""
    reports = [r for some in terminalreporter.stats.values() for r in some if getattr(r, "when", None) == "call"]
    again = [(r.nodeid, why) for r in reports for name, why in r.user_properties if name == RETRIED]
    if again:
        terminalreporter.section(f"{len(again)} retries of timed tests")
        for nodeid, why in again:
            terminalreporter.write_line(f"{nodeid}: {why}")


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
