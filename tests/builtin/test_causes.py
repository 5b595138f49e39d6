"""The built-in causes: what each removes, and that it leaves the rest alone. By a clock that tests turn."""

from __future__ import annotations

import ast
import contextlib
import statistics
import time
from pathlib import Path

import pytest
import torch
from support import plain_models as plain
from support.clocks import Clock
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import llmbench
from llmbench.plugins.discovery import discover
from llmbench.worker.diagnosis.restore import Snapshot
from llmbench.worker.diagnosis.user_engine import UserEngine
from llmbench.worker.diagnosis.user_step import UserStep, user_trial, watch_step
from llmbench_plugins.causes import _core, _operators, kernel, recurrence, vocabulary

torch.set_num_threads(1)  # small tensors, and other tests beside them
REGISTRY = discover()
CAUSES = {name: REGISTRY.get("cause", name) for name in REGISTRY.names("cause")}
GIVEN = {
    "attention": lambda: {"model": plain.GPT(), "data": plain.texts()},
    "vocabulary": lambda: {"model": plain.GPT(vocab=1024), "data": plain.texts(vocab=1024)},
    "recurrence": lambda: {"model": plain.Recurrent(), "data": plain.labelled()},
    "optimizer": lambda: {"model": plain.GPT(), "data": plain.texts()},
    "checkpointing": lambda: {"model": plain.GPT(checkpoint=True), "data": plain.texts()},
    "padding": lambda: {"model": plain.Masked(), "data": plain.padded()},
    "input": lambda: {"model": plain.GPT(), "data": plain.Loader(plain.texts())},
    "memory_bandwidth": lambda: {"model": plain.GPT(), "data": plain.texts()},
    "kernel": lambda: {"model": plain.GPT(), "data": plain.texts()},
    "host": lambda: {"model": plain.GPT(), "data": plain.texts()},
}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    return Clock.instead_of_time(monkeypatch, sleep=True)


class PerElement(TorchDispatchMode):
    """Operators take 2 ns for each element of their largest argument, 1 ns where that fits a cache of 1 MiB."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        elements = max((t.numel() for t in args if isinstance(t, torch.Tensor)), default=0)
        self.clock.spend(elements * (2e-9 if elements > 2**18 else 1e-9))
        return func(*args, **(kwargs or {}))


def trial_of(given):
    torch.manual_seed(0)
    engine = UserEngine(given, REGISTRY.get("precision", "fp32"))
    work, pool = UserStep(), list(given["data"])[:8]
    work.trains, _ = watch_step(engine, pool[0], Snapshot(engine))
    for group in engine.optimizer.param_groups if engine.optimizer else ():
        group["lr"] = 0.0
    trial = user_trial(engine, work, pool, given["data"])
    trial.settle(0.1)
    return trial


def gradients_at_update(trial, run):
    """Names and shapes of the gradients that the optimizer sees."""
    seen = {}
    names = {id(p): name for name, p in trial.module.named_parameters()}

    def note(optimizer, *_):
        for group in optimizer.param_groups:
            seen.update({names[id(p)]: tuple(p.grad.shape) for p in group["params"] if p.grad is not None})

    hook = trial.optimizer.register_step_pre_hook(note)
    try:
        run()
    finally:
        hook.remove()
    return seen


def flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("name", CAUSES)
def test_a_cause_imports_no_other_cause(name):
    path = Path(kernel.__file__).with_name(f"{name}.py")
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    modules = {f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    others = {f"llmbench_plugins.causes.{other}" for other in CAUSES if other != name}
    assert not [module for module in modules for other in others if f"{module}.".startswith(f"{other}.")]


@pytest.mark.parametrize("name", GIVEN)
def test_a_cause_changes_nothing_behind_it(name):
    trial = trial_of(GIVEN[name]())
    functions = (F.linear, torch.matmul, F.scaled_dot_product_attention, torch.Tensor.__matmul__, torch.addmm)
    before = {key: value.clone() for key, value in trial.module.state_dict().items()}
    own = {id(m): set(vars(m)) for m in trial.module.modules()}
    facts = CAUSES[name].probe(trial)
    change = CAUSES[name].intervene(trial)
    for changed in (True, False, True):
        run = (change.treated if changed else change.clean) or (lambda batches: [trial.step(b) for b in batches])
        with change.changed() if changed else contextlib.nullcontext():
            run(trial.pool[: change.steps or 2])
    now = (F.linear, torch.matmul, F.scaled_dot_product_attention, torch.Tensor.__matmul__, torch.addmm)
    assert functions == now and own == {id(m): set(vars(m)) for m in trial.module.modules()}
    assert all(torch.equal(before[key], value) for key, value in trial.module.state_dict().items())
    assert isinstance(facts, dict) and change.share


@pytest.mark.parametrize("name", ["attention", "vocabulary", "recurrence", "checkpointing", "memory_bandwidth", "host"])
def test_the_same_parameters_are_updated_in_both_arms(name):
    trial = trial_of(GIVEN[name]())
    change = CAUSES[name].intervene(trial)
    clean = gradients_at_update(trial, lambda: trial.step(trial.pool[0]))
    with change.changed():
        treated = gradients_at_update(trial, lambda: trial.step(trial.pool[0]))
    assert treated == clean and clean


@pytest.mark.parametrize("cell", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_in_a_loop_train_the_same_parameters_and_see_the_same_states(cell):
    trial = trial_of({"model": plain.Recurrent(cell), "data": plain.labelled()})
    change = CAUSES["recurrence"].intervene(trial)
    ids = trial.pool[0][0]
    clean = gradients_at_update(trial, lambda: trial.step(trial.pool[0]))
    plainly = trial.module.states(ids).detach()
    with change.changed():
        treated = gradients_at_update(trial, lambda: trial.step(trial.pool[0]))
    assert treated == clean
    clean_flops = flops(lambda: trial.step(trial.pool[0]))
    with change.changed():
        treated_flops = flops(lambda: trial.step(trial.pool[0]))
    assert treated_flops["aten.addmm"] == clean_flops["aten.addmm"]
    assert plainly.isfinite().all()


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2}, {"bidirectional": True, "num_layers": 2}, {"batch_first": False}, {"bias": False}],
)
def test_states_that_are_known_give_the_same_outputs_as_one_after_the_other(kind, options):
    torch.manual_seed(0)
    model = plain.Recurrent(kind, **options)
    ids = plain.labelled()[0][0]
    layers = recurrence._Layers([model.layer])
    with layers.use_known_states():
        first = model.states(ids)
        again = model.states(ids)
    assert torch.allclose(first, model.states(ids), atol=1e-5) and torch.equal(first, again)
    assert "forward" not in vars(model.layer)


def test_states_given_by_the_caller_are_used():
    torch.manual_seed(0)
    layer = nn.LSTM(8, 8, batch_first=True)
    x, state = torch.randn(2, 5, 8), (torch.randn(1, 2, 8), torch.randn(1, 2, 8))
    expected, (h, c) = layer(x, state)
    with recurrence._Layers([layer]).use_known_states():
        out, (h2, c2) = layer(x, state)
    assert torch.allclose(out, expected, atol=1e-5)
    assert torch.allclose(h, h2, atol=1e-5) and torch.allclose(c, c2, atol=1e-5)


@pytest.mark.parametrize("style", ["sdpa", "matmul", "bmm", "einsum", "module"])
def test_attention_is_found_however_it_is_written_and_only_its_core_is_removed(style):
    trial = trial_of({"model": plain.GPT(style=style), "data": plain.texts()})
    facts = CAUSES["attention"].probe(trial)
    assert facts["cores"] == 2 and min(facts["part_s"]) > 0
    change = CAUSES["attention"].intervene(trial)
    clean = flops(lambda: trial.step(trial.pool[0]))
    grads = gradients_at_update(trial, lambda: trial.step(trial.pool[0]))
    with change.changed():
        treated = flops(lambda: trial.step(trial.pool[0]))
        assert gradients_at_update(trial, lambda: trial.step(trial.pool[0])) == grads
    projections = ("aten.addmm", "aten.mm")
    assert [treated.get(op) for op in projections] == [clean.get(op) for op in projections]
    left = {op for op in treated if op not in projections}
    assert not left, left


def test_a_module_without_attention_or_recurrence_says_so():
    trial = trial_of({"model": plain.Recurrent(), "data": plain.labelled()})
    for name in ("attention", "checkpointing", "communication", "copy", "decoding", "padding"):
        with pytest.raises(llmbench.DoesNotApply):
            CAUSES[name].probe(trial)
    with pytest.raises(llmbench.DoesNotApply):
        CAUSES["recurrence"].probe(trial_of({"model": plain.GPT(), "data": plain.texts()}))


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_has_256_rows_and_all_else_is_as_large_as_before(tied):
    trial = trial_of({"model": plain.GPT(vocab=1024, tied=tied), "data": plain.texts(vocab=1024)})
    facts = CAUSES["vocabulary"].probe(trial)
    assert facts["vocabulary"] == 1024
    change = CAUSES["vocabulary"].intervene(trial)
    seen = {}
    clean = flops(lambda: trial.step(trial.pool[0]))
    with change.changed():
        hook = trial.module.blocks[0].register_forward_hook(lambda *a: seen.update(width=a[2].shape))
        treated = flops(lambda: trial.step(trial.pool[0]))
        hook.remove()
    rows, width = 4 * 24, 32
    head = 2 * rows * width * 1024
    assert clean["aten.mm"] - treated["aten.mm"] == 3 * (head - head // 4)
    assert trial.module.vocab == 1024 and trial.module.head.weight.shape == (1024, 32)


def test_a_small_vocabulary_and_a_classifier_are_no_vocabulary():
    for given in ({"model": plain.GPT(), "data": plain.texts()}, {"model": plain.Masked(), "data": plain.padded()}):
        with pytest.raises(llmbench.DoesNotApply, match="classes"):
            CAUSES["vocabulary"].probe(trial_of(given))


def test_checkpointing_off_keeps_the_loss_and_saves_the_second_pass():
    trial = trial_of(GIVEN["checkpointing"]())
    assert CAUSES["checkpointing"].probe(trial)["regions"] == 2
    plainly = flops(lambda: trial.step(trial.pool[0]))
    with CAUSES["checkpointing"].intervene(trial).changed():
        kept = flops(lambda: trial.step(trial.pool[0]))
    uncheckpointed = trial_of({"model": plain.GPT(), "data": plain.texts()})
    assert sum(kept.values()) == sum(flops(lambda: uncheckpointed.step(uncheckpointed.pool[0])).values())
    assert sum(kept.values()) < sum(plainly.values())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_checkpointed_regions_run_by_themselves_once_more_and_leave_no_gradient(nested, reentrant):
    from torch.utils.checkpoint import checkpoint

    from llmbench_plugins.causes._checkpoints import regions_of
    from llmbench_plugins.causes.checkpointing import _keep_activations, _run

    class Model(plain.GPT):
        def forward(self, ids, targets):
            x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
            for block in self.blocks:
                inner = (lambda y, block=block: checkpoint(block, y, use_reentrant=reentrant)) if nested else block
                x = checkpoint(inner, x, use_reentrant=reentrant)
            return F.cross_entropy(self.head(x).view(-1, self.vocab), targets.reshape(-1))

    trial = trial_of({"model": Model(), "data": plain.texts(), "loss": lambda output, batch: output})
    regions = regions_of(trial, trial.pool[0])
    assert len(regions) == 2  # the outermost ones, and those only, of the forward pass
    trial.optimizer.zero_grad(set_to_none=True)
    with _keep_activations([]):
        kept = sum(flops(lambda: _run(trial, regions)).values())
    from llmbench_plugins.causes._swap import substitute
    from llmbench_plugins.causes.checkpointing import _not_reentrant

    with substitute([(torch.utils.checkpoint.CheckpointFunction, "apply")], _not_reentrant):
        again = sum(flops(lambda: _run(trial, regions)).values())
    times, forward = (2 if nested else 1), kept / 3
    assert 0.6 * forward < again - kept <= times * forward  # torch stops where nothing more is needed
    assert all(p.grad is None for p in trial.module.parameters())


def test_compute_multiplies_half_of_the_rows_and_keeps_the_gradients():
    data = [(torch.randn(128, 64),) for _ in range(4)]
    trial = trial_of({"model": plain.Deep(), "data": data, "loss": lambda output, batch: output.square().mean()})
    assert CAUSES["compute"].probe(trial)["products"] == 4
    from llmbench_plugins.causes.compute import _halve_products

    grads = gradients_at_update(trial, lambda: trial.step(data[0]))
    clean = flops(lambda: trial.step(data[0]))
    with _halve_products("cpu"):
        treated = flops(lambda: trial.step(data[0]))
        assert gradients_at_update(trial, lambda: trial.step(data[0])) == grads
    half = 2 * 64 * 64 * 64  # of 128 rows; the first layer's input needs no gradient, but gets one here
    assert sum(treated.values()) == 3 * 4 * half and sum(clean.values()) == (3 * 4 - 1) * 2 * half


def test_shared_weights_keep_a_gradient_for_each():
    trial = trial_of(
        {"model": plain.Deep(), "data": [(torch.randn(4, 64),) for _ in range(4)], "loss": lambda o, b: o.sum()}
    )
    change = CAUSES["memory_bandwidth"].intervene(trial)
    with change.changed():
        seen = gradients_at_update(trial, lambda: trial.step(trial.pool[0]))
    assert len(seen) == 8 and change.check["shared"] == {"(64, 64)": 4}


@pytest.mark.parametrize("count", [2, 4])
def test_pieces_hold_the_same_examples_and_the_optimizer_steps_as_often(count):
    trial = trial_of({"model": plain.GPT(), "data": plain.texts()})
    way = kernel.Regrouped(trial, count)
    for batch, pieces in zip(trial.pool, way.groups, strict=True):
        assert torch.equal(torch.cat([piece[0] for piece in pieces]), batch[0]) and len(pieces) == count
    assert steps_of(trial, way.run_plain, 4) == 4
    with way.change():
        assert steps_of(trial, way.run_regrouped, 4) == 4


def test_batches_of_one_row_are_put_together():
    trial = trial_of({"model": plain.GPT(), "data": plain.texts(rows=1)})
    (way,) = kernel._ways(trial)
    assert not way.split and all(len(batch[0]) == 2 for (batch,) in way.groups)
    with way.change():
        assert steps_of(trial, way.run_regrouped, 4) == 8
    assert steps_of(trial, way.run_plain, 4) == 8


def steps_of(trial, run, count):
    """How often the optimizer steps in `count` calls of `run`."""
    counted = []
    hook = trial.optimizer.register_step_post_hook(lambda *_: counted.append(1))
    try:
        for i in range(count):
            run(i)
    finally:
        hook.remove()
    return len(counted)


def test_a_generation_of_the_users_own_is_read_at_once():
    model = plain.GPT(style="matmul")

    @torch.no_grad()
    def step(batch):
        ids = batch[0][:, :4]
        for _ in range(12):
            ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], 1)
        return ids

    trial = trial_of({"model": model, "data": plain.texts(), "step": step})
    facts = CAUSES["decoding"].probe(trial)
    assert facts["passes"] == [12, 12, 12]
    calls = []
    hook = model.register_forward_hook(lambda m, args, out: calls.append(tuple(args[0].shape)))
    CAUSES["decoding"].intervene(trial).treated(trial.pool[:1])
    hook.remove()
    assert calls[-1] == (4, 15)  # the last token is not read by anybody


def test_predictions_are_arithmetic_of_the_record():
    record = {"samples": {"step_s": [0.1, 0.1, 0.1]}, "phases": {"input_s": [0.02] * 3, "copy_s": [0.0]}}
    predict = {name: cause.predict for name, cause in CAUSES.items()}
    assert predict["input"](record, {}) == pytest.approx(1.25)
    assert predict["attention"](record, {"part_s": [0.05]}) == pytest.approx(2.0)
    assert predict["vocabulary"](record, {"part_s": [0.05], "vocabulary": 512}) == pytest.approx(1 / 0.75)
    assert predict["recurrence"](record, {"part_s": [0.06], "known_s": 0.01}) == pytest.approx(2.0)
    assert predict["compute"](record, {"part_s": [0.05]}) == pytest.approx(1 / 0.75)
    assert predict["decoding"](record, {"whole_s": [0.4], "once_s": [0.1]}) == pytest.approx(4.0)
    halves = {"pieces": 2, "plain_s": [0.1], "other_s": [0.16], "weights_s": 0.01}
    assert predict["kernel"](record, halves) == pytest.approx(2.0)
    quarters = {"pieces": 4, "plain_s": [0.1], "other_s": [0.28], "weights_s": 0.03}
    assert predict["kernel"](record, quarters) == pytest.approx(2.0)
    merged = {"pieces": 1, "plain_s": [0.1], "other_s": [0.07], "weights_s": 0.005}
    assert predict["kernel"](record, merged) == pytest.approx(2.0)
    assert predict["memory_bandwidth"](record, {"part_s": [0.01], "hot_s": 0.02, "streams_s": [0.0]}) == 1.0
    streams = {"part_s": [0.03], "hot_s": 0.01, "streams_s": [0.03]}
    assert predict["memory_bandwidth"](record, streams) == pytest.approx(2.0)
    assert predict["optimizer"]({"samples": {}}, {"part_s": [0.01]}) is None
    linear = {"timed_sizes": [(10, 0), (20, 0), (40, 0)], "timed_s": [0.11, 0.21, 0.41]}
    sizes = {"sizes": [(100, 0)], "sizes_without": [(20, 0)]}
    assert predict["padding"](record, {**linear, **sizes}) == pytest.approx(1.01 / 0.21, rel=1e-3)


def test_every_cause_is_described_and_of_a_known_kind():
    assert len(CAUSES) == 15
    for cause in CAUSES.values():
        assert cause.axis in ("where", "why") and cause.cause_class in ("data", "algorithm", "hardware")
        assert cause.advice and cause.description
    assert {c.name for c in CAUSES.values() if c.axis == "why"} == {
        *("compute", "memory_bandwidth", "memory_capacity", "kernel", "host", "communication")
    }


def test_fitted_tensors_have_the_shape_that_is_asked_for():
    for have, want in (((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (2, 7, 4)), ((2, 3, 4), (2, 2, 6)), ((6, 4), (2, 3, 4))):
        assert _core.fit_shape(torch.randn(have), want).shape == want


class Packs(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embed, self.layer = nn.Embedding(64, 24), getattr(nn, kind)(24, 24, batch_first=True, **options)
        self.classify = nn.Linear(24, 3)

    def forward(self, ids, labels):
        lengths = torch.tensor([24, 9, 17, 3])
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.layer(packed)
        states = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0]
        return F.cross_entropy(self.classify(states.mean(1)), labels)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_packed_sequence_keeps_its_values_and_its_gradients(kind):
    trial = trial_of({"model": Packs(kind), "data": plain.labelled()})
    facts = CAUSES["recurrence"].probe(trial)
    assert facts["known_s"] > 0 and min(facts["part_s"]) > 0
    change = CAUSES["recurrence"].intervene(trial)
    grads = gradients_at_update(trial, lambda: trial.step(trial.pool[0]))
    plainly = trial.module(*trial.pool[0])
    with recurrence._Layers([trial.module.layer]).use_known_states():
        assert torch.allclose(trial.module(*trial.pool[0]), plainly, atol=1e-5)
    with change.changed():
        assert gradients_at_update(trial, lambda: trial.step(trial.pool[0])) == grads


def test_an_update_by_hand_is_predicted_but_not_isolated():
    model = plain.GPT()

    def step(batch):
        model(*batch)[1].backward()
        time.sleep(0.02)
        for parameter in model.parameters():
            parameter.grad = None

    trial = trial_of({"model": model, "data": plain.texts(), "step": step})
    assert CAUSES["optimizer"].probe(trial)["part_s"] == pytest.approx([0.02] * 4, abs=1e-4)
    with pytest.raises(llmbench.Unisolated, match="updates by itself"):
        CAUSES["optimizer"].intervene(trial)


@pytest.mark.parametrize("where", ["forward", "step", "loop"])
def test_time_of_the_host_is_found_wherever_it_is(where, clock):
    model = plain.GPT(sleep=0.02 if where == "forward" else 0.0)

    def step(batch):
        loss = model(*batch)[1]
        if where == "step":
            time.sleep(0.02)
        if where == "loop":
            clock.spend(0.02)
        loss.backward()
        model.zero_grad()

    trial = trial_of({"model": model, "data": plain.texts(), "step": step})
    facts = CAUSES["host"].probe(trial)
    inside, outside = (0.02, 0.0) if where == "forward" else (0.0, 0.02)
    assert facts["part_s"] == pytest.approx([inside] * len(facts["part_s"]), abs=1e-4)
    assert facts["outside_s"] == pytest.approx([outside] * len(facts["part_s"]), abs=1e-4)
    if where == "loop":
        with pytest.raises(llmbench.Unisolated, match="outside of the module"):
            CAUSES["host"].intervene(trial)
        return
    change = CAUSES["host"].intervene(trial)
    with change.changed():
        (treated_s,) = trial.seconds(lambda: change.treated(trial.pool[:1]), least=1)
    (clean_s,) = trial.seconds(lambda: trial.step(trial.pool[0]), least=1)
    assert clean_s - treated_s == pytest.approx(0.02, abs=1e-4)


class Streamer(torch.nn.Module):
    """Writes to a large buffer that nothing reads."""

    def __init__(self, numbers):
        super().__init__()
        self.inner, self.buffer = plain.GPT(), torch.zeros(numbers)

    def forward(self, *batch):
        self.buffer.add_(1.0)
        return self.inner(*batch)


def with_no_host(trial):
    """Return the trial with the facts of a step that has no Python outside of its module, whatever the clock says."""
    trial.scratch["host"] = {"part_s": [0.0], "outside_s": [0.0], "asleep_s": [0.0]}
    return trial


@pytest.fixture
def operators_per_element(clock, monkeypatch):
    """A trace is no place for a dispatch mode: only where operators are timed they take time."""
    timed = _operators.operators_of

    def operators(trial, batch):
        with PerElement(clock):
            return timed(trial, batch)

    monkeypatch.setattr(_operators, "operators_of", operators)


def test_a_replay_that_leaves_out_work_is_no_replay(operators_per_element):
    trial = with_no_host(trial_of({"model": Streamer(2**23), "data": plain.texts()}))
    trial.step_s = 0.05  # of which the buffer takes a third
    with pytest.raises(llmbench.Unisolated, match=r"leave out operators that a step runs, such as aten\.add_"):
        CAUSES["host"].intervene(trial)
    small = with_no_host(trial_of({"model": Streamer(2), "data": plain.texts()}))
    small.step_s = 0.05
    CAUSES["host"].intervene(small)


def test_an_operator_that_a_trace_calls_by_another_name_is_not_left_out():
    class Convolved(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv1d(64, 64, 3)

        def forward(self, x):
            return self.conv(x).square().mean()

    data = [(torch.randn(8, 64, 200),) for _ in range(4)]
    trial = with_no_host(trial_of({"model": Convolved(), "data": data, "loss": lambda output, batch: output}))
    CAUSES["host"].intervene(trial)


def test_kernel_leaves_out_a_large_tensor_that_every_piece_goes_through(clock):
    data = [(torch.randint(0, 64, (8, 24)), torch.randint(0, 64, (8, 24))) for _ in range(4)]
    with PerElement(clock):
        facts = CAUSES["kernel"].probe(trial_of({"model": Streamer(2**23), "data": data}))
    whole, pieces = statistics.median(facts["plain_s"]), statistics.median(facts["other_s"])
    assert facts["weights_s"] == pytest.approx(3 * 2e-9 * 2**23, rel=0.1) == pytest.approx(pieces - whole, rel=0.1)


class Output:
    def __init__(self, loss):
        self.loss = loss


def test_an_output_that_a_trace_would_keep_is_not_traced():
    class Model(plain.GPT):
        def forward(self, ids, targets):
            return Output(super().forward(ids, targets)[1])

    trial = trial_of({"model": Model(), "data": plain.texts()})
    with pytest.raises(llmbench.Unisolated, match="Output cannot be taken apart"):
        CAUSES["host"].intervene(trial)


def test_where_memory_is_full_batches_are_doubled_without_the_optimizer():
    trial = trial_of({"model": plain.GPT(), "data": plain.texts()})
    trial.memory_used = 0.8
    facts = CAUSES["memory_capacity"].probe(trial)
    fixed = {"once_s": [0.03], "twice_s": [0.05]}  # 10 ms whatever the size, 20 ms for a batch
    assert CAUSES["memory_capacity"].predict({}, fixed) == pytest.approx(1.2)
    assert CAUSES["memory_capacity"].predict({}, facts) > 0
    change, seen = CAUSES["memory_capacity"].intervene(trial), []
    hook = trial.module.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    change.clean(trial.pool[:2])
    change.treated(trial.pool[:2])
    hook.remove()
    assert seen == [4, 4, 8]


def test_a_buffer_that_every_step_goes_through_is_done_on_a_piece(clock):
    model, buffer = plain.Deep(layers=1), torch.zeros(2**23)

    def step(batch):
        buffer.add_(1.0)
        model(batch[0]).sum().backward()

    trial = trial_of({"model": model, "data": [(torch.randn(4, 64),)] * 4, "step": step})
    with PerElement(clock):
        facts = CAUSES["memory_bandwidth"].probe(trial)
    assert facts["weights"] == 0 and facts["streams_s"] == pytest.approx([1e-9 * 2**23] * 4, rel=0.01)
    change = CAUSES["memory_bandwidth"].intervene(trial)
    with change.changed():  # entering takes a step to see which weights there are
        before = buffer[-1].item()
        trial.step(trial.pool[0])
        assert buffer[-1].item() == before  # a piece stood for it
    trial.step(trial.pool[0])
    assert torch.equal(buffer, torch.full_like(buffer, before + 1))


def test_memory_is_given_back_for_results_of_their_own_and_not_for_views():
    large, small = torch.zeros(2**19), torch.zeros(8)
    assert list(_operators._large_results([large], large.neg())) == [2**21]
    assert list(_operators._large_results([large], (large[: 2**18], small, large.neg()))) == [2**21]
    assert (
        list(_operators._large_results([large, small], large.add_(1)))
        == list(_operators._large_results([small], small))
        == []
    )
    assert _operators._freeing_s(2**26) >= 0


def test_the_gradients_of_a_shared_head_are_summed_over_the_vocabulary():
    is_sum = vocabulary._is_sum_of_gradients
    head, other = torch.zeros(1024, 8), torch.zeros(8, 8)
    assert is_sum((1024, 8), "add", [head, head]) and is_sum((1024, 8), "add_", [head, head])
    assert not is_sum((1024, 8), "mul", [head, head])
    assert not is_sum((1024, 8), "add", [head, other])
