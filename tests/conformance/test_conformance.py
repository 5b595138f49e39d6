"""The conformance kit: it fails what is broken, for the right reason, and passes what is built in."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from support.commands import call
from support.paths import SUPPORT

from llmbench import conformance
from llmbench.plugins import scaffold
from llmbench.plugins.discovery import discover
from llmbench.plugins.registry import KINDS

_SPEC = importlib.util.spec_from_file_location("breakages", SUPPORT / "breakages.py")
breakages = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(breakages)
QUICK = ("unknown_metric", "another_identity", "wrong_value", "changes_the_model", "shows_the_time")
BROKEN = [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in breakages.BREAKAGES]
LIGHT = (("reporter", "html"), ("remedy", "bf16"), ("dataset", "file"))
OTHERS = [(kind, name) for kind in KINDS for name in discover().names(kind) if (kind, name) not in LIGHT]
LIMIT_S = 900.0  # a check takes seconds; on a machine that does other work, minutes
LONG = {"model", "cause", "engine", "precision"}  # kinds whose checks train: minutes for all of them
ALL = [
    *LIGHT,
    *(pytest.param(*one, marks=[pytest.mark.long if one[0] in LONG else pytest.mark.slow]) for one in OTHERS),
]


def test_there_are_enough_broken_plugins_of_every_kind():
    kinds = [kind for kind, *_ in breakages.BREAKAGES.values()]
    assert len(kinds) >= 20 and set(kinds) == set(KINDS)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_fails_for_the_right_reason(name, tmp_path):
    kind, check, words, path = breakages.write(name, tmp_path)
    limit_s = 20.0 if name == "hangs" else LIMIT_S
    (verdict,) = conformance.check(str(path), kind=kind, only=[check], limit_s=limit_s)
    assert verdict.status == conformance.FAILED and words in verdict.reason, verdict


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_what_is_built_in_passes(kind, name):
    found = conformance.check(name, kind=kind, limit_s=LIMIT_S)
    lacking = [one.reason for one in found if " lacks " in one.reason and "pip install" in one.reason]
    if lacking:
        pytest.skip(lacking[0])
    assert [str(one) for one in found if one.status == conformance.FAILED] == []
    assert any(one.status == conformance.PASSED for one in found)


def marks_of(kind):
    return [pytest.mark.long] if kind in LONG else [] if kind in dict(LIGHT) else [pytest.mark.slow]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=marks_of(kind)) for kind in KINDS])
def test_complete_plugins_to_copy_pass(kind):
    path = Path(scaffold.__file__).parent / "examples" / f"{kind}.py"
    verdicts = conformance.check(str(path), limit_s=LIMIT_S)
    assert [str(one) for one in verdicts if one.status == conformance.FAILED] == []
    assert {one.kind for one in verdicts} >= {kind}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_scaffolded_passes(kind, tmp_path):
    folder = scaffold.write("my-own", kind, tmp_path, discover())
    found = conformance.check(str(folder / "llmbench_my_own.py"), limit_s=LIMIT_S)
    assert [str(one) for one in found if one.status == conformance.FAILED] == []


def test_one_line_per_check_and_json(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(scaffold.plugin_source("mine", "remedy"))
    code, out, _ = call(capsys, "plugins", "check", str(path), "--limit", str(LIMIT_S))
    assert code == 0 and len(out.splitlines()) == len(conformance.names("remedy"))
    path = breakages.write("trains_on_more", tmp_path)[-1]
    code, out, _ = call(capsys, "plugins", "check", str(path), "--only", "scope", "--json")
    found = json.loads(out)
    assert code == 1 and found["counts"] == {"passed": 0, "failed": 1, "does not apply": 0}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["brt"], "did you mean 'bert'"),
        (["nothing.py"], "no such file"),
        (["csv", "--only", "hostle"], "did you mean 'hostile'"),
    ],
)
def test_mistakes_are_one_line(words, says, capsys):
    code, out, err = call(capsys, "plugins", "check", *words)
    assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1


def test_a_plugin_that_does_not_load_fails(tmp_path):
    (tmp_path / "bad.py").write_text("LLMBENCH_API = 99\n")
    (verdict,) = conformance.check(str(tmp_path / "bad.py"))
    assert verdict.status == conformance.FAILED and "needs plugin API 99" in verdict.reason


def test_the_fixture_passes_fails_and_skips(llmbench_conformance):
    llmbench_conformance("remedy", "batch-2x", "scope")
    with pytest.raises(pytest.skip.Exception, match="larger each time"):
        llmbench_conformance("remedy", "batch-2x", "once")
    with pytest.raises(pytest.fail.Exception):
        llmbench_conformance("remedy", "batch-2x", "nothing")
