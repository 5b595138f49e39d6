"""Sizes as suites name them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.contract.errors import PluginError
from llmbench.contract.sizes import Size, configuration, parameters, parse_size, scale_size, times, with_settings
from llmbench.contract.specs import BuildRequest, ModelSpec, SpecialTokens
from llmbench.plugins.discovery import discover

WORDS = st.text("abcdefgh_", min_size=1, max_size=6)
NET = ModelSpec("net", {"tiny": {"hidden": 8, "dropout": 0.1, "kind": "gelu"}}, {}, None)


@given(WORDS, st.dictionaries(WORDS, st.integers(1, 10**6), max_size=3), st.sampled_from([1.0, 2.0, 0.125, 1e-3]))
def test_a_size_reads_what_it_writes(name, settings, factor):
    size = Size(name, tuple((k, str(v)) for k, v in settings.items()), factor)
    assert parse_size(str(size)) == size


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_one_line(text):
    try:
        assert str(parse_size(str(parse_size(text)))) == str(parse_size(text))
    except PluginError as error:
        assert "\n" not in str(error) or "\n" in text


def test_twice_a_half_is_the_size_itself():
    assert times("tiny*0.5", 2) == "tiny" and times("tiny", 2) == "tiny*2"
    assert times("tiny:hidden=4", 0.125) == "tiny:hidden=4*0.125"
    assert with_settings("tiny:hidden=4*2", {"hidden": 6, "layers": 1}) == "tiny:hidden=6,layers=1*2"


def test_settings_replace_values_in_their_type():
    found = configuration(NET, "tiny:hidden=16,dropout=0,kind=relu", 300)
    assert found == {"hidden": 16, "dropout": 0.0, "kind": "relu"} and isinstance(found["dropout"], float)
    assert NET.sizes["tiny"]["hidden"] == 8


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ("tinny", "no size 'tinny' (did you mean 'tiny'?)"),
        ("tiny:hiden=4", "no 'hiden' (did you mean 'hidden'?)"),
        ("tiny:hidden=x", "hidden must be a whole number of at least 1"),
        ("tiny:hidden=0", "hidden must be a whole number of at least 1"),
        ("tiny*2", "cannot be scaled"),
        ("tiny*0", "write NAME"),
        ("tiny:hidden", "write NAME"),
    ],
)
def test_a_wrong_size_is_told_in_one_line(size, told):
    with pytest.raises(PluginError, match=r"^[^\n]*$") as error:
        configuration(NET, size, 300)
    assert told in str(error.value)


MODELS = ["lstm", "bert", "gpt", "llama", "t5", "word2vec", "sentence2vec"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("factor", [0.125, 0.5, 2.0, 8.0])
def test_a_factor_is_of_the_parameters(model, factor):
    spec = discover().get("model", model)
    config, x = scale_size(spec, f"tiny*{factor}", 500)
    assert parameters(spec, config, 500) / parameters(spec, spec.sizes["tiny"], 500) == pytest.approx(factor, rel=0.15)
    assert (x < 1) == (factor < 1) and x == pytest.approx(config["hidden"] / spec.sizes["tiny"]["hidden"], rel=0.3)


@pytest.mark.parametrize("model", MODELS)
def test_the_smallest_model_has_one_unit_and_one_head(model):
    config = configuration(discover().get("model", model), "tiny*0.00001", 500)
    assert config["hidden"] == (2 if model == "llama" else 1) and config.get("heads", 1) == 1


def test_a_scaled_size_is_built(tmp_path):
    spec = discover().get("model", "gpt")
    config = configuration(spec, "tiny:layers=1*0.5", 300)
    request = BuildRequest("classify", "tiny:layers=1*0.5", config, 300, SpecialTokens(*range(6)), 32, 8, num_labels=2)
    assert sum(p.numel() for p in spec.build(request).parameters()) == spec.parameters(request)
