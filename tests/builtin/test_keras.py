"""Keras on each backend that is installed, against the same model in torch. Each backend has a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
from support.limits import HANG_S
from support.paths import SUPPORT

import llmbench
from llmbench import conformance
from llmbench.plugins.discovery import discover

CASES = SUPPORT / "keras_cases.py"
slow = pytest.mark.slow
BACKENDS = {"keras-lstm": "tensorflow", "keras-lstm-torch": "torch", "keras-lstm-jax": "jax"}


def lacks(backend: str) -> str | None:
    missing = [name for name in ("keras", backend) if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed (pip install 'llmbench[keras]')" if missing else None


@pytest.fixture(scope="module", params=list(BACKENDS))
def found(request):
    if reason := lacks(BACKENDS[request.param]):
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, str(CASES), request.param], capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.split("FOUND ")[1])


@slow
@pytest.mark.parametrize("case", ["classify", "decayed", "pretrain"])
def test_from_equal_weights_both_frameworks_train_alike(found, case):
    """Every step of twelve: layers, loss, clipping, schedule, Adam and weight decay are the same.

    Adam divides small gradients by their size, so that rounding grows from step to step.
    """
    one = found[case]
    assert one["losses"][:2] == pytest.approx(one["twin"][:2], rel=2e-4)
    assert one["losses"] == pytest.approx(one["twin"], rel=1e-2)
    assert one["losses"][-1] < 0.99 * one["losses"][0]


@slow
@pytest.mark.parametrize(
    ("kind", "name", "check", "status"),
    [
        ("model", "keras-lstm-torch", "flops", "does not apply"),  # its backend's operators are not counted
        ("cause", "recurrence", "restores", conformance.PASSED),  # a host of it is a model of Keras
    ],
)
def test_the_conformance_kit_knows_that_not_every_model_is_one_of_torch(kind, name, check, status):
    if reason := lacks("torch"):
        pytest.skip(reason)
    (verdict,) = conformance.check(name, kind=kind, only=[check], limit_s=HANG_S)
    assert verdict.status == status, verdict


@slow
def test_both_predict_alike(found):
    assert found["classify"]["predictions"] == found["classify"]["twin_predictions"]
    for one, other in zip(found["pretrain"]["predictions"], found["pretrain"]["twin_predictions"], strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["nll"] == pytest.approx(other["nll"], rel=5e-3)


@slow
def test_it_has_the_parameters_that_its_formula_says(found):
    for part in ("parts", "pretrain_parts"):
        assert found[part]["parameters"] == found[part]["formula"]
    registry = discover()
    for name in BACKENDS:
        assert registry.get("model", name).parameters is registry.get("model", "torch-lstm").parameters


@slow
def test_flops_are_those_of_the_formula(found):
    """One more step of the recurrence stands in Keras's graph, for the state's shape; it is not run, nor counted."""
    for part in ("parts", "pretrain_parts"):
        counted = found[part]["flops"]
        if counted is None:
            assert found[part]["notes"]
            continue
        assert counted == pytest.approx(found[part]["model_flops"], rel=0.01)
        assert found[part]["by_phase"]["backward"] == pytest.approx(2 * found[part]["model_flops"] / 3, rel=0.01)


@slow
def test_phases_are_of_a_whole_step(found):
    phases = found["parts"]["phases"]
    assert list(phases) == ["input_s", "copy_s", "forward_s", "backward_s", "optimizer_s"]
    assert phases["forward_s"] > 0 and phases["backward_s"] > 0


@slow
def test_the_update_can_be_left_out_and_a_trial_learns_nothing(found):
    assert found["parts"]["frozen"] and found["parts"]["at_rate_0"]


@slow
def test_without_recurrence_all_tokens_are_one_product_and_then_it_is_as_it_was(found):
    before, after = found["parts"]["one_by_one"]
    assert before == after
    if found["parts"]["flops"] is not None:
        assert found["parts"]["at_once"] < 15 < before


@slow
def test_memory_that_is_not_known_is_null_with_the_reason(found):
    memory = found["parts"]["memory"]
    assert memory["weights_mib"] > 0 and memory["optimizer_mib"] > 1.9 * memory["gradients_mib"]
    assert memory["activations_mib"] is None and memory["parts_reason"]


@slow
def test_fine_tuning_takes_embedding_and_recurrence(found):
    cell = [f"lstm/lstm_cell/{name}" for name in ("bias", "kernel", "recurrent_kernel")]
    assert found["taken"] == ["embedding/embeddings", *cell]


@slow
def test_a_seed_fixes_everything(found):
    first, second = found["repeated"]
    assert first == pytest.approx(second, rel=1e-5)


@slow
def test_what_it_does_not_do_is_said(found):
    assert len(found["refused"]) == 4
    assert all(line.startswith("the engine keras") for line in found["refused"])


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    spec = discover().get("engine", "keras")
    request = llmbench.EngineRequest("cpu", llmbench.PrecisionSpec("fp32"))
    with pytest.raises(llmbench.Unsupported, match=r"lacks tensorflow: pip install 'llmbench\[keras\]'"):
        spec.open(request)


def test_finding_the_plugins_imports_no_keras():
    code = "import sys; from llmbench.plugins.discovery import discover; discover(); print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=True)
    assert done.stdout.strip() == "False"
