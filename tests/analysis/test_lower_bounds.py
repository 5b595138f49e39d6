"""What a plan says before anything runs, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from llmbench.analysis.lower_bounds import full_shapes, longest_feature, predict, predictions, total_s
from llmbench.contract import ceilings
from llmbench.contract.cell import Budget, Cell
from llmbench.contract.files import write_atomic
from llmbench.contract.specs import HEADS, ModelSpec
from llmbench.execution.calibration import latest
from llmbench.plugins.discovery import discover
from llmbench.records.json_lines import dump_json
from llmbench.suite.file import load_suite
from llmbench.suite.plan import plan_cells

PEAK, BANDWIDTH = 1e9, 1e8
DOC = {
    "device": "cpu",
    "matmul": {"fp32": {"value": PEAK, "low": PEAK, "high": PEAK}, "bf16": None},
    "memory_levels": [{"level": "dram", "capacity_bytes": None, "triad_bytes_per_s": BANDWIDTH}],
    "precisions": {"fp32": "fp32", "bf16": "bf16"},
}
CELL = Cell("m", "s", "t", "d", "finetune", batch_size=4, seq_len=10, steps=20)
BUDGET = Budget(seconds=3.0, verify_seconds=5.0)


@pytest.fixture(scope="module")
def registry():
    return discover()


def model(registry, **changes):
    """A model with 1000 parameters that needs 50 FLOPs per position."""
    fields = {"flops": lambda request, shapes: 50.0 * shapes["input_ids"][0] * shapes["input_ids"][1]}
    fields |= {"parameters": lambda request: 1000, **changes}
    layouts = registry.get("model", "gpt").layouts
    return ModelSpec("m", {"s": {}}, layouts, build=lambda request: None, **fields)


def foresee(registry, cell=CELL, doc=DOC, precision="fp32", verified=False, **changes):
    spec = registry.get("precision", precision)
    return predict(cell, "classify", model(registry, **changes), spec, BUDGET, doc, verified=verified)


def test_a_training_step_is_three_forward_passes_and_the_update(registry):
    found = foresee(registry)
    assert found.step_s == pytest.approx(3 * 50 * 4 * 10 / PEAK + 1000 * 4 * 10 / BANDWIDTH)
    assert found.seconds == pytest.approx(2 * 3.0 + 20 * found.step_s)
    assert foresee(registry, verified=True).seconds == pytest.approx(found.seconds + 5.0)
    assert found.memory_mib == pytest.approx(1000 * 4 * 4 / 2**20) and found.reasons == {}
    assert total_s([found, found]) == pytest.approx(2 * found.seconds)


def test_evaluation_is_the_forward_pass_and_keeps_weights_only(registry):
    found = foresee(registry, dataclasses.replace(CELL, stage="eval", steps=0))
    assert found.step_s == pytest.approx(50 * 4 * 10 / PEAK) and found.seconds == 6.0
    assert found.memory_mib == pytest.approx(1000 * 4 / 2**20)


@pytest.mark.parametrize(
    ("changes", "unknown", "why"),
    [
        ({"doc": None}, {"step_s", "seconds"}, "calibrate"),
        ({"flops": None}, {"step_s", "seconds"}, "FLOPs"),
        ({"parameters": None}, {"parameters", "memory_mib", "step_s", "seconds"}, "parameters"),
        ({"cell": dataclasses.replace(CELL, precision="bf16")}, {"step_s", "seconds"}, "bf16"),
        ({"doc": {**DOC, "memory_levels": []}}, {"step_s", "seconds"}, "bandwidth"),
    ],
)
def test_what_is_not_known_is_null_with_the_reason(registry, changes, unknown, why):
    found = foresee(registry, **changes)
    assert {name for name, value in vars(found).items() if value is None} == unknown == set(found.reasons)
    assert all(why in reason for reason in found.reasons.values())
    assert total_s([found, foresee(registry)]) is None


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["lstm", "bert", "gpt"])
def test_sequences_are_as_long_as_the_cell_allows(registry, name, head):
    spec = registry.get("model", name)
    shapes = full_shapes(dataclasses.replace(CELL, seq_len=30, target_len=7), head, spec)
    length = 30 + 7 if (name, head) == ("gpt", "generate") else 20 if (name, head) == ("lstm", "span") else 30
    assert shapes["input_ids"] == (4, length)
    assert spec.layouts[head].length(longest_feature(head, 30, 7)) >= 30


def test_a_plan_is_predicted_from_the_ceilings_that_were_kept_last(registry, tmp_path):
    variables = {"LLMBENCH_CACHE": str(tmp_path)}
    assert latest("cpu", variables) is None
    for day, peak in ((1, 1e9), (2, 1e10)):
        kept = {**DOC, "matmul": {"fp32": {"value": peak, "low": peak, "high": peak}}}
        kept["measured_at"] = datetime.datetime(2026, 1, day, tzinfo=datetime.UTC).isoformat()
        kept["ceilings_id"] = ceilings.ceilings_id(kept)
        write_atomic(tmp_path / "ceilings" / f"{day}-cpu.json", dump_json(kept))
    doc = latest("cpu", variables)
    assert doc["matmul"]["fp32"]["value"] == 1e10 and latest("cuda:0", variables) is None
    plan = plan_cells(load_suite("quick"), registry)
    found = predictions(plan, registry, {"cpu": doc})
    assert len(found) == len(plan.cells) and all(one.step_s and one.memory_mib for one in found.values())
