"""What two runs say beside each other: verdicts, what differs, quality, exit codes."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from llmbench import stats
from llmbench.analysis.comparison import compare_runs
from llmbench.cli import cli
from llmbench.contract.cell import Cell
from llmbench.contract.job import Job, new_record
from llmbench.records.read import Run
from llmbench.records.run_dir import RunDir
from llmbench.report.tables import comparison

CELLS = [Cell(f"m{i}", "tiny", "t", "made@1", "finetune") for i in range(8)]


def simulated(
    seed, slow=None, repeats=3, own=0.01, shared=0.01, cells=CELLS, environment=None, hour=0, shift=1.0, name=None
):
    """A run with process levels that differ by `own`, rounds by `shared`; `slow`: cell index -> ratio."""
    rng = np.random.default_rng(seed)
    rounds = rng.normal(0, shared, repeats)
    records = []
    for repeat in range(repeats):
        for i, cell in enumerate(cells):
            level = 0.1 * shift * math.exp(rounds[repeat] + rng.normal(0, own)) * (slow or {}).get(i, 1.0)
            times = level * np.exp(rng.normal(0, 0.002, 12))
            job = Job.single(cell, repeat=repeat, repeats=repeats, environment_id="e1")
            quality = {"values": {"acc": 0.5}, "examples": 400, "primary": "acc", "direction": {"acc": "higher"}}
            records.append(
                new_record(
                    job,
                    "ok",
                    started_at=f"2026-01-01T{hour:02}:{repeat:02}:{i:02}.000+00:00",
                    wall_s=1.0,
                    samples={"step_s": times.tolist()},
                    quality=quality if repeat == 0 else {},
                )
            )
    return Run(name or f"run-{seed}", records, {"e1": environment or {"cpu": "x", "packages": {"torch": "2.13"}}})


def verdicts(found):
    return [one.verdict for one in found.cells]


def test_equal_runs_are_the_same_or_undecided_and_a_slow_cell_is_found():
    base = simulated(1)
    assert set(verdicts(compare_runs(base, simulated(2)))) <= {"same", "undecided"}
    found = compare_runs(base, simulated(2, slow={3: 1.1, 5: 0.9}))
    assert verdicts(found)[3] == "slower" and verdicts(found)[5] == "faster"
    assert set(verdicts(found)[:3]) <= {"same", "undecided"}
    one = found.cells[3]
    assert one.low < 1.1 < one.high and one.beyond_common and one.repeats == (3, 3)


def test_false_alarms_and_power_of_many_comparisons():
    """50 cells; processes differ by 1 % (half of that variance is shared by a round), one cell is 5 % slower."""
    cells = [Cell(f"m{i}", "tiny", "t", "made@1", "finetune") for i in range(50)]
    half = 0.01 / math.sqrt(2)
    alarms = found = 0
    for seed in range(8):
        head = simulated(1000 + seed, slow={0: 1.05}, own=half, shared=half, cells=cells)
        names = verdicts(compare_runs(simulated(seed, own=half, shared=half, cells=cells), head))
        found += names[0] == "slower"
        alarms += bool({"slower", "faster"} & set(names[1:]))
    assert found == 8 and alarms == 0


def test_undecided_says_how_many_processes_decide():
    base, head = (simulated(s, own=0.04) for s in (1, 2))
    found = compare_runs(base, head)
    wanted = {one.repeats_to_decide for one in found.cells if one.verdict == "undecided"}
    assert wanted and None not in wanted and min(wanted) > 3
    more = compare_runs(*(simulated(s, own=0.04, repeats=max(wanted)) for s in (3, 4)))
    assert verdicts(more).count("undecided") <= 1


def disturbed(run, *places):
    """Mark processes (cell index, repeat) as disturbed, and make them three times as slow."""
    for record in run.records:
        if (CELLS.index(Cell.from_json(record["cell"])), record["repeat"]) in places:
            record["health"] = {"wall_s": 1.0, "cores": 1, "other_cpu_s": 0.5, "run_wait_longest_s": 0.5}
            record["samples"]["step_s"] = [3 * t for t in record["samples"]["step_s"]]
    return run


def test_processes_that_others_disturbed_are_left_out_where_enough_are_left():
    base, head = simulated(1, repeats=5), disturbed(simulated(2, repeats=5, slow={3: 1.1}), (3, 0), (5, 2), (6, 4))
    found = compare_runs(base, head)
    assert verdicts(found)[3] == "slower" and set(verdicts(found)) - {"slower"} <= {"same", "undecided"}
    assert found.disturbed_counts == (0, 3) and found.cells[5].repeats == (5, 4) and found.cells[4].repeats == (5, 5)
    assert any("3 of run-2 are left out" in note for note in comparison.notes(found))
    few = compare_runs(simulated(1), disturbed(simulated(2), (0, 0), (0, 1)))
    assert few.disturbed_counts == (0, 0) and few.cells[0].repeats == (3, 3)


def test_a_round_that_a_cell_lacks_takes_what_that_round_added_with_it():
    rng = np.random.default_rng(4)
    base, head = np.exp(rng.normal(0, 0.003, (2, 12, 6, 1)))
    base[:, 0], head[:, 5] = 3 * base[:, 0], 2 * head[:, 5]  # one slow round in each
    lists = [[[list(p) for p in cell] for cell in side] for side in (base, head)]
    whole = stats.find_changes(*lists)
    lists[0][2][0], lists[1][7][5] = [], []
    gaps = stats.find_changes(*lists)
    assert gaps.common.value == pytest.approx(whole.common.value, rel=0.01)
    for before, after in zip(whole.cells, gaps.cells, strict=True):
        assert after.own.value == pytest.approx(before.own.value, rel=0.01)
        assert after.variance == pytest.approx(before.variance, rel=1.0) and after.own.high < 1.05


def test_what_is_shared_by_all_cells_is_told_apart_from_what_a_cell_does():
    head = simulated(2, slow={0: 1.2}, shift=1.03, shared=0.03)
    found = compare_runs(simulated(1, shared=0.03), head)
    assert found.common is not None and found.common.low < 1.03 < found.common.high
    assert verdicts(found)[0] == "slower" and set(verdicts(found)[1:]) <= {"same", "undecided"}


def test_runs_of_different_hours_must_differ_by_more_than_the_noise_floor():
    base, later = (simulated(1, own=0.002, shared=0.0005), simulated(2, own=0.002, shared=0.0005, hour=3, shift=1.04))
    assert set(verdicts(compare_runs(base, later))) <= {"same", "undecided"}
    assert set(verdicts(compare_runs(base, later, noise_floor_pct=0))) == {"slower"}
    far = compare_runs(base, simulated(2, own=0.002, shared=0.0005, hour=3, shift=1.2), fail_on_pct=14.5)
    assert set(verdicts(far)) == {"slower"} and not far.regressions and len(far.unsure) == len(CELLS)
    assert all(one.low < 1.2 / 1.05 < 1.2 * 1.04 < one.high for one in far.cells)
    assert compare_runs(base, simulated(3)).in_turns and not compare_runs(base, later).in_turns


def test_cells_that_do_not_agree_have_only_their_whole_change():
    head = simulated(2, slow={0: 1.2, 1: 1.2, 2: 1.2, 3: 1.2}, own=0.001, shared=0.001)
    found = compare_runs(simulated(1, own=0.001, shared=0.001), head)
    assert found.common is None
    assert verdicts(found) == ["slower"] * 4 + ["same"] * 4


def test_one_process_a_side_decides_nothing():
    found = compare_runs(simulated(1, repeats=1), simulated(2, repeats=1, slow={0: 2.0}))
    assert set(verdicts(found)) == {"undecided"}
    assert "repeats: 3" in found.cells[0].reason


def test_two_cells_are_compared_too():
    found = compare_runs(*(simulated(s, repeats=6, cells=CELLS[:2], slow=w) for s, w in ((1, None), (2, {0: 1.3}))))
    assert found.common is None and verdicts(found)[0] == "slower"


def test_other_data_is_named_and_its_quality_refused():
    base = simulated(1)
    other = simulated(2, cells=[dataclasses.replace(c, dataset="made@2") for c in CELLS])
    found = compare_runs(base, other)
    assert len(found.cells) == len(CELLS) and all(one.data_differ for one in found.cells)
    assert {q.verdict for q in found.quality} == {"refused"}
    assert any(d.what.startswith("data made") and (d.base, d.head) == ("1", "2") for d in found.differences)


def test_quality_has_an_interval_where_one_is_known():
    base, head = simulated(1), simulated(2)
    for record, value in zip(head.records, (0.5, 0.52, 0.8, 0.2), strict=False):
        record["quality"]["values"]["acc"] = value
    found = compare_runs(base, head).quality
    assert [q.verdict for q in found[:4]] == ["same", "undecided", "better", "worse"]
    assert found[2].low < 0.3 < found[2].high and found[2].low > 0.15


def test_environments_and_missing_cells_are_listed_first():
    base = simulated(1, environment={"cpu": "x", "now": {"load": 1}, "packages": {"torch": "2.12", "numpy": "2"}})
    head = simulated(2, environment={"cpu": "y", "now": {"load": 2}, "packages": {"torch": "2.13", "numpy": "2"}})
    head = dataclasses.replace(head, records=[r for r in head.records if r["cell"]["model"] != "m0"])
    for record in head.records:
        if record["cell"]["model"] == "m1":
            record |= {"status": "oom", "samples": {}}
    found = compare_runs(base, head, fail_on_pct=5)
    assert {d.what for d in found.differences} == {"cpu", "packages.torch"}
    assert sorted(why for _, why in found.only) == ["failed in head: oom", "only in base"]
    assert len(found.failures) == 1
    titles = [table.title for table in comparison.tables(found)]
    assert titles[:3] == ["What differs between the runs", "Not compared", "Step time"]


def save(run: Run, folder: Path) -> str:
    with RunDir.open(folder, write=True) as run_dir:
        for record in run.records:
            run_dir.append(record)
        run_dir.write_json("environment.json", run.environments)
    return str(folder)


def call(*words):
    return CliRunner().invoke(cli, ["compare", *words], standalone_mode=False)


def test_exit_codes(tmp_path):
    base, same = save(simulated(1), tmp_path / "base"), save(simulated(2), tmp_path / "same")
    slow = save(simulated(3, slow={2: 1.2}), tmp_path / "slow")
    noisy = save(simulated(4, own=0.2), tmp_path / "noisy")
    assert call(base, slow).return_value == 0
    assert call(base, same, "--fail-on", "5").return_value == 0
    done = call(base, slow, "--fail-on", "5")
    assert done.return_value == 1 and done.stderr.count("regressed:") == 1 and "m2" in done.stderr
    assert call(base, slow, "--fail-on", "30").return_value == 0
    assert call(base, noisy, "--fail-on", "5").return_value == 0
    assert call(base, noisy, "--fail-on", "5", "--bisect").return_value == 125
    assert call(base, slow, "--fail-on", "5", "--bisect").return_value == 1
    assert call(base, str(tmp_path / "none"), "--fail-on", "5", "--bisect").return_value == 128
    assert "--fail-on" in str(call(base, slow, "--bisect").exception)
    assert "holds 4 runs" in str(call(base, str(tmp_path)).exception)


def test_formats_say_the_same(tmp_path):
    found = compare_runs(simulated(1, name="a<b>"), simulated(2, slow={2: 1.2}), fail_on_pct=5)
    document = json.loads(comparison.render(found))
    assert [c["verdict"] for c in document["cells"]] == verdicts(found)
    assert document["counts"]["slower"] == 1
    text = comparison.comment(found)
    assert text.splitlines()[0].endswith("a\\<b\\>: 1 slower, 7 same") and "**Regressed.**" in text
    assert text.count("<details>") == text.count("</details>") == 1 and len(text) < 65536
    assert comparison.rows(found).count("\n") == 1 + len(CELLS)


def test_a_comment_of_many_cells_fits():
    cells = [Cell(f"m{i}", "tiny", "t", "made@1", "finetune") for i in range(700)]
    base, head = (simulated(s, cells=cells, own=0.001, repeats=2, slow=w) for s, w in ((1, None), (2, {5: 1.5})))
    text = comparison.comment(compare_runs(base, head))
    assert len(text) < 65536 and "too long for a comment" in text


def test_repeats_to_decide_is_where_the_interval_cannot_hold_both():
    change = stats.find_changes(*([[list(p) for p in cell] for cell in side] for side in _two_sides())).cells[0]
    wanted = stats.repeats_to_decide(change, 0.999, 0.05, 3)
    assert stats.repeats_to_decide(change, 0.999, 0.025, 3) > 3 * wanted
    assert stats.repeats_to_decide(change, 0.999, 1e-6, 3) is None


def _two_sides():
    rng = np.random.default_rng(0)
    return np.exp(rng.normal(0, 0.05, (2, 10, 3, 1)))


def test_no_cell_in_both_is_an_error(tmp_path):
    other = [dataclasses.replace(c, model="z" + c.model) for c in CELLS]
    base, head = save(simulated(1), tmp_path / "a"), save(simulated(1, cells=other), tmp_path / "b")
    with pytest.raises(Exception, match="no cell was measured in both"):
        raise call(base, head).exception
