"""A report takes time in proportion to its records: quadratic parts would show, in lines that are run and in time."""

from __future__ import annotations

import sys
import time

import pytest

from benchmarks.many_records import records
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


def lines_run(render, made):
    """Return how many lines of Python a report of these records takes, each as often as it is run."""
    count = 0

    def counted(frame, event, given):
        nonlocal count
        count += event == "line"
        return counted

    report, before = Report([Run("r", made)]), sys.gettrace()
    sys.settrace(counted)
    try:
        render(report)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", ["html", "json"])
def test_the_second_half_of_the_records_takes_as_many_lines_as_the_first(name):
    render = discover().get("reporter", name).render
    made = list(records(MANY, repeats=3, verified=False))
    render(Report([Run("r", made[:FEW])]))  # imports
    few, half, many = (lines_run(render, made[:count]) for count in (FEW, MANY // 2, MANY))
    assert many - half < 1.1 * (half - few) * (MANY // 2) / (MANY // 2 - FEW), (few, half, many)


@pytest.mark.timed
@pytest.mark.parametrize("name", ["html", "json"])
def test_ten_times_the_records_take_about_ten_times_as_long(name):
    render = discover().get("reporter", name).render
    made = list(records(MANY, repeats=3, verified=False))
    seconds(render, made[:30])  # imports
    few, many = seconds(render, made[:FEW]), seconds(render, made)
    assert many < 2 * (MANY / FEW) * few, (few, many)
