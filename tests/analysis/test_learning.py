"""What limits learning, from records with known scores."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from support.paths import RESULTS

from llmbench import stats
from llmbench.analysis.studies.learning import (
    WRONG_DOUBLED,
    WRONG_FURTHER,
    cells_to_follow,
    learning_rows,
    multiply,
    verdict,
)
from llmbench.analysis.studies.time_to_quality import crossing, ladder_rows
from llmbench.contract.cell import Cell
from llmbench.contract.job import Job, new_record
from llmbench.report.tables.learning import learning_table, missing_table, reach_table

EXAMPLES = 400
WIDTH = {"tiny": 8, "tiny*2": 16, "tiny*8": 64, "tiny*0.125": 1, "big": 64}


def run(probability, data=1000, steps=100, size="tiny", seed=0, metric="acc", noise=0.01):
    """The training and the evaluation of one run whose test examples are right with `probability`."""
    cell = Cell("m", size, "t", "made@1", "finetune", train_examples=data, steps=steps, seed=seed)
    child = Cell("m", size, "t", "made@1", "eval", train_examples=data, steps=0, seed=seed, parent=cell.cell_id)
    rng = np.random.default_rng([seed, data, steps, WIDTH[size]])
    own = probability + noise * rng.normal()
    hard = np.random.default_rng(0).random(EXAMPLES)  # examples are as hard for every run
    each = (hard + 0.03 * rng.normal(size=EXAMPLES) < own).astype(int).tolist()
    quality = {"values": {metric: float(np.mean(each))}, "primary": metric, "direction": {metric: "higher"}}
    quality |= {"each": {metric: each}, "examples": EXAMPLES}
    best = (hard < 0.95).astype(int).tolist()
    oracle = {"kind": "exact", "values": {metric: float(np.mean(best))}, "each": {metric: best}}
    made = {"steps": steps, "examples": data, "seconds": 1.0, "tokens": 1, "loss": []}
    jobs = [Job.single(c) for c in (cell, child)]
    counts = {"parameters": 1000 * WIDTH[size]}
    baselines = {"majority": {metric: 0.25}}
    return [
        new_record(jobs[0], "ok", training=made, counts=counts),
        new_record(jobs[1], "ok", quality=quality, oracle=oracle, baselines=baselines),
    ]


def study(base, data=0.0, steps=0.0, size=0.0, seeds=4, **fields):
    """A study of (1000 examples, 100 steps, tiny) whose doublings add so much."""
    points = [({}, 0.0), ({"data": 2000}, data), ({"steps": 200}, steps), ({"size": "tiny*2"}, size)]
    return [r for s in range(seeds) for kw, gain in points for r in run(base + gain, seed=s, **kw, **fields)]


@pytest.mark.parametrize(
    ("gains", "found"),
    [
        ({"data": 0.2}, "data"),
        ({"steps": 0.2, "size": 0.05}, "training"),
        ({"size": 0.2, "data": 0.02}, "capacity"),
    ],
)
def test_the_axis_that_moves_quality_most_is_named(gains, found):
    (row,) = learning_rows(study(0.6, **gains))
    assert (row["verdict"], row["because"]) == (found, None)
    axis = {"size": "parameters"}.get(next(iter(gains)), next(iter(gains)))
    low, high = row["gains"][axis]["ci"]
    assert low < next(iter(gains.values())) < high and high - low < 0.15
    assert row["gains"]["parameters"]["parameters_x"] == 2.0 and row["seeds"] == 4


def test_at_the_ceiling_nothing_is_named():
    (row,) = learning_rows(study(0.95))
    assert row["verdict"] == "none" and row["gap_ci"][0] < 0.02


def test_far_from_the_oracle_without_gains_is_undecided():
    (row,) = learning_rows(study(0.6, noise=0.001, seeds=6))
    assert row["verdict"] == "undecided" and "much more of it" in row["because"]


def deep(base=0.3, seeds=4, noise=0.02, **gains):
    """A study in which no doubling shows anything, and eight times as much of each."""
    points = [{"data": 8000}, {"steps": 800}, {"size": "tiny*8"}]
    more = dict(zip(("data", "steps", "size"), points, strict=True))
    found = study(base, seeds=seeds, noise=noise)
    runs = [(more[name], gain) for name, gain in gains.items()]
    return found + [r for s in range(seeds) for kw, gain in runs for r in run(base + gain, seed=s, noise=noise, **kw)]


def test_a_deep_lack_is_named_by_much_more_of_it():
    (row,) = learning_rows(deep(data=0.0, steps=0.5, size=0.01))
    assert (row["verdict"], row["times"], row["because"]) == ("training", 8, None)
    assert row["gains"]["steps"]["gain"] == pytest.approx(0.5, abs=0.05)
    assert row["doubled"]["steps"]["gain"] == pytest.approx(0.0, abs=0.05)
    (table,) = [learning_table(deep(data=0.0, steps=0.5, size=0.01))]
    assert table.rows[0][[c.name for c in table.columns].index("times")] == 8


def test_published_studies_that_followed_nothing_have_their_whole_5_percent():
    path = RESULTS / "amd-epyc-avx2-2-cores" / "learning" / "records.jsonl"
    rows = learning_rows(json.loads(line) for line in path.open())
    assert [row["verdict"] for row in rows if row["model"] == "gpt"] == ["none", "data", "training", "capacity"]
    assert {row["times"] for row in rows} == {2}


def test_one_axis_with_more_is_another_point_and_no_second_question():
    (row,) = learning_rows(deep(steps=0.5))
    assert (row["verdict"], row["times"], row["doubled"]) == ("undecided", 2, None)


def test_what_a_doubling_decides_is_not_asked_again():
    records = deep(data=0.4, steps=0.0)
    for record in records:
        points = {r["cell_id"]: r["cell"] for r in records}
        cell = points.get(record["cell"]["parent"], record["cell"])
        if cell["steps"] == 200 and record["quality"]:
            record["quality"]["each"]["acc"] = [1] * EXAMPLES
    (row,) = learning_rows(records)
    assert (row["verdict"], row["times"]) == ("training", 2)
    assert cells_to_follow(records, cells_of(records), 8) == []


def cells_of(records):
    return {r["cell_id"]: Cell.from_json(r["cell"]) for r in records}


def test_what_doubling_leaves_open_is_followed_with_every_seed_on_every_axis():
    records = study(0.3, noise=0.02)
    cells = cells_to_follow(records, cells_of(records), 8)
    assert sorted((c.train_examples, c.steps, c.size) for c in cells) == sorted(
        4 * [(8000, 100, "tiny"), (1000, 800, "tiny"), (1000, 100, "tiny*8")]
    )
    assert {c.seed for c in cells} == set(range(4)) and all(c.stage == "finetune" for c in cells)
    planned = {name: cell for name, cell in cells_of(records).items() if cell.seed}
    assert (
        cells_to_follow(records, planned, 8) == []
    )  # a point that is not planned with all of its seeds is not followed
    assert cells_to_follow(study(0.3, seeds=1), cells_of(study(0.3, seeds=1)), 8) == []


def test_a_larger_model_is_pretrained_as_such():
    before = Cell("m", "tiny", "pretraining", "made@1", "pretrain", steps=50)
    cell = Cell("m", "tiny", "t", "made@1", "finetune", train_examples=100, steps=10, parent=before.cell_id)
    cells = {c.cell_id: c for c in (before, cell)}
    first, second = multiply(cell, cells, "parameters", 8)
    assert (first.size, first.stage, first.steps) == ("tiny*8", "pretrain", 50)
    assert (second.size, second.parent) == ("tiny*8", first.cell_id)
    (more,) = multiply(cell, cells, "data", 8)
    assert (more.train_examples, more.parent) == (800, before.cell_id)


@pytest.mark.parametrize("truth", [{}, {"data": 0.02, "steps": 0.02, "parameters": 0.02}, {"data": 0.3, "steps": 0.3}])
def test_false_claims_stay_below_their_level_with_the_second_question(truth):
    """Nothing that counts, or two alike: whatever is named is wrong, however often it is asked."""
    rng, named = np.random.default_rng(0), 0
    count, seeds = 400, 4
    for _ in range(count):
        verdicts = []
        for share in (WRONG_DOUBLED, WRONG_FURTHER):
            scores = {axis: truth.get(axis, 0.0) + 0.08 * rng.normal(size=(seeds, 1)) for axis in AXES_OF}
            own = 0.08 * rng.normal(size=(seeds, 1))
            gains = {axis: stats.two_way_mean(found - own) for axis, found in scores.items()}
            versus = {(a, b): stats.two_way_mean(scores[a] - scores[b]) for a, b in itertools.permutations(scores, 2)}
            verdicts.append(verdict(gains, versus, None, 0.035, share)[0])
        named += any(found not in ("none", "undecided") for found in verdicts)
    assert named / count < 0.05 + 2 * (0.05 * 0.95 / count) ** 0.5


AXES_OF = ("data", "steps", "parameters")


def test_two_that_gain_alike_are_undecided():
    (row,) = learning_rows(study(0.6, data=0.2, steps=0.2))
    assert row["verdict"] == "undecided" and "may gain as much" in row["because"]


def test_records_from_before_a_field_was_added_belong_together():
    records = study(0.6, data=0.2)
    for record in records[: len(records) // 2]:
        del record["cell"]["compile"]
    assert [row["seeds"] for row in learning_rows(records)] == [4]


def test_one_seed_decides_nothing():
    (row,) = learning_rows(study(0.6, data=0.3, seeds=1))
    assert row["verdict"] == "undecided" and row["gains"]["data"]["ci"] is None


def test_noise_between_seeds_is_in_the_interval():
    (calm,), (wild,) = (learning_rows(study(0.6, data=0.2, noise=n)) for n in (0.0, 0.15))
    assert np.ptp(wild["gains"]["data"]["ci"]) > 2 * np.ptp(calm["gains"]["data"]["ci"])


def test_the_test_splits_own_error_is_in_the_interval():
    records = study(0.6, data=0.2, noise=0.0)
    (row,) = learning_rows(records)
    for record in records:
        if record["quality"]:
            record["quality"]["each"] = {}
    (blind,) = learning_rows(records)
    assert np.ptp(row["gains"]["data"]["ci"]) > np.ptp(blind["gains"]["data"]["ci"])
    assert "another test split" in blind["reasons"]["test"] and "test" not in row["reasons"]


def test_data_that_are_not_there_are_no_doubling():
    records = study(0.6, data=0.2)
    for record in records:
        if record["training"]:
            record["training"]["examples"] = min(record["training"]["examples"], 1200)
    (row,) = learning_rows(records)
    assert "data" not in row["gains"] and "data" in row["reasons"]


def test_a_metric_that_is_better_when_lower_is_on_a_log_scale():
    records = study(0.6)
    for record in records:
        if record["quality"]:
            cell = record["cell"]
            steps = next(r["cell"]["steps"] for r in records if r["cell_id"] == cell["parent"])
            record["quality"] = {"values": {"ppl": 20.0 if steps == 200 else 40.0 + cell["seed"] / 100}, "examples": 9}
            record["quality"] |= {"primary": "ppl", "direction": {"ppl": "lower"}}
            record |= {"oracle": {"kind": "exact", "values": {"ppl": 10.0}}, "baselines": {"u": {"ppl": 90.0}}}
    (row,) = learning_rows(records)
    assert row["verdict"] == "training" and row["scale"] == "-log ppl"
    assert row["gains"]["steps"]["gain"] == pytest.approx(np.log(2), abs=1e-2)
    assert row["quality"] == pytest.approx(40, abs=0.1) and row["gap"] == pytest.approx(np.log(4), abs=1e-2)


def test_the_distance_to_the_oracle_is_split_into_parts_that_add_up():
    records = [r for r in study(0.5) if r["cell"]["size"] == "tiny"]
    for data, steps, size in itertools.product((1000, 8000), (100, 900), ("tiny", "big")):
        gain = 0.2 * (data > 1000) + 0.1 * (steps > 100) + 0.05 * (size == "big")
        records += [r for s in range(4) for r in run(0.5 + gain, data, steps, size, s, noise=0.0)]
    found = next(
        row["missing"] for row in learning_rows(records) if row["train_examples"] == 1000 and row["steps"] == 100
    )
    parts = {name: part["value"] for name, part in found["parts"].items()}
    assert found["ample"] == {"data": 8000, "steps": 900, "parameters": "big"}
    assert sum(parts.values()) == pytest.approx(found["distance"])
    assert parts == pytest.approx({"data": 0.2, "training": 0.1, "capacity": 0.05, "rest": 0.1}, abs=0.02)
    low, high = found["parts"]["data"]["ci"]
    assert low < 0.2 < high


def test_other_runs_have_no_rows_and_a_study_has_its_tables():
    assert learning_rows(run(0.5)) == [] and not learning_table(run(0.5)).rows
    table = learning_table(study(0.6, data=0.2))
    assert len(table.rows) == 1 and "data" in table.rows[0] and not missing_table(study(0.6)).rows


def test_intervals_hold_for_other_seeds_and_other_examples():
    rng = np.random.default_rng(1)
    held, rounds = 0, 1000
    for _ in range(rounds):
        scores = rng.normal(0, 0.02, (5, 1)) + rng.normal(0, 0.4, (1, 300)) + rng.normal(0, 0.3, (5, 300))
        low, high = stats.two_way_mean(scores).bounds(0.025)
        held += low <= 0 <= high
    assert 0.935 <= held / rounds <= 0.99


@pytest.mark.parametrize(
    ("gains", "right"),
    [
        ((0.05, 0.05, 0.05), ("none", "undecided")),  # just not enough: any name is wrong
        ((0.3, 0.299, 0.299), ("data", "undecided")),
        ((0.3, 0.299, 0.0), ("data", "undecided")),
        ((0.051, 0.0, 0.0), ("data", "undecided")),  # just enough: none is wrong
    ],
)
def test_a_wrong_verdict_is_rare(gains, right):
    rng = np.random.default_rng(2)
    axes = ("data", "steps", "parameters")
    wrong, rounds = 0, 1000
    for _ in range(rounds):
        scores = {axis: gain + rng.normal(0, 0.03, (4, 1)) for axis, gain in zip(axes, gains, strict=True)}
        found = {axis: stats.two_way_mean(values) for axis, values in scores.items()}
        versus = {(a, b): stats.two_way_mean(scores[a] - scores[b]) for a in axes for b in axes if a != b}
        wrong += verdict(found, versus, None, 0.05)[0] not in right
    assert wrong / rounds <= 0.06


# --- time to a target quality ---------------------------------------------------------------------------


def ladder(step_s=0.1, joules=None, seeds=3):
    found = []
    for seed, (steps, quality) in itertools.product(range(seeds), {100: 0.5, 200: 0.7, 400: 0.95}.items()):
        training, scored = run(quality, steps=steps, seed=seed, noise=0.002)
        training |= {"samples": {"step_s": [step_s] * 4}, "energy": {"joules": joules}}
        found += [training, scored]
    return found


def test_time_to_quality_is_interpolated_between_the_rungs():
    (row,) = ladder_rows(ladder(joules=8.0))
    assert row["target"] == pytest.approx(0.25 + 0.9 * (0.95 - 0.25), abs=0.03)
    assert 200 < row["steps_ci"][0] < row["steps"] < row["steps_ci"][1] < 400
    assert row["seconds"] == pytest.approx(0.1 * row["steps"]) and row["joules"] == pytest.approx(2.0 * row["steps"])
    assert len(reach_table(ladder()).rows) == 1


def test_a_target_that_is_not_reached_or_energy_that_is_not_known_is_null():
    short = [r for r in ladder() if not (r["quality"] or {}).get("values", {}).get("acc", 0) > 0.8]
    (row,) = ladder_rows(short)
    assert row["steps"] is None and row["seconds"] is None and "0 of 3 seeds" in row["reason"]
    assert ladder_rows(ladder())[0]["joules"] is None


def test_a_masked_perplexity_stands_in_for_the_primary_metric():
    records = ladder()
    for record in records:
        if record["quality"]:
            steps = next(r["cell"]["steps"] for r in records if r["cell_id"] == record["cell"]["parent"])
            record["quality"] |= {"primary": "perplexity", "direction": {"masked_perplexity": "lower"}, "each": {}}
            record["quality"]["values"] = {"masked_perplexity": 4000.0 / steps}
            record |= {"oracle": None, "baselines": {"unigram": {"perplexity": 90.0}}}
    assert ladder_rows(records) == []
    (row,) = [row for row in learning_rows(records) if row["steps"] == 200]
    assert row["metric"] == "masked_perplexity" and row["gains"]["steps"]["gain"] == pytest.approx(np.log(2))


def test_published_runs_without_a_study_have_no_rows():
    for path in sorted(RESULTS.glob("*/quick/records.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert learning_rows(records) == [] and ladder_rows(records) == []


def test_crossing():
    assert crossing({100: 0.5, 400: 0.9}, 0.7) == pytest.approx(200)
    assert crossing({100: 0.8, 400: 0.9}, 0.7) is None and crossing({100: 0.5, 400: 0.6}, 0.7) is None


def test_a_planted_lack_is_split_against_what_its_control_has():
    records = study(0.5, data=0.2) + [r for s in range(4) for r in run(0.9, data=50_000, seed=s)]
    (row,) = [row for row in learning_rows(records) if row["train_examples"] == 1000]
    assert set(row["missing"]["parts"]) == {"data", "rest"} and row["missing"]["ample"]["data"] == 50_000
    assert row["missing"]["parts"]["data"]["value"] == pytest.approx(0.4, abs=0.03)
    assert learning_rows(study(0.5))[0]["missing"] is None
