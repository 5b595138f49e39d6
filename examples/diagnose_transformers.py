"""A model and a collator, as for the `Trainer` of transformers. What bounds a step?

llmbench diagnose examples/diagnose_transformers.py:target

With a `Trainer`: {"model": trainer.model, "data": trainer.get_train_dataloader(),
"optimizer": trainer.create_optimizer()}.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, DataCollatorWithPadding, PreTrainedTokenizerFast

ROWS, LONGEST = 16, 64


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a tokenizer of words on `texts` and return it."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def target() -> dict[str, object]:
    """Return a BERT that tells code from comments, and batches padded to their longest line."""
    torch.manual_seed(0)
    lines = [line.strip() for line in Path(random.__file__).read_text(encoding="utf-8").splitlines() if line.strip()]
    tokenizer = tokenizer_of(lines)
    encoded = tokenizer(lines, truncation=True, max_length=LONGEST)
    rows = [
        {"input_ids": ids, "attention_mask": mask, "labels": int(line.startswith("#"))}
        for ids, mask, line in zip(encoded["input_ids"], encoded["attention_mask"], lines, strict=True)
    ]
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512
    )
    loader = DataLoader(rows, batch_size=ROWS, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
    return {"model": BertForSequenceClassification(config), "data": loader}
