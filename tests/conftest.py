"""What all tests share: a cache of their own, so that no test reads or writes the user's."""

from __future__ import annotations

import os

import pytest


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
