"""Layouts: what is padded, cut, masked and counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench import layouts
from llmbench.contract.specs import CollateContext, SpecialTokens

SPECIAL = SpecialTokens()


def context(seq_len=32, target_len=8, train=True, seed=0):
    return CollateContext(SPECIAL, seq_len, target_len, 100, train, seed)


ids = st.lists(st.integers(6, 99), min_size=1, max_size=60)


@given(st.lists(ids, min_size=1, max_size=6))
def test_single_counts_every_position_once(texts):
    batch = layouts.Single().collate([{"ids": t, "label": 1} for t in texts], context())
    assert batch.tokens == sum(min(len(t), 30) + 2 for t in texts)
    assert batch.tokens + batch.padding_tokens == batch.arrays["input_ids"].size
    assert (batch.arrays["input_ids"] != SPECIAL.pad).sum() == batch.tokens


@given(ids, ids, st.data())
def test_pair_label_points_at_the_answer_in_training(question, answer_context, data):
    start = data.draw(st.integers(0, len(answer_context) - 1))
    end = data.draw(st.integers(start, min(start + 3, len(answer_context) - 1)))
    feature = {"question": question, "context": answer_context, "start": start, "end": end}
    for layout in (layouts.Pair(), layouts.TwoSequences()):
        arrays = layout.collate([feature], context()).arrays
        first, last, offset = (int(arrays[k][0]) for k in ("start_positions", "end_positions", "offset"))
        assert (first - offset, last - offset) == (start, end)
        assert arrays["input_ids"][0, first : last + 1].tolist() == answer_context[start : end + 1]
        assert arrays["answer_mask"][0, first : last + 1].all()


def test_pair_in_evaluation_shows_the_beginning_and_no_labels():
    feature = {"question": [7], "context": list(range(10, 90)), "start": 70, "end": 71}
    arrays = layouts.Pair().collate([feature], context(train=False)).arrays
    assert "start_positions" not in arrays
    assert arrays["input_ids"][0, int(arrays["offset"][0])] == 10


@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=4))
def test_prompt_completion_learns_the_completion_only(pairs):
    features = [{"source": s, "target": t} for s, t in pairs]
    arrays = layouts.PromptCompletion().collate(features, context()).arrays
    for row, (_, target) in enumerate(pairs):
        learned = arrays["labels"][row][arrays["labels"][row] != layouts.IGNORE].tolist()
        assert learned == [*target[:7], SPECIAL.eos]
    prompts = layouts.PromptCompletion().collate(features, context(train=False)).arrays
    assert (prompts["input_ids"][:, -1] == SPECIAL.sep).all()


def test_encoder_decoder_shifts_by_one():
    arrays = layouts.EncoderDecoder().collate([{"source": [7, 8], "target": [9, 10]}], context()).arrays
    assert arrays["decoder_input_ids"].tolist() == [[SPECIAL.bos, 9, 10]]
    assert arrays["labels"].tolist() == [[9, 10, SPECIAL.eos]]


@given(st.lists(ids, min_size=1, max_size=4), st.integers(0, 5))
def test_masked_blocks_choose_some_and_only_words(rows, seed):
    features = [{"ids": [SPECIAL.bos, *r[:28], SPECIAL.eos]} for r in rows]
    one = layouts.MaskedBlocks().collate(features, context(seed=seed)).arrays
    two = layouts.MaskedBlocks().collate(features, context(seed=seed)).arrays
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert ((one["labels"] != layouts.IGNORE).sum(axis=1) >= 1).all()
    assert not np.isin(one["labels"], [SPECIAL.pad, SPECIAL.bos, SPECIAL.eos]).any()


def test_masking_rate_is_bert_s():
    rng = np.random.default_rng(0)
    features = [{"ids": rng.integers(6, 100, 30).tolist()} for _ in range(400)]
    arrays = layouts.MaskedBlocks().collate(features, context()).arrays
    chosen = arrays["labels"] != layouts.IGNORE
    assert chosen.mean() == pytest.approx(0.15, abs=0.015)
    assert (arrays["input_ids"][chosen] == SPECIAL.mask).mean() == pytest.approx(0.8, abs=0.04)
