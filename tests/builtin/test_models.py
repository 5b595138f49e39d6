"""Every built-in model with every head: contract, padding, decoding, learning and transfer, on tiny real modules."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
import safetensors.torch
import torch
from support.model_cases import HEADS, SEQ, SPECIAL, TARGET, V, arrays_of, features_of

import llmbench

MODULES = {
    **dict.fromkeys(("rnn", "gru", "lstm"), "recurrent"),
    **dict.fromkeys(("attention-rnn", "encoder-decoder-rnn"), "attention_rnn"),
    **{name: name for name in ("word2vec", "sentence2vec", "bert", "gpt", "llama", "t5")},
}
FAMILY = ("rnn", "gru", "lstm")  # both directions predict
RECURRENT = (*FAMILY, "attention-rnn", "encoder-decoder-rnn", "sentence2vec")
TRANSFORMERS = ("bert", "gpt", "llama", "t5")
CAUSAL = ("gpt", "llama")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spec_of(model):
    specs = importlib.import_module(f"llmbench_plugins.models.{MODULES[model]}").llmbench_models()
    return next(spec for spec in specs if spec.name == model)


CASES = [(m, h) for m in MODULES for h in HEADS if h in spec_of(m).layouts]
GENERATORS = [m for m, h in CASES if h == "generate"]
#: Without what only repeats the lstm's: the family's members differ in their cell alone.
FEWER = [(m, h) for m, h in CASES if m not in ("rnn", "gru") or h in ("pretrain", "generate")]


def make(model, head, size="tiny", vocab=V, **changes):
    spec = spec_of(model)
    torch.manual_seed(0)
    fields = {"seq_len": SEQ, "target_len": TARGET, "num_labels": 3, **changes}
    request = llmbench.BuildRequest(
        head=head, size=size, config=spec.sizes[size], vocab_size=vocab, special=SPECIAL, **fields
    )
    return spec, spec.build(request)


def widen(arrays, extra=5, left=False):
    """More padding, of garbage ids: what is masked must not be read."""
    fills = {"input_ids": 7, "question_ids": 7, "decoder_input_ids": 7, "next_ids": 7, "labels": -100}
    pad = (extra, 0) if left else (0, extra)
    wide = {k: v for k, v in arrays.items() if v.dim() == 2 and k != "negative_ids"}
    return {**arrays, **{k: torch.nn.functional.pad(v, pad, value=fills.get(k, 0)) for k, v in wide.items()}}


@pytest.mark.parametrize(("model", "head"), CASES)
def test_forward_returns_what_the_head_promises(model, head):
    spec, module = make(model, head)
    arrays = arrays_of(spec, head, features_of(head))
    out = module(**arrays)
    assert out["loss"].shape == () and torch.isfinite(out["loss"])
    out["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    rows, width = arrays["input_ids"].shape
    if head == "classify":
        assert out["logits"].shape == (rows, 3)
    elif head == "span":
        allowed = arrays["answer_mask"] == 1
        for name in ("start_logits", "end_logits"):
            assert out[name].shape == (rows, width)
            assert torch.equal(torch.isfinite(out[name]), allowed)
    elif head == "generate":
        assert out["logits"].shape == (*arrays["labels"].shape, V)
    elif model in (*FAMILY, "bert", *CAUSAL):
        predicted = arrays["labels"] if spec.masked else arrays["labels"][:, 1:]
        assert torch.equal(out["tokens"], (predicted != -100).sum(1))
        per_row = [v for k, v in out.items() if k.startswith("nll")]
        assert len(per_row) == (2 if model in FAMILY else 1)
        mean = sum(v.sum() / out["tokens"].sum() for v in per_row) / len(per_row)
        torch.testing.assert_close(out["loss"], mean)


@pytest.mark.parametrize("model", [m for m, h in CASES if h == "pretrain"])
def test_pretraining_is_scored_by_rows(model):
    spec, module = make(model, "pretrain")
    arrays = arrays_of(spec, "pretrain", features_of("pretrain"), train=False)
    out = module.eval()(**arrays)
    assert out["nll"].shape == out["tokens"].shape == (4,) and torch.isfinite(out["nll"]).all()
    assert bool((out["tokens"] > 0).all()) == (model != "sentence2vec")  # which predicts no token
    if model not in ("sentence2vec", "word2vec"):  # near the uniform guess, as long as nothing is learned
        choices = V + (100 if model == "t5" else 0)
        assert (out["nll"].sum() / out["tokens"].sum()).item() == pytest.approx(np.log(choices), rel=0.2)


@pytest.mark.parametrize(("model", "head"), FEWER)
def test_padding_changes_nothing(model, head):
    spec, module = make(model, head)
    module.eval()
    arrays = arrays_of(spec, head, features_of(head))
    with torch.no_grad():
        narrow, wide = module(**arrays), module(**widen(arrays))
        alone = arrays_of(spec, head, features_of(head)[1:2]) if not spec.masked else None
    for name, value in narrow.items():
        other = wide[name] if value.dim() < 2 else wide[name][:, : value.shape[1]]
        mask = None
        if head in ("pretrain", "generate") and name == "logits":
            mask = arrays["labels"] != -100 if "decoder_input_ids" in arrays else arrays["attention_mask"].bool()
        a, b = (value, other) if mask is None else (value[mask], other[mask])
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, msg=name)
    if alone is not None and head == "pretrain":
        torch.testing.assert_close(module(**alone)["nll"][0], narrow["nll"][1], atol=1e-4, rtol=1e-4)


def uncached(model, module, arrays, steps):
    """Greedy decoding of one row that runs the whole forward pass for every token."""
    done = []
    for _ in range(steps):
        if model in CAUSAL:
            ids = torch.cat([arrays["input_ids"], torch.tensor([done], dtype=torch.long)], 1)
            logits = module(ids)["logits"]
        else:
            decoder = torch.tensor([[SPECIAL.bos, *done]])
            logits = module(arrays["input_ids"], arrays["attention_mask"], decoder)["logits"]
        done.append(int(logits[0, -1].argmax()))
        if done[-1] == SPECIAL.eos:
            break
    return done


@pytest.mark.parametrize(
    ("model", "attention"), [(m, a) for m in GENERATORS for a in ("sdpa", "eager") if a == "sdpa" or m in TRANSFORMERS]
)
def test_generate_equals_decoding_without_a_cache(model, attention):
    spec, module = make(model, "generate", attention=attention)
    module.eval()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(3)  # sharper than the initial weights, so that outputs differ from row to row
        features = features_of("generate")
        batch = arrays_of(spec, "generate", features, train=False)
        together = module.generate(batch, TARGET)
        widened = module.generate(widen(batch, left=model in CAUSAL), TARGET)
        assert torch.equal(together, widened)
        rows = [uncached(model, module, arrays_of(spec, "generate", [f], train=False), TARGET) for f in features]
    width = max(map(len, rows))
    assert together.tolist() == [r + [SPECIAL.pad] * (width - len(r)) for r in rows]
    assert len({tuple(r) for r in rows}) > 1


@pytest.mark.parametrize("model", GENERATORS)
def test_generate_stops_when_every_row_has_ended(model):
    spec, module = make(model, "generate")
    module.eval()
    head = module.body.lm_head if model == "t5" else module.lm_head
    head.forward = lambda hidden: torch.nn.functional.one_hot(torch.full(hidden.shape[:-1], SPECIAL.eos), V).float()
    out = module.generate(arrays_of(spec, "generate", features_of("generate"), train=False), TARGET)
    assert out.tolist() == [[SPECIAL.eos]] * 4


@pytest.mark.parametrize(("model", "head"), FEWER)
def test_loss_falls_on_a_learnable_batch(model, head):
    spec, module = make(model, head)
    arrays = arrays_of(spec, head, features_of(head, lengths=(9, 5, 12, 7, 8, 10, 6, 11)))
    stage = "pretrain" if head == "pretrain" else "finetune"
    optimizer = torch.optim.AdamW(module.parameters(), lr=spec.learning_rate[stage])
    losses = []
    for _ in range(40):
        loss = module(**arrays)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


PRETRAINED = {"word2vec": ("embedding.",), "sentence2vec": ("reads.", "follows."), ("t5", "span"): ("body.encoder.",)}


@pytest.mark.parametrize(
    ("model", "head"), [(m, h) for m, h in CASES if h != "pretrain" and "pretrain" in spec_of(m).layouts]
)
def test_pretraining_carries_over(model, head, tmp_path):
    _, source = make(model, "pretrain")
    with torch.no_grad():
        for p in source.parameters():
            p.add_(1.0)
    safetensors.torch.save_model(source, tmp_path / "model.safetensors")
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    _, module = make(model, head)
    own = module.state_dict()
    if hasattr(module, "load_pretrained"):
        taken = module.load_pretrained(state)
    else:
        taken = [n for n, t in state.items() if n in own and own[n].shape == t.shape]
        module.load_state_dict({n: state[n] for n in taken}, strict=False)
    shared = PRETRAINED.get((model, head), PRETRAINED.get(model, ("body.",)))
    assert {n for n in state if n.startswith(shared)} <= set(taken)
    own = module.state_dict()
    if model == "t5":
        embedding = (module.encoder if head == "span" else module.body).get_input_embeddings().weight
        assert torch.equal(embedding, source.body.get_input_embeddings().weight)
    else:
        assert all(torch.equal(own[n], state[n]) for n in taken)
    if head == "generate" and model == "bert":
        same = "encoder.layer.1.output.dense.weight"
        assert torch.equal(own[f"decoder.{same}"], state[f"body.{same}"])
        assert module.decoder.embeddings.word_embeddings.weight is module.lm_head.predictions.decoder.weight
    if head == "generate" and model in FAMILY:
        assert torch.equal(own["decoder.weight_hh_l1"], state["body.directions.ahead.weight_hh_l1"])


def test_backward_language_model_reads_what_is_behind():
    spec, module = make("lstm", "pretrain")
    module.eval()
    arrays = arrays_of(spec, "pretrain", features_of("pretrain"))
    changed = {k: v.clone() for k, v in arrays.items()}
    changed["input_ids"][0, 1] = changed["labels"][0, 1] = 6 + (int(arrays["input_ids"][0, 1]) - 5) % (V - 6)
    last = arrays["attention_mask"][0].sum() - 1
    only_last = torch.full_like(arrays["labels"], -100)
    only_last[:, last] = arrays["labels"][:, last]
    with torch.no_grad():
        a = module(**{**arrays, "labels": only_last})
        b = module(**{**changed, "labels": only_last})
    assert torch.equal(a["nll_backward"][0], b["nll_backward"][0])  # the token before is not seen
    assert not torch.equal(a["nll"][0], b["nll"][0])


@pytest.mark.parametrize("dtype", ["autocast", "bfloat16", "float16"])
@pytest.mark.parametrize(("model", "head"), FEWER)
def test_low_precision_has_a_finite_loss_in_float32(model, head, dtype, request):
    if model == "lstm" and dtype == "autocast":
        request.getfixturevalue("lstm_in_bf16")
    spec, module = make(model, head)
    arrays = arrays_of(spec, head, features_of(head))
    reference = module.eval()(**arrays)["loss"].item()
    if dtype != "autocast":
        module.to(getattr(torch, dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        loss = module(**arrays)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference, rel=0.05)


def counted_flops(model, head, *, train, attention="sdpa", precision=None):
    """Return (analysis, counted without recomputation) of one step through the engine."""
    from llmbench.worker.torch_engine.engine import TorchEngine
    from llmbench.worker.torch_engine.operator_counter import totals
    from llmbench.worker.torch_engine.tracing import StepOf, count

    spec = spec_of(model)
    engine = TorchEngine(device="cpu", precision=precision or llmbench.PrecisionSpec("fp32"))
    request = llmbench.BuildRequest(
        head, "tiny", spec.sizes["tiny"], V, SPECIAL, SEQ, TARGET, num_labels=3, attention=attention
    )
    engine.build(spec, request, seed=0)
    ctx = llmbench.CollateContext(SPECIAL, SEQ, TARGET, V, train)
    batch = spec.layouts[head].collate(features_of(head), ctx)
    if train:
        engine.prepare_training(learning_rate=1e-3, steps=10, optimizer="adamw")
    rows, shapes = count(StepOf(engine, batch, train, TARGET))
    sums = totals(rows)
    return spec.flops(request, shapes) * (3 if train else 1), sums["flops"] - sums["recomputed_flops"]


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("model", "head", "attention"),
    [(m, h, a) for m, h in CASES for a in ("sdpa", "eager") if a == "sdpa" or m in TRANSFORMERS],
)
def test_flops_by_analysis_are_those_that_are_counted(model, head, attention, train):
    analysis, counted = counted_flops(model, head, train=train, attention=attention)
    assert analysis == pytest.approx(counted, rel=0.05 if model in RECURRENT else 0.02)


@pytest.mark.parametrize("model", [m for m, h in CASES if h == "pretrain"])
def test_flops_do_not_depend_on_the_precision(model, request):
    if model == "lstm":
        request.getfixturevalue("lstm_in_bf16")
    bf16 = llmbench.PrecisionSpec("bf16", autocast="bfloat16")
    analysis, counted = counted_flops(model, "pretrain", train=True, precision=bf16)
    assert analysis == pytest.approx(counted, rel=0.05 if model in RECURRENT else 0.02)


def request_of(model, head, size="tiny", **changes):
    spec = spec_of(model)
    return llmbench.BuildRequest(head, size, spec.sizes[size], V, SPECIAL, SEQ, TARGET, num_labels=3, **changes)


def test_flops_by_hand():
    H, B, L, T = 64, 2, 10, 4
    layer = 2 * L * (4 * H * H + 2 * H * 4 * H) + 2 * 2 * L * L * H  # q, k, v, o; two of width 4H; scores and mixing
    shapes = {"input_ids": (B, L)}
    assert spec_of("gpt").flops(request_of("gpt", "classify"), shapes) == B * (2 * layer + 2 * H * 3)
    assert spec_of("bert").flops(request_of("bert", "span"), shapes) == B * (2 * layer + 2 * L * H * 2)
    gates = 2 * L * 4 * H * (H + H)  # four gates, from inputs and from states
    lm = 2 * (2 * gates + 2 * L * H * V)  # both directions: two layers and the softmax
    assert spec_of("lstm").flops(request_of("lstm", "pretrain"), shapes) == B * lm
    one_by_one = sum(2 * (4 * H * H + 8 * H * H) + 4 * H * keys for keys in range(L + 1, L + T))
    made = spec_of("gpt").flops(request_of("gpt", "generate"), {**shapes, "new_ids": (B, T)})
    assert made == B * (2 * layer + 2 * one_by_one + T * 2 * H * V)


def kept_by(model, module):
    """Run `module.generate` calls from here on so that the list returned holds the last tensors kept between tokens."""
    kept = []
    if model in RECURRENT:
        decode = module.decode

        def remember(ids, memory, state):
            logits, state = decode(ids, memory, state)
            looked_at = memory[:2] if isinstance(memory, tuple) else [memory]  # the third is the batch's own mask
            kept[:] = [*looked_at, *(state if isinstance(state, tuple) else [state])]
            return logits, state

        module.decode = remember
        return kept

    def after(_module, _args, output):
        cache = output.past_key_values
        parts = [cache] if model in CAUSAL else [cache.self_attention_cache, cache.cross_attention_cache]
        kept[:] = [t for part in parts for layer in part.layers for t in (layer.keys, layer.values)]

    (module.decoder if model == "bert" else module.body).register_forward_hook(after)
    return kept


@pytest.mark.parametrize(("size", "precision"), [("tiny", "fp32"), ("small", "bf16"), ("tiny", "bf16-pure")])
@pytest.mark.parametrize("model", GENERATORS)
def test_cache_bytes_are_those_of_the_real_cache(model, size, precision, request):
    if (model, precision) == ("lstm", "bf16"):
        request.getfixturevalue("lstm_in_bf16")
    from llmbench_plugins.precisions.builtin import PRECISIONS

    setting = next(p for p in PRECISIONS if p.name == precision)
    special = dataclasses.replace(SPECIAL, eos=-1)  # never ends
    asked = dataclasses.replace(request_of(model, "generate", size), special=special)
    spec = spec_of(model)
    module = spec.build(asked).eval().to(getattr(torch, setting.parameters))
    kept = kept_by(model, module)
    arrays = arrays_of(spec, "generate", features_of("generate"), train=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=setting.autocast is not None):
        ids = module.generate(arrays, TARGET)
    assert ids.shape == (4, TARGET)
    shapes = {**{name: tuple(t.shape) for name, t in arrays.items()}, "new_ids": tuple(ids.shape)}
    real = sum(t.numel() * t.element_size() for t in kept)
    assert spec.cache_bytes(asked, shapes, setting.element_bytes) == real > 0


@pytest.mark.parametrize("model", GENERATORS)
def test_without_a_generation_there_is_no_cache(model):
    assert spec_of(model).cache_bytes(request_of(model, "classify"), {"input_ids": (2, 9)}, 4) is None


def test_gpt2s_cache_per_token():
    """36 KiB per token in half precision: 2 (key and value) x 12 layers x 768 x 2 bytes."""
    spec, request = spec_of("gpt"), request_of("gpt", "generate", "base")
    sizes = [spec.cache_bytes(request, {"input_ids": (1, n), "new_ids": (1, 1)}, 2) for n in (10, 11)]
    assert sizes[1] - sizes[0] == 36 * 1024


def test_gpt2_flops_per_token_beside_the_usual_estimates():
    """The numbers of docs/numbers.md: GPT-2 124M at 1,024 tokens."""
    request = dataclasses.replace(request_of("gpt", "pretrain", "base"), vocab_size=50257)
    ours = 3 * spec_of("gpt").flops(request, {"input_ids": (1, 1024)}) / 1024
    attention = 12 * 12 * 12 * 64 * 1024
    palm, nano = 6 * 124_439_808 + attention, 6 * (124_439_808 - 1024 * 768) + attention
    assert (ours, palm, nano) == (854_438_400, 859_885_056, 855_166_464)


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_flops_of_downloaded_weights_follow_their_configuration(model, tmp_path):
    make(model, "pretrain", size="small")[1].body.save_pretrained(tmp_path)
    shapes = {"input_ids": (2, 10)}
    flops = spec_of(model).flops
    loaded = flops(request_of(model, "pretrain", "tiny", weights=str(tmp_path)), shapes)
    assert loaded == flops(request_of(model, "pretrain", "small"), shapes)


@pytest.mark.parametrize(
    ("model", "vocab", "millions", "tolerance"),
    [("bert", 30522, 110, 0.02), ("gpt", 50257, 124, 0.01), ("llama", 49152, 134.5, 0.001), ("t5", 32028, 223, 0.01)],
)
def test_base_is_the_published_size(model, vocab, millions, tolerance):
    with torch.device("meta"):
        _, module = make(model, "pretrain", size="base", vocab=vocab)
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(millions, rel=tolerance)


@pytest.mark.parametrize("model", ["bert", "gpt", "llama"])
def test_lengths_beyond_the_positions_are_unsupported(model):
    limit = spec_of(model).max_len("tiny")
    with pytest.raises(llmbench.Unsupported, match="smaller seq_len"):
        make(model, "classify", seq_len=limit + 1)


LAST_LAYER = {
    "bert": "body.encoder.layer.1.output.dense.weight",
    "gpt": "body.h.1.mlp.c_fc.weight",
    "llama": "body.layers.1.mlp.up_proj.weight",
    "t5": "body.encoder.block.1.layer.1.DenseReluDense.wi.weight",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("model", TRANSFORMERS)
def test_local_weights_are_loaded(model, head, tmp_path):
    """A folder written by transformers is the start of every head; the vocabulary is cut or grown to the tokenizer."""
    _, source = make(model, "pretrain", vocab=50)
    source.body.save_pretrained(tmp_path)
    _, module = make(model, head, weights=str(tmp_path))
    name = LAST_LAYER[model]
    alone = model == "t5" and head == "span"  # the encoder
    own = module.state_dict()[name.removeprefix("body.") if alone else name]
    assert torch.equal(own, source.state_dict()[name])
    body = module.encoder if alone else module.body
    assert body.get_input_embeddings().weight.shape[0] == V + (100 if model == "t5" else 0)
    out = module(**arrays_of(spec_of(model), head, features_of(head)))
    assert torch.isfinite(out["loss"])
    if head == "generate":
        assert out["logits"].shape[-1] == V


@pytest.mark.parametrize("model", [*RECURRENT, "word2vec"])
def test_what_knows_no_weights_refuses_them(model):
    with pytest.raises(llmbench.UserError, match="leave `weights` out"):
        make(model, next(iter(spec_of(model).layouts)), weights="some/model")


def test_spans_are_corrupted_so_that_nothing_is_lost():
    layout, ids = spec_of("t5").layouts["pretrain"], [SPECIAL.bos, *range(6, 55), SPECIAL.eos]
    ctx = llmbench.CollateContext(SPECIAL, 64, TARGET, V, True)
    arrays = layout.collate([{"ids": ids}], ctx).arrays
    source, target = arrays["input_ids"][0].tolist(), arrays["labels"][0].tolist()
    assert target[-1] == SPECIAL.eos and arrays["decoder_input_ids"][0].tolist() == [SPECIAL.bos, *target[:-1]]
    spans, current = {}, None
    for token in target[:-1]:
        if token >= V:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    assert [t for token in source for t in (spans[token] if token >= V else [token])] == ids
    assert sum(map(len, spans.values())) == round(0.15 * len(ids)) and len(spans) == 3
    assert arrays["scored"].sum() == sum(t not in (SPECIAL.bos, SPECIAL.eos) for span in spans.values() for t in span)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_rows_can_be_corrupted(length):
    ctx = llmbench.CollateContext(SPECIAL, 64, TARGET, V, True)
    arrays = spec_of("t5").layouts["pretrain"].collate([{"ids": [SPECIAL.bos, 9, 9][:length]}], ctx).arrays
    assert arrays["labels"][0, -1] == SPECIAL.eos and (arrays["labels"] >= V).sum() == (length > 1)


def test_attention_is_all_that_differs():
    """The same model with attention and without: only the decoder's look at the source is more."""
    with_it, without = (set(make(m, "generate")[1].state_dict()) for m in ("attention-rnn", "encoder-decoder-rnn"))
    assert {n for n in with_it - without if not n.startswith("decoder.cell")} == {
        *("keys.weight", "keys.bias", "decoder.query.weight", "decoder.score.weight")
    }


def test_skip_grams_learn_who_stands_beside_whom():
    """Of two words that always stand together one predicts the other, better than the frequencies do."""
    spec, module = make("word2vec", "pretrain")
    rng = np.random.default_rng(0)
    rows = [{"ids": [t for w in rng.integers(0, 10, 16) for t in (6 + w, 16 + w)]} for _ in range(16)]
    layout, ctx = (
        dataclasses.replace(spec.layouts["pretrain"], window=1),
        [llmbench.CollateContext(SPECIAL, 64, TARGET, V, train) for train in (True, False)],
    )
    train, test = ({k: torch.from_numpy(v) for k, v in layout.collate(rows, c).arrays.items()} for c in ctx)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
    for _ in range(40):
        module(**train)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    out = module.eval()(**test)
    unigram = np.log(20)
    assert (out["nll"].sum() / out["tokens"].sum()).item() < unigram - 0.5


@pytest.mark.parametrize(("model", "head"), CASES)
def test_parameters_by_formula_are_those_of_the_module(model, head):
    spec = spec_of(model)
    fields = {"seq_len": SEQ, "target_len": TARGET, "num_labels": 3}
    request = llmbench.BuildRequest(
        head=head, size="small", config=spec.sizes["small"], vocab_size=V, special=SPECIAL, **fields
    )
    with torch.device("meta"):
        module = spec.build(request)
    assert spec.parameters(request) == sum(p.numel() for p in module.parameters())
