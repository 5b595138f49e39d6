"""A report takes time in proportion to its records: quadratic parts would show as a ratio."""

from __future__ import annotations

import time

import pytest
from bench.many_records import records

from llmbench.plugins.discovery import discover
from llmbench.records.read import Run
from llmbench.report import Report

FEW, MANY = 150, 1500


def seconds(render, made):
    best = float("inf")
    for _ in range(2):
        start = time.process_time()
        render(Report([Run("r", made)]))
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("name", ["html", "json"])
def test_ten_times_the_records_take_about_ten_times_as_long(name):
    render = discover().get("reporter", name).render
    made = list(records(MANY, repeats=3, verified=False))
    seconds(render, made[:30])  # imports
    few, many = seconds(render, made[:FEW]), seconds(render, made)
    assert many < 2 * (MANY / FEW) * few, (few, many)
