"""Whole jobs, in this process: what a record of each stage holds, and that its numbers hang together."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics

import pytest
import torch

from llmbench.contract.job import Job
from llmbench.plugins.discovery import discover
from llmbench.records.json_lines import dump_json
from llmbench.report.cells.trust import residual_pct
from llmbench.suite.file import load_suite
from llmbench.suite.plan import plan_cells
from llmbench.worker.data.features import load_cell_data
from llmbench.worker.job import run_job
from llmbench.worker.scoring import Scorer

SUITE = """name: small
matrix: {model: MODEL, size: tiny, task: TASK, stage: [pretrain, finetune, eval], dataset: synthetic}
defaults: {batch_size: 4, seq_len: 32, target_len: 8, vocab_size: 400, train_examples: 60, test_examples: 12, steps: 3}
repeats: 1
budget: {seconds: 0.2}
verify: none
"""


@pytest.fixture(scope="module", params=["lstm-translation", "bert-qa", "gpt-summarization", "gpt-classification"])
def records(request, tmp_path_factory):
    """The records of the three stages of one model on one task."""
    return records_of(*request.param.split("-"), tmp_path_factory.mktemp(request.param))


def records_of(model, task, folder):
    """Return the records of the three stages of a model on a task."""
    (folder / "small.yaml").write_text(SUITE.replace("MODEL", model).replace("TASK", task))
    suite = load_suite(str(folder / "small.yaml"))
    plan = plan_cells(suite, discover())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for planned in plan.cells:
        job = Job.single(planned.cell, suite.budget, str(folder), sources=plan.sources, corpora=plan.corpora)
        found[planned.cell.stage] = json.loads(dump_json(run_job(job, lambda event: None)))
    torch.set_num_threads(threads)
    return found


def test_every_stage_is_ok_and_measured(records):
    for stage, record in records.items():
        assert record["status"] == "ok", (stage, record["error"])
        steps = len(record["samples"]["step_s"])
        assert steps >= 10
        for name, values in record["samples"].items():
            assert name.startswith("paired_") or len(values) == steps, name
        assert all(value > 0 for value in record["samples"]["step_s"])


def test_the_clean_pass_is_within_its_wall_time(records):
    for record in records.values():
        assert 0 < sum(record["samples"]["step_s"]) <= record["counts"]["timing"]["wall_s"]


@pytest.mark.timed
def test_the_clean_pass_is_all_of_its_wall_time(tmp_path):
    for record in records_of("gpt", "classification", tmp_path).values():
        wall_s = record["counts"]["timing"]["wall_s"]
        assert sum(record["samples"]["step_s"]) == pytest.approx(wall_s, rel=0.02, abs=0.005)


def test_phases_are_of_the_same_batches_as_their_clean_steps(records):
    for stage, record in records.items():
        pairs = len(record["samples"]["paired_step_s"])
        assert {len(seconds) for seconds in record["phases"].values()} == {pairs}
        assert ("backward_s" in record["phases"]) == (stage != "eval")
        assert residual_pct([record])[0] is not None


def test_making_a_batch_is_part_of_the_wait_for_it(records):
    for record in records.values():
        made = [
            a + b for a, b in zip(record["samples"]["step_fetch_s"], record["samples"]["step_collate_s"], strict=True)
        ]
        assert 0 < statistics.median(made) < statistics.median(record["samples"]["step_s"])


def test_counts_agree_with_the_models_own_formula(records):
    for record in records.values():
        counts = record["counts"]
        assert counts["flops"] - counts["recomputed_flops"] == pytest.approx(counts["model_flops"], rel=0.05)
        assert counts["bytes"] > 0 and counts["kernels"] > 0
        assert statistics.fmean(record["samples"]["step_model_flops"]) == pytest.approx(counts["model_flops"])


def test_memory_has_its_parts(records):
    for stage, record in records.items():
        memory = record["memory"]
        assert memory["weights_mib"] == pytest.approx(
            record["counts"]["parameters"] * 4 / 2**20, rel=0.05
        )  # and buffers
        if stage != "eval":
            assert memory["gradients_mib"] == pytest.approx(record["counts"]["parameters"] * 4 / 2**20, rel=0.01)
            assert memory["optimizer_mib"] == pytest.approx(2 * memory["gradients_mib"], rel=0.01)
            assert memory["activations_mib"] > 0


def test_generation_tells_the_first_token_from_the_others(records):
    record = records["eval"]
    if "decode_s" not in record["phases"]:
        pytest.skip("a task that does not generate")
    assert all(seconds > 0 for seconds in record["phases"]["prefill_s"])
    assert len(record["samples"]["paired_decode_steps"]) == len(record["phases"]["decode_s"])
    rows = record["cell"]["batch_size"]
    assert all(rows <= n <= rows * record["cell"]["target_len"] for n in record["samples"]["step_generated_tokens"])


def test_what_was_scored_stands_beside_oracle_and_baselines(records):
    for stage in ("pretrain", "eval"):
        record = records[stage]
        primary = record["quality"]["primary"]
        assert record["baselines"] and record["oracle"]["kind"] == "exact"
        values = record["quality"]["values"]
        assert primary in values or "masked_perplexity" in values
        assert all(math.isfinite(value) for value in values.values())
    assert records["finetune"]["quality"] == {}


def test_oracle_and_baselines_are_scored_once_per_test_split(tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text(SUITE.replace("MODEL", "[lstm, gpt]").replace("TASK", "classification"))
    registry = discover()
    plan = plan_cells(load_suite(str(tmp_path / "small.yaml")), registry)
    cells = [planned.cell for planned in plan.cells if planned.cell.stage == "eval"]
    other = dataclasses.replace(cells[0], test_examples=6)
    scored = []
    for name in ("_oracle", "_baselines"):
        score = getattr(Scorer, name)
        monkeypatch.setattr(Scorer, name, lambda self, score=score: scored.append(self.split) or score(self))
    found = []
    for cell in (*cells, other):
        job = Job.single(cell, plan.suite.budget, str(tmp_path), sources=plan.sources, corpora=plan.corpora)
        scorer = Scorer(job, load_cell_data(job, registry), registry)
        found.append(json.loads(dump_json([scorer.oracle(), scorer.baselines()])))
    assert len(cells) == 2 and found[0] == found[1] != found[2]
    assert len(scored) == 4 and len(set(scored)) == 2  # one split of 12 examples, one of 6
    assert len(found[0][0]["each"]["accuracy"]) == 12
    monkeypatch.setattr(type(registry), "metrics", lambda self, task: [])
    assert Scorer(job, load_cell_data(job, registry), registry).split not in scored  # by other metrics: scored again


def test_health_and_energy_say_what_is_not_known(records):
    for record in records.values():
        assert record["health"]["wall_s"] > 0
        assert record["energy"]["joules"] is not None or record["energy"]["reason"]
        assert set(record["spent"]) >= {"measure_s"} and sum(record["spent"].values()) > 0


def test_a_precision_is_found_unsupported_by_trying_it_and_only_where_fp32_runs(tmp_path, monkeypatch):
    """The step is made to fail as a missing kernel does; what fails in fp32 too stays an error."""
    from llmbench import Unsupported
    from llmbench.worker.measuring import loops

    text = (
        SUITE.replace("MODEL", "gpt")
        .replace("TASK", "classification")
        .replace("[pretrain, finetune, eval]", "finetune")
    )
    (tmp_path / "small.yaml").write_text(text)
    suite = load_suite(str(tmp_path / "small.yaml"), ["precision=fp16"])
    plan = plan_cells(suite, discover())
    assert plan.cells[0].obstacle is None  # nobody says beforehand that a CPU has no float16
    job = Job.single(plan.cells[0].cell, suite.budget, str(tmp_path), sources=plan.sources, corpora=plan.corpora)
    real = loops.train_step

    def no_kernel(engine, batch):
        if engine.precision.name in failing:
            raise RuntimeError("could not create a primitive descriptor")
        return real(engine, batch)

    monkeypatch.setattr(loops, "train_step", no_kernel)
    failing = {"fp16"}
    with pytest.raises(Unsupported, match="gpt does not run in fp16 on cpu: RuntimeError: could not create"):
        run_job(job, lambda event: None)
    failing = {"fp16", "fp32"}
    with pytest.raises(RuntimeError, match="primitive"):
        run_job(job, lambda event: None)


def test_a_study_scores_its_training_and_traces_every_repeat(tmp_path):
    text = (
        SUITE.replace("MODEL", "gpt")
        .replace("TASK", "classification")
        .replace("[pretrain, finetune, eval]", "finetune")
    )
    (tmp_path / "small.yaml").write_text(text.replace("size: tiny", "size: 'tiny:layers=1*0.25'"))
    plan = plan_cells(load_suite(str(tmp_path / "small.yaml")), discover())

    def run(**options):
        job = Job.single(
            plan.cells[0].cell, plan.suite.budget, str(tmp_path), sources=plan.sources, corpora=plan.corpora, **options
        )
        return run_job(job, lambda event: None)

    scored = run(score=True)
    assert scored["training"]["examples"] == 60
    right = scored["quality"]["each"]["accuracy"]
    assert len(right) == 12 and sum(right) / 12 == pytest.approx(scored["quality"]["values"]["accuracy"])
    assert len(scored["oracle"]["each"]["accuracy"]) == 12
    quick = run(score=False, trace="none")
    assert quick["training"] and not quick["quality"] and quick["operators"] is None and quick["phases"]["forward_s"]
    again = run(repeat=1, trace="all")
    assert again["operators"]["times"] and not again["quality"]
    assert run(repeat=1)["operators"] is None
