from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.contract.errors import DataError, SuiteError
from llmbench.contract.specs import SpecialTokens
from llmbench.worker.data import tokenizer as tok

TEXTS = ["the cat sat on the mat", "ein Hund läuft", "你好 世界", "a <unk> and a <mask>", "it 's 1999 , naïve"] * 20


@pytest.fixture(scope="module")
def small() -> tok.BpeTokenizer:
    return tok.train(TEXTS, 300)


def test_special_tokens_have_their_ids(small):
    assert tok.SPECIAL_NAMES == ("<pad>", "<unk>", "<bos>", "<eos>", "<sep>", "<mask>")
    special = SpecialTokens()
    marks = [special.bos, *small.encode("the cat"), special.eos, special.pad, special.mask]
    assert small.decode(marks) == "the cat"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" "), min_size=1), max_size=6))
def test_any_single_spaced_text_comes_back(small, words):
    text = " ".join(words)
    ids, offsets = small.encode_with_offsets(text)
    assert small.decode(ids) == text
    assert ids == small.encode(text)
    assert all(0 <= a <= b <= len(text) and not text[a:b].startswith(" ") for a, b in offsets)
    assert set().union(*(range(a, b) for a, b in offsets)) >= {i for i, c in enumerate(text) if c != " "}


def test_special_names_in_a_text_are_text(small):
    ids = small.encode("a <unk> <mask>")
    assert min(ids) > 5
    assert small.decode(ids) == "a <unk> <mask>"


@pytest.mark.parametrize("text", ["the cat", " the cat", "  the   cat"])
def test_offsets_leave_leading_spaces_out(small, text):
    ids, offsets = small.encode_with_offsets(text)
    assert "".join(text[a:b] for a, b in offsets) == text.replace(" ", "")
    assert len(ids) == len(offsets)


def test_batch_equals_single(small):
    assert small.encode_batch(TEXTS[:5]) == [small.encode(t) for t in TEXTS[:5]]
    assert small.encode_batch([]) == []
    assert small.encode("") == []
    assert small.decode([]) == ""


def test_vocab_size_is_the_real_one(small):
    assert small.vocab_size == 300
    assert tok.train(["ab"], 5000).vocab_size == tok.MIN_VOCAB_SIZE
    assert max(max(small.encode(t)) for t in TEXTS) < small.vocab_size
    with pytest.raises(SuiteError, match="262 or more"):
        tok.train(TEXTS, 100)


def test_save_load_and_pickle(small, tmp_path):
    path = tmp_path / "deep" / "tokenizer.json"
    small.save(path)
    small.save(path)
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]
    for other in (tok.load(path), pickle.loads(pickle.dumps(small))):
        assert other.to_json() == small.to_json()
        assert other.encode("a <unk> 世") == small.encode("a <unk> 世")


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_broken_file_is_one_line(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        tok.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_training_is_the_same_in_another_process_and_a_fork_is_silent(small):
    code = (
        "import sys, os, hashlib; from llmbench.worker.data import tokenizer as tok\n"
        f"t = tok.train({TEXTS!r}, 300); t.encode_batch(['the cat'] * 64)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    t.encode_batch(['the cat'] * 64); os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "sys.stdout.write(t.to_json())"
    )
    env = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"} | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stderr == ""
    assert done.stdout == small.to_json()
