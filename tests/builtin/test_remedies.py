"""The built-in remedies: what each changes, what it predicts, and that its option does the same work faster."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from support.records import record

import llmbench
from llmbench.contract.cell import Cell, id_of_cell
from llmbench.contract.job import Job
from llmbench.plugins.discovery import discover
from llmbench.worker.data.features import OnTheFly
from llmbench.worker.measuring.loops import train_step
from llmbench.worker.torch_engine.engine import OPTIMIZERS, TorchEngine
from llmbench.worker.torch_engine.loader import split_rows
from llmbench.worker.verification.cell_trial import causes

torch.set_num_threads(1)
REGISTRY = discover()
REMEDIES = {name: REGISTRY.get("remedy", name) for name in REGISTRY.names("remedy")}
MODELS = ("lstm", "bert", "gpt", "llama")
V, SEQ, TARGET, SPECIAL = 60, 20, 8, llmbench.SpecialTokens()
#: A cell for which each remedy has something to do.
PLAIN = Cell(
    "m", "tiny", "t", "made@1", "finetune", attention="eager", optimizer="adamw-loop", bucketing=False, pin_memory=False
)
PLAIN = dataclasses.replace(PLAIN, learning_rate=1e-3, pretokenized=False, checkpointing=True, accumulation=2)
CHANGES = {
    "batch-2x": {"batch_size": 32, "steps": 100, "learning_rate": 0.00141421},
    "batch-4x": {"batch_size": 64, "steps": 50, "learning_rate": 0.002},
    "whole-batch": {"accumulation": 1},
    "bf16": {"precision": "bf16"},
    "compile": {"compile": True},
    "cuda-graphs": {"compile": True, "cuda_graphs": True},
    "sdpa": {"attention": "sdpa"},
    "fused-optimizer": {"optimizer": "adamw"},
    "foreach-optimizer": {"optimizer": "adamw-foreach"},
    "pretokenized": {"pretokenized": True},
    "one-worker": {"workers": 1},
    "pinned": {"pin_memory": True},
    "bucketing": {"bucketing": True},
    "labelled-logits": {"labelled_logits": True},
    "kv-cache": {"kv_cache": True},
    "no-checkpointing": {"checkpointing": False},
    "one-thread": {"threads": 1},
    "keep-memory": {"keep_memory": True},
}


@pytest.mark.parametrize("name", sorted(REMEDIES))
def test_a_remedy_changes_its_options_and_nothing_else_and_only_once(name):
    plain = dataclasses.replace(PLAIN, stage="eval", kv_cache=False) if name == "kv-cache" else PLAIN
    changed = REMEDIES[name].change(plain)
    before = plain.to_json()
    assert {k: v for k, v in changed.to_json().items() if v != before[k]} == CHANGES[name]
    assert set(REMEDIES[name].answers) <= set(REGISTRY.names("cause"))
    if not name.startswith("batch-"):
        with pytest.raises(llmbench.DoesNotApply):
            REMEDIES[name].change(changed)


def test_a_larger_batch_keeps_the_examples_and_does_not_leave_too_few_steps():
    cell = dataclasses.replace(PLAIN, steps=200)
    larger = REMEDIES["batch-4x"].change(cell)
    assert larger.batch_size * larger.steps == cell.batch_size * cell.steps
    with pytest.raises(llmbench.DoesNotApply):
        REMEDIES["batch-4x"].change(dataclasses.replace(cell, steps=40))


def test_one_thread_is_not_tried_where_there_is_no_other():
    made = {"cell": PLAIN.to_json()}
    with pytest.raises(llmbench.DoesNotApply, match="one thread"):
        REMEDIES["one-thread"].predict(made, {"threads": 1})
    assert REMEDIES["one-thread"].predict(made, {"threads": 2}).gain_x is None
    two = {"cell": dataclasses.replace(PLAIN, threads=2).to_json()}
    assert REMEDIES["one-thread"].predict(two, {"threads": 1}).gain_x is None


def test_memory_is_kept_only_where_it_is_given_back():
    health = {"minor_faults": 20 * 1000, "own_system_s": 20 * 0.02}
    made = record(step_s=[0.1] * 20, health=health)
    found = REMEDIES["keep-memory"].predict(made, {})
    assert found.gain_x == pytest.approx(0.1 / 0.08) and "1,000 pages, 3.9 MiB" in found.reason
    with pytest.raises(llmbench.DoesNotApply, match="10 page faults a step"):
        REMEDIES["keep-memory"].predict(made | {"health": {**health, "minor_faults": 200}}, {})
    assert REMEDIES["keep-memory"].predict(made | {"health": {}}, {}).gain_x is None


def forecast(name, made, ceilings=None):
    return REMEDIES[name].predict(made, ceilings or {})


def test_predictions_are_what_the_record_says():
    vocabulary = {"facts": {"part_s": [0.05]}, "predicted_x": 1.9}
    kernel = {"facts": {"two_s": [0.2], "merged_s": [0.16]}}
    padding = {"clean_s": [0.2, 0.2], "treated_s": [0.1, 0.1], "share": 1.0, "predicted_x": 1.5}
    counts = {"labelled_share": 0.2, "padding_tokens": 10.0, "parameters": 1e6, "flops": 4e9}
    phases = {"input_s": [0.01], "forward_s": [0.04], "backward_s": [0.03], "optimizer_s": [0.02]}
    made = record(phases=phases, counts=counts, interventions={"vocabulary": vocabulary, "kernel": kernel})
    made["interventions"]["padding"] = padding
    made["samples"]["step_fetch_s"] = [0.005]
    assert forecast("labelled-logits", made).gain_x == pytest.approx(0.1 / (0.1 - 0.04))
    assert forecast("batch-4x", made).gain_x == pytest.approx(0.1 / (0.1 - 0.06 * 0.75))  # 0.02 and 0.04 per step
    assert forecast("bucketing", made).gain_x == pytest.approx(2.0)  # measured, where it was
    assert forecast("one-worker", made).gain_x == pytest.approx(0.1 / 0.09)
    assert forecast("pretokenized", made).gain_x == pytest.approx(0.1 / 0.095)
    levels = [{"level": "memory", "copy_bytes_per_s": {"value": 2.8e9}}]
    slow = {"memory_levels": levels, "matmul": {"fp32": {"value": 1e11}, "bf16": {"value": 4e11}}}
    assert forecast("fused-optimizer", made, slow).gain_x == pytest.approx(0.1 / (0.1 - 0.02 + 0.01))
    made["interventions"]["optimizer"] = {"facts": {"part_s": [0.03]}, "predicted_x": 1.4}
    assert forecast("fused-optimizer", made, slow).gain_x == pytest.approx(0.1 / (0.1 - 0.03 + 0.01))
    assert forecast("foreach-optimizer", made, slow).gain_x == 1.0  # on the CPU
    assert forecast("bf16", made, slow).gain_x == pytest.approx(0.1 / (0.1 - 0.04 + 0.01))


@pytest.mark.parametrize("name", sorted(set(REMEDIES) - {"foreach-optimizer"}))
def test_what_is_not_known_is_not_predicted(name):
    found = None
    try:
        found = forecast(name, record(phases={}, counts={}))
    except llmbench.DoesNotApply as reason:
        assert str(reason)
    assert found is None or (found.gain_x is None and found.reason)


# --- the options do the same work -----------------------------------------------------------------------


def spec_of(model):
    return REGISTRY.get("model", model)


def engine_of(model, head, optimizer="adamw", request=(), **options):
    spec = spec_of(model)
    engine = TorchEngine(device="cpu", precision=llmbench.PrecisionSpec("fp32"), **options)
    build = llmbench.BuildRequest(head, "tiny", spec.sizes["tiny"], V, SPECIAL, SEQ, TARGET, num_labels=3)
    engine.build(spec, dataclasses.replace(build, **dict(request)), seed=0)
    engine.prepare_training(learning_rate=1e-2, steps=10, optimizer=optimizer)
    return engine


def batch_of(model, head, train=True, lengths=(9, 5, 12, 7)):
    rng, rows = np.random.default_rng(0), []
    for i, n in enumerate(lengths):
        ids = rng.integers(6, V, n).tolist()
        row = {"classify": {"ids": ids, "label": i % 3}, "pretrain": {"ids": [SPECIAL.bos, *ids]}}
        rows.append({**row, "generate": {"source": ids, "target": ids[:3]}}[head])
    return spec_of(model).layouts[head].collate(rows, llmbench.CollateContext(SPECIAL, SEQ, TARGET, V, train))


def gradients(engine, batch):
    """Gradients of one step and its loss, as the optimizer sees them before it clips them."""
    loss = 0.0
    for arrays, share in engine.parts(engine.copy(batch)):
        part = engine.forward(arrays) * share
        engine.backward(part)
        loss += float(part.detach())
    return loss, {name: p.grad.clone() for name, p in engine.module.named_parameters() if p.grad is not None}


def assert_alike(a, b, scale=1e-5):
    assert a[0] == pytest.approx(b[0], rel=1e-5)
    assert a[1].keys() == b[1].keys()
    for name, gradient in a[1].items():
        torch.testing.assert_close(gradient, b[1][name], atol=scale, rtol=1e-3, msg=name)


@pytest.mark.parametrize("head", ["pretrain", "generate"])
@pytest.mark.parametrize("model", MODELS)
def test_logits_only_at_labels_give_the_same_loss_and_gradients(model, head):
    batch = batch_of(model, head)
    whole, few = (engine_of(model, head, request={"labelled_logits": v}) for v in (False, True))
    assert_alike(gradients(whole, batch), gradients(few, batch))
    projected = []
    few.module.lm_head.register_forward_hook(lambda _m, inputs, _out: projected.append(inputs[0].shape[0]))
    few.forward(few.copy(batch))
    labels = int((batch.arrays["labels"] != -100).sum())
    marks = len(batch.arrays["labels"]) if head == "pretrain" and model != "bert" else 0
    assert {"labelled_logits", "kv_cache"} <= set(spec_of(model).options)
    assert projected and set(projected) == {labels - marks}


@pytest.mark.parametrize("model", MODELS)
def test_logits_only_at_labels_without_any_label(model):
    engine = engine_of(model, "pretrain", request={"labelled_logits": True})
    arrays = engine.copy(batch_of(model, "pretrain"))
    arrays["labels"] = torch.full_like(arrays["labels"], -100)
    loss = engine.forward(arrays)
    engine.backward(loss)
    assert float(loss.detach()) == 0


@pytest.mark.parametrize("model", MODELS)
def test_generation_without_a_cache_says_the_same(model):
    batch = batch_of(model, "generate", train=False)
    cached, again = (engine_of(model, "generate", request={"kv_cache": v}) for v in (True, False))
    for engine in (cached, again):
        with torch.no_grad():
            for p in engine.module.parameters():
                p.mul_(4)  # decided answers: no ties that rounding could turn
    made = [engine.predict(engine.copy(batch), max_new_tokens=TARGET) for engine in (cached, again)]
    assert made[0] == made[1] and len({len(row) for row in made[0]} | {0}) > 1


@pytest.mark.parametrize(("model", "head"), [("bert", "pretrain"), ("gpt", "generate"), ("lstm", "classify")])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(model, head):
    batch = batch_of(model, head, lengths=(9, 5, 12, 7, 3))
    whole, parts = engine_of(model, head), engine_of(model, head, accumulation=2)
    assert len(parts.parts(parts.copy(batch))) == 2
    assert_alike(gradients(whole, batch), gradients(parts, batch))
    for engine in (whole, parts):
        engine.optimizer.zero_grad()
    assert float(train_step(whole, batch)) == pytest.approx(float(train_step(parts, batch)), rel=1e-5)


def test_parts_have_the_share_of_their_labels():
    labels = torch.tensor([[1, -100], [-100, -100], [1, 1]])
    found = split_rows({"labels": labels, "x": torch.arange(3)}, 2)
    assert [share for _, share in found] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert [part["x"].tolist() for part, _ in found] == [[0, 1], [2]]


def test_checkpointing_gives_the_same_gradients_and_is_refused_where_nothing_can():
    batch = batch_of("bert", "pretrain")
    plain, again = engine_of("bert", "pretrain"), engine_of("bert", "pretrain", checkpointing=True)
    runs = []
    layer = again.module.body.encoder.layer[0].intermediate
    layer.register_forward_hook(lambda *_: runs.append(1))
    assert_alike(gradients(plain, batch), gradients(again, batch))
    assert len(runs) == 2  # once more in the backward pass
    with pytest.raises(llmbench.Unsupported, match="checkpointing"):
        engine_of("lstm", "classify", checkpointing=True)


def test_all_optimizers_make_the_same_updates():
    batch, ends = batch_of("lstm", "classify"), {}
    for name in OPTIMIZERS:
        engine = engine_of("lstm", "classify", optimizer=name)
        for _ in range(3):
            train_step(engine, batch)
        ends[name] = copy.deepcopy(engine.module.state_dict())
    undecayed = ends.pop("adam")  # the same, but for the weight decay: every matrix is larger
    for key, value in undecayed.items():
        assert value.ndim < 2 or value.norm() > ends["adamw"][key].norm(), key
    for name, state in ends.items():
        for key, value in state.items():
            torch.testing.assert_close(value, ends["adamw"][key], atol=1e-5, rtol=1e-4, msg=f"{name} {key}")
    with pytest.raises(llmbench.SuiteError, match="adamw-loop"):
        engine_of("bert", "classify", optimizer="sgd")


def test_tokens_on_the_fly_are_those_made_before():
    task = REGISTRY.get("task", "classification")
    request = llmbench.DataRequest(task, "")
    dataset = REGISTRY.get("dataset", "synthetic").load(request)

    class Letters:
        special, vocab_size = SPECIAL, 300

        def encode_batch(self, texts):
            return [[6 + ord(c) % 200 for c in text] for text in texts]

        def encode(self, text):
            return self.encode_batch([text])[0]

    ctx = llmbench.EncodeContext(Letters(), SEQ, TARGET, dataset.info, True)
    examples = list(dataset.train[:20])
    lazily = OnTheFly(task, examples, ctx)
    assert [lazily[np.int64(i)] for i in range(20)] == list(task.encode(examples, ctx)) and len(lazily) == 20
    blocks = OnTheFly(REGISTRY.get("task", "pretraining"), [{"text": "a b c " * 40}], ctx)
    with pytest.raises(llmbench.Unsupported, match="pretokenized"):
        blocks[0]


def test_cuda_graphs_are_refused_on_the_cpu_and_threads_are_set():
    with pytest.raises(llmbench.Unsupported, match="CUDA"):
        engine_of("bert", "classify", cuda_graphs=True)
    before = torch.get_num_threads()
    engine_of("bert", "classify", threads=2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_the_advice_of_a_cause_names_the_remedies_that_answer_it():
    advice = {cause.name: cause.advice for cause in causes(REGISTRY, "cpu")}
    assert advice["vocabulary"].endswith("; remedies: labelled-logits")
    assert (
        "compile" in advice["host"]
        and "cuda-graphs" not in advice["host"]
        and "remedies" not in advice["communication"]
    )
    assert "cuda-graphs" in {cause.name: cause.advice for cause in causes(REGISTRY, "cuda")}["host"]


def test_ids_of_cells_from_before_these_options_are_what_they_were():
    old = Cell("m", "tiny", "t", "made@1", "finetune")
    fields = {"batch_size": 8, "steps": 7, "learning_rate": 0.1, "parent": "p"}
    pretrained = Cell("bert", "tiny", "pretraining", "synthetic@x", "pretrain", **fields)
    assert (old.cell_id, pretrained.cell_id) == ("9decba9f0d25", "c98017a8363c")
    changed = [REMEDIES[n].change(PLAIN).cell_id for n in REMEDIES if n not in ("kv-cache",)]
    assert len(set(changed)) == len(changed) and PLAIN.cell_id not in changed
    assert Cell.from_json(PLAIN.to_json()) == PLAIN
    assert id_of_cell(old.to_json()) == old.cell_id and id_of_cell(PLAIN.to_json()) == PLAIN.cell_id
    assert Job.from_json(Job.single(PLAIN).to_json()).cell == PLAIN
