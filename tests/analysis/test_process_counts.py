"""How many processes a cell gets, and what a report makes of them: Stein's rule on records."""

from __future__ import annotations

import numpy as np
import pytest
from support.records import record

from llmbench import stats
from llmbench.analysis import process_counts
from llmbench.records import attempts
from llmbench.report.cells.summary import summarise
from llmbench.report.tables.overview import bottleneck_table

BUDGET = {"seconds": 1.0, "ci_pct": 5.0, "max_repeats": 12}
NOISY = (0.100, 0.112, 0.094, 0.105, 0.108, 0.097, 0.101)


def made(levels, cell_id="c", first=3, **budget):
    """Records of a cell whose first `first` repeats are the first stage."""
    given = {"repeats": first, "budget": {**BUDGET, **budget}, "cell_id": cell_id}
    return [record(repeat=i, step_s=(level,) * 12) | given for i, level in enumerate(levels)]


def decide(records, first=3, most=12):
    return process_counts.decide(records, repeats=first, max_repeats=most, ci_pct=5.0)


def test_the_first_stage_alone_decides():
    first = made(NOISY[:3])
    wanted = stats.processes_for(attempts.step_times(first), 5.0, most=99).target
    assert decide(first, most=99) == {"c": wanted} and wanted > 12
    assert decide(made(NOISY), most=99) == {"c": wanted}  # what came later changes nothing
    assert decide(made((0.1, 0.5, 0.1)) + first) == decide(first)  # nor does an attempt that was made again
    assert decide(first, most=5) == {"c": 5} and decide(first, most=3) == {}
    assert decide(made((0.1, 0.1001, 0.1002))) == {"c": 3}
    assert process_counts.decide(first, repeats=3, max_repeats=None, ci_pct=5.0) == {}


def test_a_repeat_of_the_first_stage_that_failed_is_made_up_for():
    found = made(NOISY[:3], max_repeats=4)
    found[1] |= {"status": "crashed", "samples": {}}
    assert decide(found) == {"c": 12}
    assert decide([found[0]]) == {} and decide([{**r, "status": "oom"} for r in found]) == {}


def test_cells_of_a_run_lend_each_other_their_spread():
    rng = np.random.default_rng(1)
    run = [r for i in range(8) for r in made(0.1 * np.exp(0.02 * rng.normal(size=2)), f"c{i}", 2)]
    counts = decide(run, 2)
    prior = stats.fit_prior([attempts.step_times(group) for group in attempts.by_cell(run).values()])
    assert prior is not None and len(counts) == 8
    alone = [decide(group, 2)[name] for name, group in attempts.by_cell(run).items()]
    assert sum(counts.values()) < sum(alone)  # two processes alone ask for all that are allowed
    later = [r for i in range(8) for r in made(0.1 * np.exp(0.3 * rng.normal(size=6)), f"c{i}", 2) if r["repeat"] > 1]
    assert decide(run + later, 2) == counts


def test_the_report_uses_steins_interval_with_the_first_stages_spread():
    found = made(NOISY)
    (cell,) = summarise(found)
    direct = stats.stein_interval([[level] * 12 for level in NOISY], 3, 5.0)
    assert cell["step_ms_ci_kind"] == "stein" and cell["repeats"] == 7
    assert cell["step_ms_ci"] == pytest.approx([direct.estimate.low * 1e3, direct.estimate.high * 1e3])
    assert cell["repeats_wanted"] == direct.target_processes > 12
    assert cell["ci_pct_wanted"] == 5.0 and cell["ci_pct_reached"] == pytest.approx(direct.half_width_pct)
    pooled = stats.process_interval([[level] * 12 for level in NOISY])
    assert cell["step_ms"] == pytest.approx(1e3 * pooled.value) and pooled.low != direct.estimate.low
    assert any("as many processes as the first ones" in note for note in bottleneck_table([cell]).notes)


def test_the_reports_prior_is_that_of_the_decision():
    """Processes beyond the first stage were chosen by its spread: they must not come into the prior."""
    rng = np.random.default_rng(2)
    run = [r for i in range(8) for r in made(0.1 * np.exp(0.02 * rng.normal(size=2)), f"c{i}", 2)]
    prior = process_counts.fit_prior(attempts.by_cell(run).values())
    more = [r for r in made(0.1 * np.exp(0.2 * rng.normal(size=5)), "c3", 2) if r["repeat"] > 1]
    assert process_counts.fit_prior(attempts.by_cell(run + more).values()) == prior
    cell = next(c for c in summarise(run + more) if c["cell_id"] == "c3")
    times = attempts.step_times(attempts.by_cell(run + more)["c3"])
    direct = stats.stein_interval(times, 2, 5.0, prior=prior).estimate
    assert cell["step_ms_ci"] == pytest.approx([1e3 * direct.low, 1e3 * direct.high])


def test_the_interval_covers_as_often_as_it_says():
    """Two stages through records and report: 400 runs of 6 cells, 2 first processes, +-2 % wanted, at most 6."""
    rng, inside, total = np.random.default_rng(3), 0, 0
    for _ in range(70):
        levels = {f"c{i}": 0.1 * np.exp(0.02 * rng.normal(size=6)) for i in range(6)}
        first = [r for name, all_of in levels.items() for r in made(all_of[:2], name, 2, ci_pct=2.0)]
        counts = process_counts.decide(first, repeats=2, max_repeats=6, ci_pct=2.0)
        run = [r for name, all_of in levels.items() for r in made(all_of[: counts.get(name, 2)], name, 2, ci_pct=2.0)]
        for cell in summarise(run):
            low, high = cell["step_ms_ci"]
            inside, total = inside + (low <= 100.0 <= high), total + 1
    assert total == 420 and 0.92 <= inside / total <= 0.99


def test_a_given_number_of_processes_is_not_steins():
    for found in (made(NOISY, max_repeats=None), [record(repeat=i, step_s=(s,) * 12) for i, s in enumerate(NOISY)]):
        (cell,) = summarise(found)
        assert cell["step_ms_ci_kind"] == "processes" and cell["repeats_wanted"] is None
        assert cell["reasons"]["repeats_wanted"] == "no max_repeats was given"
    (cell,) = summarise(made(NOISY[:1]))
    assert cell["repeats_wanted"] is None and "no spread" in cell["reasons"]["repeats_wanted"]
    (cell,) = summarise([record("crashed")])
    assert cell["ci_pct_reached"] is None and "no repeat finished" in cell["reasons"]["ci_pct_reached"]


def test_a_run_that_was_resumed_with_more_first_repeats():
    found = made(NOISY[:3]) + made(NOISY, first=5)[3:]
    assert [r["repeat"] for r in process_counts.first_stage(found)] == [0, 1, 2, 3, 4]
