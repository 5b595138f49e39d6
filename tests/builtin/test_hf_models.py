"""Models of transformers from a folder: how they are named, what they read, and low-rank adapters."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil

import pytest
import safetensors.torch
import torch
from support import model_cases as models

import llmbench
from llmbench.contract import pretrained
from llmbench.contract.job import Job
from llmbench.plugins import discovery
from llmbench.suite import file, plan
from llmbench.worker.data.pretrained_tokenizer import load as load_tokenizer
from llmbench.worker.job import run_job
from llmbench_plugins.models import hf

V = models.V
KINDS = {"llama": "causal", "t5": "seq2seq", "bert": "masked", "bart": "seq2seq"}
SUITE = """name: small
matrix: {model: "hf:${folder}", size: tiny, task: classification, stage: [pretrain, finetune, eval]}
defaults: {batch_size: 4, seq_len: 32, vocab_size: 400, train_examples: 60, test_examples: 12, steps: 3, lora: 2}
repeats: 1
budget: {seconds: 0.2}
verify: none
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_model(kind):
    import transformers as tf

    torch.manual_seed(0)
    if kind == "llama":  # grouped, and its output projection is a matrix of its own
        sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
        return tf.LlamaForCausalLM(
            tf.LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, **sizes)
        )
    if kind == "t5":
        sizes = {"num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
        return tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=64, **sizes))
    if kind == "bart":
        halves = {f"{half}_{name}": 2 for half in ("encoder", "decoder") for name in ("layers", "attention_heads")}
        widths = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0, "pad_token_id": 0}
        return tf.BartForConditionalGeneration(tf.BartConfig(vocab_size=50, d_model=32, **halves, **widths))
    sizes = {"num_attention_heads": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tf.BertForMaskedLM(
        tf.BertConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, **sizes)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("saved")
    for kind in KINDS:
        random_model(kind).save_pretrained(base / f"tiny-{kind}")
    return {kind: base / f"tiny-{kind}" for kind in KINDS}


def make(folder, head, **changes):
    spec = hf.of_weights(str(folder))
    fields = {"seq_len": models.SEQ, "target_len": models.TARGET, "num_labels": 3, "weights": str(folder), **changes}
    request = llmbench.BuildRequest(head, "own", {}, V, models.SPECIAL, **fields)
    torch.manual_seed(0)
    return spec, request, spec.build(request)


CASES = [(k, h) for k, kind in KINDS.items() for h in models.HEADS if h in hf.BUILDERS[kind][1]]


# --- names ----------------------------------------------------------------------------------------------


def test_a_model_is_named_by_folder_and_content(folders, tmp_path):
    first = pretrained.locate(str(folders["llama"]))
    name, _, fingerprint = first.identity.partition("@")
    assert name == "tiny-llama" and len(fingerprint) == 12 and first.vocab_size == 50 and not first.has_tokenizer
    copy = shutil.copytree(folders["llama"], tmp_path / "elsewhere" / "tiny-llama")
    assert pretrained.locate(str(copy)).identity == first.identity
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert pretrained.locate(str(copy)).identity != first.identity


def test_what_is_no_model_is_said_in_one_line(tmp_path):
    with pytest.raises(llmbench.UserError, match=r"has no config\.json"):
        pretrained.locate(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"]}))
    with pytest.raises(llmbench.UserError, match="no weights"):
        pretrained.locate(str(tmp_path))
    with pytest.raises(llmbench.UserError, match="ViTForImageClassification"):
        hf.of_weights(str(tmp_path))


def planned(tmp_path, text, **folders):
    (tmp_path / "small.yaml").write_text(text)
    loaded = file.load_suite(str(tmp_path / "small.yaml"), [f"{k}={v}" for k, v in folders.items()])
    return loaded, plan.plan_cells(loaded, discovery.discover())


def test_cells_hold_no_path(folders, tmp_path):
    _, found = planned(tmp_path, SUITE, folder=folders["bert"])
    cells = {p.cell.stage: p.cell for p in found.cells}
    identity = pretrained.locate(str(folders["bert"])).identity
    assert {c.model for c in cells.values()} == {f"hf:{identity}"} and {c.size for c in cells.values()} == {"own"}
    assert [cells[s].lora for s in ("pretrain", "finetune", "eval")] == [None, 2, 2]
    assert cells["finetune"].tokenizer.startswith("bpe-400@") and found.weights == {identity: str(folders["bert"])}
    assert str(tmp_path.anchor + "tmp") not in json.dumps([c.to_json() for c in cells.values()])
    assert "${folder}" in found.suite.to_yaml()


def test_weights_are_named_alike(folders, tmp_path):
    text = SUITE.replace('"hf:${folder}"', "llama").replace("lora: 2", 'weights: "${folder}"')
    _, found = planned(tmp_path, text, folder=folders["llama"])
    identity = pretrained.locate(str(folders["llama"])).identity
    assert {(p.cell.model, p.cell.size, p.cell.weights) for p in found.cells} == {("llama", "tiny", identity)}


@pytest.mark.parametrize(
    ("model", "said"),
    [("hf", "write hf:NAME_OR_PATH"), ("gpt:x", "write model: gpt, weights: x"), ("hff:x", "unknown model 'hff'")],
)
def test_wrong_names_are_refused(model, said, tmp_path):
    with pytest.raises(llmbench.UserError, match=said):
        planned(tmp_path, SUITE.replace('"hf:${folder}"', f'"{model}"'))


def test_adapters_for_what_has_none_are_blocked(tmp_path):
    _, found = planned(tmp_path, SUITE.replace('"hf:${folder}"', "lstm"))
    blocked = {p.cell.stage: p.obstacle for p in found.cells}
    assert blocked["pretrain"] is None and "no low-rank adapters" in blocked["finetune"]


# --- modules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "head"), CASES)
def test_every_head_learns_from_the_weights(kind, head, folders):
    spec, _, module = make(folders[kind], head)
    arrays = models.arrays_of(spec, head, models.features_of(head))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = module(**arrays)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    if head == "generate":
        made = module.eval().generate(models.arrays_of(spec, head, models.features_of(head), train=False), 4)
        assert made.shape[0] == 4 and int(made.max()) < V
    if head == "pretrain":
        out = module.eval()(**models.arrays_of(spec, head, models.features_of(head), train=False))
        assert torch.isfinite(out["nll"]).all() and (out["tokens"] > 0).all()


def test_the_weights_are_those_of_the_folder(folders):
    """An output projection of its own is kept, too."""
    _, _, module = make(folders["llama"], "generate")
    saved = safetensors.torch.load_file(folders["llama"] / "model.safetensors")
    assert torch.equal(module.lm_head.weight[:50], saved["lm_head.weight"])
    assert torch.equal(module.body.embed_tokens.weight[:50], saved["model.embed_tokens.weight"])
    assert module.lm_head.weight is not module.body.embed_tokens.weight


@pytest.mark.parametrize(("kind", "head"), [(k, h) for k, h in CASES if k in ("llama", "t5", "bert")])
def test_flops_by_analysis_are_those_that_are_counted(kind, head, folders):
    from llmbench.worker.torch_engine.engine import TorchEngine
    from llmbench.worker.torch_engine.operator_counter import totals
    from llmbench.worker.torch_engine.tracing import StepOf, count

    spec, request, _ = make(folders[kind], head)
    engine = TorchEngine(device="cpu", precision=llmbench.PrecisionSpec("fp32"))
    engine.build(spec, request, seed=0)
    engine.prepare_training(learning_rate=1e-3, steps=10, optimizer="adamw")
    ctx = llmbench.CollateContext(models.SPECIAL, models.SEQ, models.TARGET, V, True)
    batch = spec.layouts[head].collate(models.features_of(head), ctx)
    rows, shapes = count(StepOf(engine, batch, True, models.TARGET))
    analysis, sums = spec.flops(request, shapes), totals(rows)
    if (kind, head) == ("bert", "classify"):
        assert analysis is None  # no pooler: not the bert plugin's formula
    else:
        assert 3 * analysis == pytest.approx(sums["flops"] - sums["recomputed_flops"], rel=0.02)
    assert spec.flops(dataclasses.replace(request, lora=2), shapes) is None


# --- adapters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "head"), [(k, h) for k, h in CASES if h != "pretrain"])
def test_adapters_alone_are_trained(kind, head, folders, tmp_path):
    pytest.importorskip("peft")
    spec, _, module = make(folders[kind], head, lora=2)
    trained = {n for n, p in module.named_parameters() if p.requires_grad}
    outside = {n for n in trained if "lora_" not in n}
    assert trained - outside and all(n.startswith(("classifier.", "span.", "lm_head.")) for n in outside)
    assert bool(outside) == (head != "generate" or kind == "llama")  # the untied projection is part of the head
    frozen = {n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    arrays = models.arrays_of(spec, head, models.features_of(head))
    first = module(**arrays)["loss"]
    first.backward()
    optimizer.step()
    assert module(**arrays)["loss"].item() < first.item()
    assert all(torch.equal(p, frozen[n]) for n, p in module.named_parameters() if n in frozen)


@pytest.mark.parametrize(
    ("kind", "name", "inside"),
    [("llama", "layers.0.self_attn.q_proj", ""), ("bert", "encoder.layer.0.attention.self.query", "bert.")],
)
def test_a_pretrained_checkpoint_goes_under_the_adapters(kind, name, inside, folders):
    pytest.importorskip("peft")
    _, _, source = make(folders[kind], "pretrain")
    with torch.no_grad():
        for p in source.parameters():
            p.add_(1.0)
    _, _, module = make(folders[kind], "classify", lora=2)
    taken = module.load_pretrained(source.state_dict())
    assert f"body.{inside}{name}.weight" in taken
    own, theirs = module.body.get_submodule(name), source.body.get_submodule(inside + name)
    assert torch.equal(own.base_layer.weight, theirs.weight)


# --- tokenizers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_tokenizer(folders, tmp_path_factory):
    """The Llama with a tokenizer beside it that lacks two special tokens, and has `cls` and `sep` as BERT has."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds

    folder = shutil.copytree(folders["llama"], tmp_path_factory.mktemp("own") / "named")
    inner = Tokenizer(kinds.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    marks = ["[CLS]", "[SEP]", "[PAD]"]
    inner.train_from_iterator(
        ["a b"], trainers.BpeTrainer(special_tokens=marks, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    inner.save(str(folder / "tokenizer.json"))
    named = {"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


def test_its_own_tokenizer_has_every_special_token(with_tokenizer):
    tokenizer = load_tokenizer(str(with_tokenizer))
    special = tokenizer.special
    assert (special.bos, special.eos, special.sep, special.pad) == (0, 1, 1, 2)
    assert {special.unk, special.mask} == {tokenizer.vocab_size - 2, tokenizer.vocab_size - 1}
    ids = tokenizer.encode("héllo wörld")
    assert tokenizer.decode([special.bos, *ids, special.eos, special.unk, special.pad]) == "héllo wörld"
    assert pickle.loads(pickle.dumps(tokenizer)).encode("a") == tokenizer.encode("a")


@pytest.mark.parametrize("own", [False, True], ids=["suite", "own"])
def test_whole_jobs(own, folders, with_tokenizer, tmp_path):
    """Pretrain, fine-tune adapters, evaluate: with the suite's tokenizer, and with the model's own."""
    pytest.importorskip("peft")
    loaded, found = planned(tmp_path, SUITE, folder=with_tokenizer if own else folders["t5"])
    assert all((p.cell.tokenizer == p.cell.begins_with) == own for p in found.cells)
    for one in found.cells:
        job = Job.single(
            one.cell,
            loaded.budget,
            str(tmp_path),
            sources=found.sources,
            corpora=found.corpora,
            weights=found.weights,
        )
        record = run_job(job, lambda event: None)
        assert record["status"] == "ok" and record["checkpoint"]["from"] == (one.cell.parent or one.cell.begins_with)
        assert str(tmp_path) not in json.dumps(record["cell"])
    assert record["quality"]["values"]["accuracy"] >= 0
