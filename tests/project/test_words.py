"""Words of the code: functions are verbs, values are nouns, and a docstring says what a thing is."""

from __future__ import annotations

import ast
import re

import pytest
from support.paths import ROOT

FILES = sorted([*(ROOT / "llmbench").rglob("*.py"), *(ROOT / "plugins" / "llmbench_plugins").rglob("*.py")])
#: Participles that do not end in "ed".
IRREGULAR_WORDS = """
begun bent bought bound broken brought built caught chosen cut dealt done drawn driven eaten fallen felt forgotten found
given gone grown held hidden hung kept known laid left lent lost made meant met paid proven put risen said seen sent
shown sought spent spoken stood stuck sunk taken taught thought thrown told understood won worn wound written
"""
IRREGULAR = set(IRREGULAR_WORDS.split())
NOT_PARTICIPLES = {"feed", "need", "seed", "speed", "embed", "shed", "bed", "red", "exceed", "proceed", "unused"}
#: Names that users' scripts and plugins rely on, or that a library asks for: they stay.
EXCEPTIONS = {
    "applied": "name of a check of the conformance kit",
    "bound": "key of reports",
    "cache_dropped": "key of ceilings.json",
    "changed": "public: llmbench.Intervention, and key of reports",
    "ci_pct_reached": "key of reports",
    "ci_pct_wanted": "key of reports",
    "compiled": "public: llmbench.Trial, llmbench.EngineRequest",
    "doubled": "key of reports",
    "found_plugins": "public: llmbench.found_plugins",
    "frames_compiled": "key of records",
    "known": "public: llmbench.conformance.known",
    "largest_batch_tried": "key of records",
    "masked": "public: llmbench.ModelSpec",
    "memory_used": "public: llmbench.Trial, and key of records",
    "merged": "public: llmbench.Trial",
    "onednn_enabled": "key of environment.json",
    "paced": "public: llmbench.Trial",
    "planned": "public: llmbench.planned",
    "planted_command": "of `llmbench planted`; every command is NAME_command",
    "pretokenized": "key of suites and records",
    "reached": "key of reports",
    "regressed": "public: a property of what Results.compare returns",
    "regrouped": "public: llmbench.Trial",
    "repeats_wanted": "key of reports",
    "retry_failed": "the option --retry-failed, and a parameter of llmbench.run",
    "samples_wanted": "key of records",
    "spent": "key of records",
    "steps_wanted": "key of reports",
    "suspect_verified": "key of reports",
    "sweep_ended": "key of ceilings.json",
    "timed": "public: llmbench.Trial",
    "treated": "public: llmbench.Intervention",
    "unsupported": "name of a check of the conformance kit",
}
CIRCLING = re.compile(r"(Return|Yield|Print|Write|Say|Give) (what|how it|that which)\b")


def is_participle(word: str) -> bool:
    return word in IRREGULAR or (word.endswith("ed") and word not in NOT_PARTICIPLES)


def wrong_names(tree: ast.AST) -> list[str]:
    """Functions, methods and fields that are named by a participle, or begin with one, with their lines."""
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if is_participle(node.name.strip("_").split("_")[0]):
                wrong.append((node.lineno, node.name))
        elif isinstance(node, ast.ClassDef):
            for field in node.body:
                name = getattr(getattr(field, "target", None), "id", "") if isinstance(field, ast.AnnAssign) else ""
                if is_participle(name.strip("_")):
                    wrong.append((field.lineno, name))
    return [f"{line}: {name}" for line, name in wrong if name not in EXCEPTIONS]


def circling_docstrings(tree: ast.AST) -> list[str]:
    """Docstrings that go around what they are about ("Return what ..."), with their lines."""
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if CIRCLING.match(text):
                wrong.append(f"{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_verbs_and_values_are_nouns(path):
    assert wrong_names(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_name_the_thing(path):
    assert circling_docstrings(ast.parse(path.read_text())) == []


def test_the_check_of_words_sees():
    names = (
        "def told(): pass\nclass A:\n    kept: int\n    seed: int\n    kept_s: float\n    def _measured_s(self): pass"
    )
    assert wrong_names(ast.parse(names)) == ["1: told", "3: kept", "6: _measured_s"]
    text = 'def f():\n    """Return what is there."""\ndef g():\n    """Return the median in seconds."""'
    assert circling_docstrings(ast.parse(text)) == ["1: Return what is there."]
