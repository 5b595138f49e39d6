"""Planted cases: each builds and steps, leaves the loss as it should, and is stronger where its strength is."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from llmbench.cli.planted import planted_command as planted
from llmbench.planted import cases, plants, targets, truth

#: Plants that leave what a model computes from its first batch as it was.
SAME_LOSS = ("sleep", "items", "tokenize", "mask", "ignored", "adam", "tensors", "checkpoint", "nested")
SAME_LOSS += ("tiny", "python", "asleep", "matmuls")
#: They change the process that they are in.
OF_THE_PROCESS = ("lockstep", "small", "oversized", "workers")


def weakest():
    """One case per plant and host."""
    found = {}
    for case in cases.runnable():
        if case.plant not in OF_THE_PROCESS and case.threads == 1:
            found.setdefault((case.plant, case.host), case)
    return list(found.values())


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def loss_of(case, planted):
    torch.manual_seed(0)
    given = targets.build(case, planted=planted).target()
    batch = next(iter(given["data"]))
    out = given["model"](**batch) if isinstance(batch, dict) else given["model"](*batch)
    return float((out["loss"] if isinstance(out, dict) else out[1] if isinstance(out, tuple) else out).detach())


@pytest.mark.parametrize("case", weakest(), ids=lambda case: case.name)
def test_every_case_builds_and_steps(case):
    workload = targets.build(case, planted=True)
    step = workload.step or truth._ordinary(workload)
    for batch in itertools.islice(workload.data, 2):
        step(batch)


@pytest.mark.parametrize("case", [case for case in weakest() if case.plant in SAME_LOSS], ids=lambda case: case.name)
def test_with_and_without_the_plant_the_loss_is_the_same(case):
    assert loss_of(case, planted=True) == pytest.approx(loss_of(case, planted=False), rel=1e-4)


def test_a_target_is_found_by_its_name_and_has_one_without_the_plant():
    name = cases.runnable()[0].name
    assert set(getattr(targets, name)()) >= {"model", "data"}
    assert isinstance(getattr(targets, name + targets.UNPLANTED)()["data"], list)
    with pytest.raises(AttributeError):
        targets.no_such_case


def test_strengths_are_what_they_say():
    def padding(percent):
        batches = list(plants.mask("encoder", percent, True).data)
        real = sum(float(batch["attention_mask"].sum()) for batch in batches)
        return 1 - real / sum(batch["attention_mask"].numel() for batch in batches)

    assert padding(50) == pytest.approx(0.5, abs=0.05) and padding(85) == pytest.approx(0.85, abs=0.03)
    assert plants.vocabulary("filler", 4000, True).model.head.out_features == 4000
    assert plants.matmuls("mixer", 8, True).model.products == 2 * plants.matmuls("mixer", 8, False).model.products
    assert len(plants.weights("deep", 16, True).model.layers) == 16
    tiny = plants.tiny("mixer", 600, True)
    with torch.profiler.profile() as seen:
        tiny.model(*tiny.data[0])
    assert sum(e.count for e in seen.key_averages() if e.key == "aten::tanh") >= 300


def test_padding_keeps_the_real_tokens():
    for wide, cut in zip(plants.mask("encoder", 70, True).data, plants.mask("encoder", 70, False).data, strict=True):
        real = wide["attention_mask"].bool()
        assert torch.equal(wide["input_ids"][real], cut["input_ids"].flatten())
        assert bool(cut["attention_mask"].all()) and wide["input_ids"].shape[1] > cut["input_ids"].shape[1]


def test_the_list_of_cases_is_printed_and_an_unknown_case_is_an_error():
    out = CliRunner().invoke(planted, ["--list"])
    assert out.exit_code == 0 and len(out.output.splitlines()) == len(cases.every())
    assert "needs a device" in out.output
    assert "no case matches" in str(CliRunner().invoke(planted, ["-k", "nothing-like-it"]).exception)


@pytest.mark.timed
def test_one_case_from_end_to_end_and_again_from_its_file(tmp_path):
    from click import Context

    context, folder = Context(planted), Path(tempfile.mkdtemp(dir=tmp_path))  # another one for each try
    options = {"output": folder, "expression": "bag_sleep_12_1t", "limit": None, "rounds": 2, "seconds": 0.3}
    for _ in range(2):
        context.invoke(planted, **options, budget_s=6.0, only_list=False, as_json=True)
    rows = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    assert len(rows) == 1 and len(rows[0]["planted_s"]) == 2 == len(rows[0]["unplanted_s"])
    assert rows[0]["found"]["verdict_where"] == "input" and rows[0]["found"]["measured_x"] > 1.2
    assert json.loads((folder / "report.json").read_text())["right"] == 1
