"""The conformance kit: whether a plugin keeps the contract of its hook. `llmbench plugins check NAME` prints it.

In a plugin's own tests, with the fixture that llmbench brings to pytest::

    import pytest
    from llmbench import conformance

    @pytest.mark.parametrize("check", conformance.names("model"))
    def test_conforms(check, llmbench_conformance):
        llmbench_conformance("model", "my-model", check)

Checks run in a process of their own, with a time limit for each: a plugin that hangs or crashes fails, and no more.
"""

from __future__ import annotations

from llmbench.conformance.known_checks import known, names
from llmbench.conformance.running import FAILED, NOT_HERE, PASSED, STATUSES, Verdict, check, targets

__all__ = ["FAILED", "NOT_HERE", "PASSED", "STATUSES", "Verdict", "check", "known", "names", "targets"]
