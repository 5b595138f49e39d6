"""Operators are counted right: by hand for single layers, loudly where it cannot be, and a whole step's trace."""

from __future__ import annotations

import json
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import llmbench
from llmbench.worker.torch_engine import operator_classes, operator_counter, profile_events, profiling, tracing
from llmbench.worker.torch_engine.engine import TorchEngine
from llmbench.worker.torch_engine.operator_counter import (
    OperatorCounter,
    OperatorRow,
    UncountedOperator,
    difference,
    totals,
)

F32 = 4  # bytes


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counted(step, *, phase="forward", grad=True):
    counter = OperatorCounter(phase)
    with torch.set_grad_enabled(grad), counter:
        step(counter)
    return counter.rows()


def train(module, *inputs, out=lambda y: y):
    """Count a forward and a backward of the sum of `module(*inputs)`."""

    def step(counter):
        loss = out(module(*inputs)).float().sum()
        counter.phase = "backward"
        loss.backward()

    return counted(step)


def of(rows, **fields):
    return [r for r in rows if all(getattr(r, k) == v for k, v in fields.items())]


def flops(rows, **fields):
    return totals(of(rows, **fields))["flops"]


# --- FLOPs by hand --------------------------------------------------------------------------------------


def test_linear_is_two_flops_per_weight_and_row_and_three_times_that_in_training():
    rows = train(torch.nn.Linear(7, 5), torch.randn(3, 4, 7, requires_grad=True))
    assert flops(rows, phase="forward") == 2 * 12 * 7 * 5
    assert flops(rows, phase="backward") == 2 * (2 * 12 * 7 * 5)
    assert {r.operator_class for r in rows if r.flops} == {"matmul"}
    assert {r.dtype for r in rows} == {"float32", ""}


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention_counts_in_full_and_names_what_it_recomputes(causal):
    B, N, L, D = 2, 3, 16, 8
    q, k, v = (torch.randn(B, N, L, D, requires_grad=True) for _ in range(3))
    rows = train(lambda *a: functional.scaled_dot_product_attention(*a, is_causal=causal), q, k, v)
    once = 2 * B * N * L * L * D  # scores; mixing costs the same
    assert flops(rows, phase="forward", operator_class="attention") == 2 * once
    (back,) = of(rows, phase="backward", operator_class="attention")
    assert (back.flops, back.recomputed_flops) == (5 * once, once)
    assert "for_cpu" in back.name


def test_attention_by_hand_is_the_same_work_without_recomputation():
    B, L, D = 6, 16, 8
    q, k, v = (torch.randn(B, L, D, requires_grad=True) for _ in range(3))
    rows = train(lambda q, k, v: (q @ k.transpose(1, 2)).softmax(-1) @ v, q, k, v)
    once = 2 * B * L * L * D
    assert flops(rows, phase="forward") == 2 * once and flops(rows, phase="backward") == 4 * once
    assert {r.operator_class for r in rows if "bmm" in r.name or "softmax" in r.name} == {"attention"}
    assert totals(rows)["recomputed_flops"] == 0


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.float32, "recurrent"), (torch.bfloat16, "recurrent"), (torch.float16, "matmul")]
)
def test_lstm_layers_fused_or_not(dtype, kind, request):
    if dtype is torch.bfloat16:
        request.getfixturevalue("lstm_in_bf16")
    B, L, E, H = 3, 5, 8, 16
    lstm = torch.nn.LSTM(E, H, 2, batch_first=True).to(dtype)
    rows = train(lstm, torch.randn(B, L, E, dtype=dtype, requires_grad=True), out=lambda y: y[0])
    first, second = 2 * B * L * 4 * H * (E + H), 2 * B * L * 4 * H * (H + H)  # 4 gates from inputs and states
    assert flops(rows, phase="forward", operator_class=kind) == first + second == flops(rows, phase="forward")
    whole = flops(rows, phase="backward")
    first_step = 2 * 2 * B * 4 * H * H if kind == "matmul" else 0  # no gradient for the state that nobody wants
    assert whole == 2 * (first + second) - first_step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lstm_in_inference_mode(dtype):
    B, L, E, H = 3, 5, 8, 16
    lstm = torch.nn.LSTM(E, H, batch_first=True).to(dtype).eval()
    counter = OperatorCounter()
    with torch.inference_mode(), counter:
        lstm(torch.randn(B, L, E, dtype=dtype))
    assert totals(counter.rows())["flops"] == 2 * B * L * 4 * H * (E + H)
    assert not of(counter.rows(), operator_class="attention")  # its batched product has one weight for all


def test_cudnn_lstm_formula_counts_every_layer_and_direction():
    x, H, E = torch.empty(6, 4, 8), 16, 8
    weights = [torch.empty(4 * H, E), torch.empty(4 * H, H), torch.empty(4 * H), torch.empty(4 * H)] * 2
    formulas = operator_classes.flop_formulas()
    assert formulas["_cudnn_rnn"](x, weights, 4, None, None, None) == 2 * 2 * 24 * 4 * H * (E + H)
    assert formulas["_cudnn_rnn_backward"](x, weights, 4, None, None, None) == 2 * 2 * 2 * 24 * 4 * H * (E + H)


def test_grouped_products():
    grouped = operator_classes.flop_formulas()["_grouped_mm"]
    assert grouped(torch.empty(10, 3), torch.empty(4, 3, 5)) == 2 * 10 * 3 * 5
    assert grouped(torch.empty(3, 10), torch.empty(10, 5)) == 2 * 3 * 10 * 5
    assert grouped(torch.empty(4, 6, 3), torch.empty(3, 10)) == 2 * 6 * 3 * 10
    assert grouped(torch.empty(4, 6, 3), torch.empty(4, 3, 5)) == 4 * 2 * 6 * 3 * 5


# --- a zero is an error ---------------------------------------------------------------------------------


def test_a_product_without_a_formula_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(operator_classes, "flop_formulas", dict)
    with pytest.raises(UncountedOperator, match=r"aten.addmm.default .*no formula.*\(12, 7\)"):
        train(torch.nn.Linear(7, 5), torch.randn(12, 7))


def test_a_formula_that_gives_zero_is_an_error(monkeypatch):
    known = operator_classes.flop_formulas()
    name = "_scaled_dot_product_flash_attention_for_cpu"
    monkeypatch.setattr(operator_classes, "flop_formulas", lambda: {**known, name: lambda *a, **k: 0})
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(UncountedOperator, match=r"class attention.*gives 0"):
        counted(lambda _: functional.scaled_dot_product_attention(q, q, q))


def test_an_operator_that_nobody_has_heard_of_is_an_error_when_its_name_says_product():
    with torch.library._scoped_library("llmbench_test", "DEF") as library:
        library.define("my_linear(Tensor x) -> Tensor")
        library.impl("my_linear", lambda x: x + 1, "CPU")
        with pytest.raises(UncountedOperator, match="my_linear"):
            counted(lambda _: torch.ops.llmbench_test.my_linear(torch.randn(2)))


def test_an_empty_product_has_no_flops_and_is_no_error():
    rows = counted(lambda _: torch.randn(0, 3) @ torch.randn(3, 4))
    assert totals(of(rows, operator_class="matmul"))["flops"] == 0


# --- bytes by hand --------------------------------------------------------------------------------------

X = torch.randn(10, 6)
BIG = torch.randn(1000, 6)
IDS = torch.tensor([1, 2, 3])


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (lambda: X + 1.0, 2 * 60 * F32),
        (lambda: X * X, 2 * 60 * F32),  # one input, read once
        (lambda: X + X[0], (60 + 6 + 60) * F32),
        (lambda: X + torch.empty(1).expand(10, 6), (60 + 1 + 60) * F32),  # repeated elements count once
        (lambda: X.clone().add_(1.0), (2 + 2) * 60 * F32),  # in place: read and written
        (lambda: torch.empty(10, 6).copy_(X), 2 * 60 * F32),
        (lambda: torch.zeros(10, 6), 60 * F32),
        (lambda: torch.zeros_like(X), 60 * F32),
        (lambda: X.to(torch.bfloat16), 60 * F32 + 60 * 2),
        (lambda: X.view(6, 10).t()[2:].unsqueeze(0).expand(3, 8, 6).detach(), 0),
        (lambda: torch.empty(5).resize_(3), 0),
        (lambda: X.t() @ X, (60 + 60 + 36) * F32),  # one memory in two orders is read twice
        (lambda: functional.embedding(IDS, BIG), (18 + 18) * F32 + 3 * 8),  # the rows that are picked
        (lambda: torch.cat([X, X[:2]]), (60 + 12 + 72) * F32),
    ],
)
def test_bytes(operator, expected):
    rows = counted(lambda _: operator(), grad=False)
    assert totals(rows)["bytes"] == expected
    assert bool(rows) == bool(expected)


def test_the_loss_reads_one_logit_per_row():
    logp, target = torch.randn(8, 100).log_softmax(-1), torch.arange(8)
    rows = counted(lambda _: functional.nll_loss(logp, target))
    assert totals(rows)["bytes"] == 8 * F32 + 8 * 8 + 2 * F32  # values, labels, the loss and its weight
    assert {r.operator_class for r in rows} == {"loss"}


@pytest.mark.parametrize(
    ("kind", "options", "per_parameter"),
    [
        ("AdamW", {"fused": True}, 7),  # reads parameter, gradient and two moments, writes all but the gradient
        ("SGD", {"fused": True, "momentum": 0.9}, 5),
        ("SGD", {"foreach": True}, 3),
    ],
)
def test_optimizers_move_their_tensor_lists(kind, options, per_parameter):
    module = torch.nn.Linear(30, 20)
    optimizer = getattr(torch.optim, kind)(module.parameters(), lr=0.1, **options)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    rows = counted(lambda _: optimizer.step(), phase="optimizer")
    assert {r.operator_class for r in rows} == {"optimizer"}
    assert totals(rows)["bytes"] == pytest.approx(per_parameter * 620 * F32, rel=0.01)  # and step counters


# --- rows -----------------------------------------------------------------------------------------------


def test_calls_of_one_row_are_alike_in_size():
    rows = counted(lambda _: [torch.randn(n).neg() for n in (8, 9, 10, 1000)])
    assert sorted(r.calls for r in of(rows, name="aten::neg")) == [1, 3]


def test_backward_on_another_thread_is_seen():
    x = torch.randn(3, 3, requires_grad=True)
    loss = (x @ x).sum()
    seen = []

    def run(counter):
        with counter:
            loss.backward()
        seen.append(threading.get_ident())

    counter = OperatorCounter("backward")
    thread = threading.Thread(target=run, args=(counter,))
    thread.start()
    thread.join()
    assert seen[0] != threading.get_ident()
    assert totals(counter.rows())["flops"] == 2 * 2 * 27


def test_checkpointing_is_recomputation():
    from torch.utils.checkpoint import checkpoint

    first, last, x = torch.nn.Linear(7, 5), torch.nn.Linear(5, 2), torch.randn(12, 7, requires_grad=True)
    rows = train(lambda x: checkpoint(lambda x: last(first(x).tanh()), x, use_reentrant=False), x)
    again, rest = 2 * 12 * 7 * 5, 2 * 12 * 5 * 2  # the last product's input is saved: it need not run again
    assert totals(rows)["flops"] == 4 * again + 3 * rest and totals(rows)["recomputed_flops"] == again


def test_difference_takes_out_a_beginning_and_refuses_other_work():
    part = counted(lambda _: [torch.ones(4, 4) @ torch.ones(4, 4)], phase="prefill")
    whole = counted(lambda _: [torch.ones(4, 4) @ torch.ones(4, 4) for _ in range(3)], phase="generate")
    rest = difference(whole, part)
    assert totals(rest) == {k: 2 * v for k, v in totals(part).items()}
    assert difference(part, part) == []
    with pytest.raises(ValueError, match="aten::mm"):
        difference(part, whole)
    with pytest.raises(ValueError, match="aten::mm"):
        difference([], part)


@pytest.mark.parametrize(
    ("name", "phase", "kind"),
    [
        ("addmm", "forward", "matmul"),
        ("_scaled_mm", "backward", "matmul"),
        ("_addmm_activation", "forward", "matmul"),
        ("addcmul", "forward", "elementwise"),
        ("linalg_vector_norm", "forward", "normalization"),
        ("linalg_vector_norm", "optimizer", "optimizer"),
        ("mm", "optimizer", "matmul"),  # an optimizer may multiply
        ("_foreach_norm", "forward", "optimizer"),
        ("native_layer_norm_backward", "backward", "normalization"),
        ("_log_softmax", "forward", "loss"),
        ("_softmax_backward_data", "backward", "attention"),
        ("_cudnn_rnn", "forward", "recurrent"),
        ("_cudnn_rnn_flatten_weight", "forward", "copy"),
        ("embedding_dense_backward", "backward", "embedding"),
        ("_to_copy", "copy", "copy"),
        ("index_put", "backward", "copy"),
        ("addr", "forward", "other"),
    ],
)
def test_classes(name, phase, kind):
    assert operator_classes.operator_class(name, phase) == kind


# --- the whole trace ------------------------------------------------------------------------------------

SPECIAL = llmbench.SpecialTokens()


def engine_for(model, head, *, train, compiled=False, precision="fp32", autocast=None):
    import importlib

    (spec,) = importlib.import_module(f"llmbench_plugins.models.{model}").llmbench_models()
    chosen = llmbench.PrecisionSpec(precision, autocast=autocast)
    engine = TorchEngine(device="cpu", precision=chosen, compiled=compiled)
    request = llmbench.BuildRequest(head, "tiny", spec.sizes["tiny"], 64, SPECIAL, seq_len=24, target_len=6)
    engine.build(spec, request, seed=0)
    rng = np.random.default_rng(0)
    ids = [rng.integers(6, 64, 20).tolist() for _ in range(4)]
    features = [{"ids": i, "source": i, "target": i[:4]} for i in ids]
    ctx = llmbench.CollateContext(SPECIAL, 24, 6, 64, train)
    batch = spec.layouts[head].collate(features, ctx)
    if train:
        engine.prepare_training(learning_rate=1e-3, steps=10, optimizer="adamw")
        engine.backward(engine.forward(engine.copy(batch)))
        engine.update()
    return engine, batch


def test_trace_of_training():
    engine, batch = engine_for("gpt", "pretrain", train=True)
    trace = json.loads(json.dumps(engine.trace(batch, train=True, max_new_tokens=6)))
    rows = [OperatorRow(**row) for row in trace["rows"]]
    assert {r.phase for r in rows} == {"forward", "backward", "optimizer"}
    assert trace["totals"] == {
        **{k: totals(rows)[k] for k in ("flops", "recomputed_flops", "bytes")},
        "kernels": totals(rows)["calls"],
    }
    assert trace["shapes"] == {name: [4, 20] for name in ("input_ids", "attention_mask", "labels")}
    parameters = engine.parameters()
    (adam, *_) = sorted(of(rows, name="aten::_fused_adamw_"), key=lambda r: -r.bytes)
    assert adam.bytes == pytest.approx(7 * F32 * parameters, rel=0.05)
    spent = {}
    for row in trace["times"]:
        assert row["seconds"] >= 0 and row["operator_class"] in {*(r.operator_class for r in rows), "host"}
        spent[row["phase"]] = spent.get(row["phase"], 0.0) + row["seconds"]
    assert spent == pytest.approx(trace["phases_s"]) and set(spent) == {"copy", "forward", "backward", "optimizer"}
    timed = {(t["phase"], t["operator_class"]) for t in trace["times"]}
    assert {(r.phase, r.operator_class) for r in rows if r.flops} <= timed


def test_trace_of_generation_tells_prefill_from_decoding():
    engine, batch = engine_for("gpt", "generate", train=False)
    engine.eos = -1
    trace = engine.trace(batch, train=False, max_new_tokens=6)
    rows = [OperatorRow(**row) for row in trace["rows"]]
    rows_, made = trace["shapes"]["new_ids"]
    length = batch.arrays["input_ids"].shape[1]
    per_token = flops(rows, phase="prefill", operator_class="matmul") / (rows_ * length)
    assert {r.phase for r in rows} == ({"prefill", "decode"} if made > 1 else {"prefill"})
    layers = 24 * 2 * 64**2  # per token, two layers
    head = 2 * 64 * 64  # one row of logits
    assert per_token == layers + head / length
    assert flops(rows, phase="decode", operator_class="matmul") == (made - 1) * rows_ * (layers + head)
    assert set(trace["phases_s"]) == {"copy", "prefill", "decode"}
    assert "generate" not in vars(engine.module)


def test_a_compiled_module_is_counted_as_it_was_written():
    plain, batch = engine_for("gpt", "pretrain", train=True)
    compiled, _ = engine_for("gpt", "pretrain", train=False, compiled=True)
    compiled.prepare_training(learning_rate=1e-3, steps=10, optimizer="adamw")
    marker = compiled.module._compiled_call_impl
    trace = compiled.trace(batch, train=True, max_new_tokens=6)
    rows, _ = tracing.count(tracing.StepOf(plain, batch, True, 6))
    assert trace["totals"]["flops"] == totals(rows)["flops"] > 0
    assert trace["times"] is None and trace["totals"]["kernels"] is None
    assert any("compiled" in note for note in trace["notes"])
    assert marker is not None and compiled.module._compiled_call_impl is marker


def test_mixed_precision_tells_operands_apart():
    engine, batch = engine_for("gpt", "pretrain", train=True, precision="bf16", autocast="bfloat16")
    rows, _ = tracing.count(tracing.StepOf(engine, batch, True, 6))
    assert {r.dtype for r in rows if r.flops} == {"bfloat16"}


class Host:
    device = torch.device("cpu")

    def synchronize(self):
        pass


def twenty_products(enter):
    layer, x = torch.nn.Linear(256, 256), torch.ones(256, 256)
    with enter("forward"):
        for _ in range(20):
            layer(x)


def test_times_go_to_the_operator_that_was_counted():
    """`linear` is taken apart, but `addmm`, which copies its bias, keeps all of its time."""
    names = {"forward": {"aten::addmm"}}
    seen = profile_events.host_events(profiling.profile_steps(twenty_products, Host(), 3), cuda=False)
    assert {e.name for e in seen if e.around and e.around.name == "aten::addmm"} >= {"aten::copy_"}
    steps = list(profiling.step_windows(seen, 1))
    for windows in steps:
        ((_, begin, end),) = windows
        whole = [e.end_s - e.start_s for e in seen if e.name == "aten::addmm" and begin <= e.start_s < end]
        assert len(whole) == 20
        found = profiling.attribute(seen, windows, names, 0.0)
        assert found == {("forward", "aten::addmm"): pytest.approx(sum(whole))}
    assert len(steps) == 3
    measured = profiling.measure(twenty_products, Host(), names, steps=3)
    assert set(measured.seconds) == {("forward", "aten::addmm"), ("forward", profiling.HOST)}


@pytest.mark.timed
def test_products_are_most_of_the_time_of_products():
    measured = profiling.measure(twenty_products, Host(), {"forward": {"aten::addmm"}}, steps=3)
    assert measured.seconds["forward", "aten::addmm"] > 0.5 * measured.phases_s["forward"]


def test_host_is_what_is_left_and_times_never_exceed_the_phase():
    key = ("forward", "aten::mm")
    assert profiling.with_host({key: 3.0}, {"forward": 4.0}, scale=True) == {key: 3.0, ("forward", "host"): 1.0}
    assert profiling.with_host({key: 8.0}, {"forward": 4.0}, scale=True) == {key: 4.0, ("forward", "host"): 0.0}
    assert profiling.with_host({key: 8.0}, {"forward": 4.0}, scale=False)[key] == 8.0


def test_our_mode_changes_no_result():
    torch.manual_seed(0)
    layer, x = torch.nn.LSTM(4, 4, batch_first=True), torch.randn(2, 3, 4)
    plain = layer(x)[0]
    with OperatorCounter():
        seen = layer(x)[0]
    assert torch.equal(plain, seen)
    assert issubclass(operator_counter.OperatorCounter, TorchDispatchMode)


def test_raw_events_hold_the_times_that_torchs_own_list_does():
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu) as profiler, torch.profiler.record_function("outer"):
        layer(x).sum().backward()
    mine = profile_events.host_events(profiler, cuda=False)
    own_us, theirs_us = Counter(), Counter()
    for event in mine:
        own_us[event.name] += 1e6 * event.own_s
    for event in profiler.events():  # those of one name that hold nothing but each other are one there
        theirs_us[event.name] += event.self_cpu_time_total
    assert own_us.keys() == theirs_us.keys()
    assert own_us == {name: pytest.approx(us, abs=0.2) for name, us in theirs_us.items()}
    assert ("aten::addmm", "aten::linear") in {(e.name, e.around.name) for e in mine if e.around}
