"""Cells are alike by what they are, whatever version of llmbench recorded them."""

from __future__ import annotations

import dataclasses

from llmbench.analysis.studies.alike import DERIVED, fields_of, group, key_of
from llmbench.contract.cell import Cell

CELL = Cell("m", "tiny:hidden=64,act=gelu*2", "t", "file:news@1", "finetune", tokenizer="bpe-2048@a", parent="p")


def cell(**fields):
    return dataclasses.replace(CELL, **fields).to_json()


def test_a_record_that_is_too_old_for_a_field_has_its_default():
    old = {name: value for name, value in cell().items() if name not in ("attention", "lora", "threads")}
    assert fields_of(old) == fields_of(cell()) and fields_of(old)["attention"] == "sdpa"
    assert key_of(old) == key_of(cell()) != key_of(cell(attention="eager"))


def test_settings_of_a_size_are_fields_of_their_own():
    fields = fields_of(cell())
    assert (fields["size.hidden"], fields["size.act"], fields["size"]) == (64, "gelu", ("tiny", 2.0))
    assert key_of(cell(), ("size.hidden",)) == key_of(cell(size="tiny:hidden=128,act=gelu*2"), ("size.hidden",))
    assert key_of(cell()) != key_of(cell(size="tiny:hidden=128,act=gelu*2"))


def test_a_size_that_is_left_out_is_left_out_with_its_settings():
    assert not [name for name in fields_of(cell(), ("size",)) if name.startswith("size")]


def test_derived_fields_are_left_out_unless_others_are_named():
    assert not set(DERIVED) & fields_of(cell()).keys()
    assert fields_of(cell(), ("seed",))["tokenizer"] == "bpe-2048@a"


def test_data_are_named_without_fingerprints_where_only_their_names_count():
    other = cell(dataset="file:news@2", tokenizer="bpe-2048@b")
    assert key_of(cell(), ("parent",)) != key_of(other, ("parent",))
    assert key_of(cell(), ("parent",), fingerprints=False) == key_of(other, ("parent",), fingerprints=False)
    changed = cell(tokenizer="words-2048@a")
    assert key_of(cell(), ("parent",), fingerprints=False) != key_of(changed, ("parent",), fingerprints=False)


def test_a_field_of_a_newer_version_tells_cells_apart():
    assert key_of({**cell(), "later": [1]}) != key_of({**cell(), "later": [2]})


def test_groups_are_in_the_order_in_which_cells_come():
    cells = [cell(seed=1), cell(seed=0, steps=5), cell(seed=0), cell(seed=2, steps=5)]
    groups = group(enumerate(cells), lambda one: one[1], (*DERIVED, "seed"))
    assert [[number for number, _ in members] for members in groups.values()] == [[0, 2], [1, 3]]
