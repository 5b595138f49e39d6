"""What tests of the Keras engines ask of one backend, in a process of its own: prints JSON. `keras_cases.py MODEL`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import llmbench
from llmbench.plugins.discovery import discover
from llmbench.worker.measuring import loops
from llmbench.worker.measuring.step_kinds import Training

V, C, STEPS = 300, 4, 12
SPECIAL = llmbench.SpecialTokens()
REGISTRY = discover()
FP32 = llmbench.PrecisionSpec("fp32")
#: The twin's names of weights, and how each becomes Keras's.
NAMES = {
    "embedding.weight": ("embedding/embeddings", False),
    "lstm.weight_ih_l0": ("lstm/lstm_cell/kernel", True),
    "lstm.weight_hh_l0": ("lstm/lstm_cell/recurrent_kernel", True),
    "lstm.bias_ih_l0": ("lstm/lstm_cell/bias", False),
    "HEAD.weight": ("HEAD/kernel", True),
    "HEAD.bias": ("HEAD/bias", False),
}


def request(model, head):
    return llmbench.BuildRequest(
        head=head,
        size="tiny",
        config=model.sizes["tiny"],
        vocab_size=V,
        special=SPECIAL,
        seq_len=32,
        target_len=8,
        num_labels=C,
    )


def features(head, count=96):
    rng = np.random.default_rng(0)
    rows = [rng.integers(6, V, int(rng.integers(5, 28))).tolist() for _ in range(count)]
    return [{"ids": ids, "label": ids[0] % C} for ids in rows]


def started(name, head, optimizer="adam"):
    model = REGISTRY.get("model", name)
    engine = REGISTRY.get("engine", model.engine).open(llmbench.EngineRequest("cpu", FP32, threads=1))
    engine.build(model, request(model, head), seed=3)
    engine.prepare_training(learning_rate=1e-2, steps=STEPS, optimizer=optimizer)
    return model, engine


def batches(engine, model, head, train=True):
    ctx = llmbench.CollateContext(SPECIAL, 32, 8, V, train)
    order = [list(range(i % 3 * 8, i % 3 * 8 + 8)) for i in range(STEPS)]
    return engine.batches(features(head), order, model.layouts[head], ctx, 0)


def losses(engine, model, head):
    return [engine.loss_value(loops.train_step(engine, batch)) for batch in batches(engine, model, head)]


def side_by_side(name, head, optimizer):
    """Losses of both, from the twin's first weights, and predictions at the end."""
    from safetensors.numpy import load_file, save_file

    model, engine = started(name, head, optimizer)
    twin_model, twin = started("torch-lstm", head, optimizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        twin.save(path)
        state = {}
        for key, value in load_file(str(path)).items():
            to, turned = NAMES[key.replace(head, "HEAD")]
            state[to.replace("HEAD", head)] = np.ascontiguousarray(value.T if turned else value)
        save_file(state, str(path))
        engine.load(path, strict=True)
    found = {"losses": losses(engine, model, head), "twin": losses(twin, twin_model, head)}
    for key, one, spec in (("predictions", engine, model), ("twin_predictions", twin, twin_model)):
        batch = next(batches(one, spec, head, head == "pretrain"))
        found[key] = one.predict(one.copy(batch), max_new_tokens=1)
    return found


def parts(name, head):
    """Phases, counts, and whether steps without an update change anything."""
    model, engine = started(name, head)
    feed = batches(engine, model, head)
    work = Training(model, request(model, head))
    marked = [work.take_marked(engine, feed) for _ in range(3)][-1]
    batch = next(feed)
    shapes = {key: array.shape for key, array in batch.arrays.items()}
    trial = engine.trial(plain(engine, work))
    before = weights(engine)
    with trial.without_update():
        work.step(engine, batch)
    frozen = same(before, weights(engine))
    work.step(engine, batch)
    at_rate_0 = same(before, weights(engine))
    trace = engine.trace(batch, train=True, max_new_tokens=1)
    with trial.without_recurrence():
        work.step(engine, batch)
        at_once = engine.trace(batch, train=True, max_new_tokens=1)
    after = engine.trace(batch, train=True, max_new_tokens=1)
    by_phase = {}
    for row in trace["rows"]:
        by_phase[row["phase"]] = by_phase.get(row["phase"], 0) + row["flops"]
    return {
        "phases": marked.phases(engine.seconds_between(marked.marks)),
        "frozen": frozen,
        "at_rate_0": at_rate_0,
        "flops": trace["totals"]["flops"],
        "by_phase": by_phase,
        "at_once": calls(at_once),
        "one_by_one": [calls(trace), calls(after)],
        "notes": trace["notes"],
        "model_flops": 3 * model.flops(request(model, head), shapes),
        "parameters": engine.parameters(),
        "formula": model.parameters(request(model, head)),
        "memory": engine.memory_parts(batch, train=True),
    }


def calls(trace):
    """How many matrix products a step has."""
    return sum(row["calls"] for row in trace["rows"] if row["operator_class"] == "matmul")


def plain(engine, work):
    return llmbench.StepTrial(None, None, "cpu", True, False, [], lambda batch: None, list, engine.mark, list)


def weights(engine):
    with tempfile.TemporaryDirectory() as folder:
        from safetensors.numpy import load_file

        engine.save(Path(folder) / "w")
        return load_file(str(Path(folder) / "w"))


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def from_pretraining(name):
    """Which weights a classifier takes of a language model's."""
    _, engine = started(name, "pretrain")
    with tempfile.TemporaryDirectory() as folder:
        engine.save(Path(folder) / "w")
        model = REGISTRY.get("model", name)
        engine.build(model, request(model, "classify"), seed=4)
        return sorted(engine.load(Path(folder) / "w", strict=False))


def repeated(name):
    """Two trainings from one seed."""
    runs = []
    for _ in range(2):
        model, engine = started(name, "classify")
        runs.append(losses(engine, model, "classify"))
    return runs


def refused(name):
    """What the engine says of what it does not do."""
    spec = REGISTRY.get("engine", REGISTRY.get("model", name).engine)
    said = []
    for options in (
        {"device": "cuda"},
        {"precision": llmbench.PrecisionSpec("bf16", autocast="bfloat16")},
        {"compiled": True},
        {"accumulation": 2},
    ):
        try:
            spec.open(llmbench.EngineRequest(**{"device": "cpu", "precision": FP32, **options}))
        except llmbench.Unsupported as error:
            said.append(str(error))
    return said


if __name__ == "__main__":
    name = sys.argv[1]
    found = {
        "refused": refused(name),
        "classify": side_by_side(name, "classify", "adam"),
        "decayed": side_by_side(name, "classify", "adamw"),
        "pretrain": side_by_side(name, "pretrain", "adam"),
        "parts": parts(name, "classify"),
        "pretrain_parts": parts(name, "pretrain"),
        "taken": from_pretraining(name),
        "repeated": repeated(name),
    }
    print("FOUND", json.dumps(found))
