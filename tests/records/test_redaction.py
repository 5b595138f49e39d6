"""Nothing personal is left, nothing else is lost."""

from __future__ import annotations

import copy
import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.paths import RESULTS

from llmbench.records.redaction import REMOVED, scrub

NAMES = ("alice", "box-17.example")
ROOT = "/" + "root"  # the home of the administrator


@pytest.mark.parametrize(
    "text, left",
    [
        ("/home/alice/data/x.txt", "~/data/x.txt"),
        ("/Users/bob/x and C:\\Users\\bob\\x", "~/x and ~\\x"),
        (f"cp {ROOT}/a /srv{ROOT}/b", f"cp ~/a /srv{ROOT}/b"),
        ("ran by Alice on box-17.example:8080", "ran by * on *:8080"),
        ("malice is no alice", "malice is no *"),
        ("HF_TOKEN=hf_abcdefghijklmnopqrst run", f"HF_TOKEN={REMOVED} run"),
        ("AWS_SECRET_ACCESS_KEY=abc/def", f"AWS_SECRET_ACCESS_KEY={REMOVED}"),
        ("Authorization: Bearer abcdef123456", f"Authorization: Bearer {REMOVED}"),
        ("https://me:pw@hub.example/x", "https://hub.example/x"),
        ("mail a.b@c.example now", "mail * now"),
        ('File "/srv/p/app.py", line 3', 'File "app.py", line 3'),
        ("/opt/v/lib/python3/site-packages/torch/nn.py", "torch/nn.py"),
        ("\x1b[31mred\x1b[0m\x07", "red"),
        ("key ghp_abcdefghijklmnop1234", f"key {REMOVED}"),
    ],
)
def test_what_is_taken_out(text, left):
    assert scrub(text, NAMES) == left


@pytest.mark.parametrize(
    "text",
    ["step_tokens", "tokenizer: bpe-1024@e45a0c6aa688", "synthetic@590c7266678b", "llmbench run quick", "a/b/c", "0.5"],
)
def test_what_stays(text):
    assert scrub(text, NAMES) == text


def test_secrets_by_their_name():
    found = scrub({"variables": {"HF_TOKEN": "x", "api_key": "y", "OMP_NUM_THREADS": "2"}, "tokens": 50.0})
    assert found == {"variables": {"HF_TOKEN": REMOVED, "api_key": REMOVED, "OMP_NUM_THREADS": "2"}, "tokens": 50.0}


def test_names_of_nobody_stay():
    assert scrub("the square root, ab", ["root", "ab"]) == "the square root, ab"


PARTS = (
    *("alice", "/home/", "/", "\\", "box-17.example", "hf_", "a" * 18, "@", ".", "TOKEN", "=", " ", "\x1b[1m", "~"),
    *("C:", "Users", "-", '"', "File ", "x", "site-packages/", "/root", "Bearer ", "://", ":", "[removed]"),
)
PIECES = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)


@example("alicehf_" + "a" * 18)  # a token right behind a word
@given(PIECES | st.text(max_size=40))
def test_twice_is_once_and_no_name_is_left(text):
    once = scrub(text, NAMES)
    assert scrub(once, NAMES) == once
    assert not re.search(r"(?i)(?<![A-Za-z0-9])(alice|box-17\.example)(?![A-Za-z0-9])", once)
    assert "/home/a" not in once.replace("/home/*", "") and not re.search(r"hf_[A-Za-z0-9]{18}", once)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["cell", "ok", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a_s", "b", "counts"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON)
def test_what_is_not_personal_is_unchanged(value):
    assert scrub(copy.deepcopy(value), NAMES) == value


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.json*")), ids=lambda p: str(p.relative_to(RESULTS)))
def test_published_results_hold_nothing_personal(path):
    if "local" in path.relative_to(RESULTS).parts:
        pytest.skip("not published")
    text = path.read_text()
    values = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    assert scrub(values) == values
