"""The documents say what the code does."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from support.paths import ROOT

from llmbench.contract import hookspecs
from llmbench.plugins.registry import KINDS
from llmbench.suite.file import suite_names

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_current():
    assert generator().stale_pages() == [], "run: python docs/generate.py"


def test_check_names_the_stale_file_and_writes_nothing(tmp_path):
    made = generator()
    made.HERE = tmp_path / "docs"
    made.HERE.mkdir()
    made.PAGES = {"new.md": lambda: "new", "old.md": lambda: "new", "same.md": lambda: "same"}
    (made.HERE / "old.md").write_text("old", encoding="utf-8")
    (made.HERE / "same.md").write_text("same", encoding="utf-8")
    checked = CliRunner().invoke(made.main, ["--check"])
    assert checked.exit_code == 1 and "stale: docs/new.md, docs/old.md;" in checked.output
    assert sorted(one.name for one in made.HERE.iterdir()) == ["old.md", "same.md"]
    assert CliRunner().invoke(made.main, []).exit_code == 0
    assert CliRunner().invoke(made.main, ["--check"]).exit_code == 0


def test_every_type_of_the_specs_and_every_field_is_documented():
    made = generator()
    bare = [one.__name__ for one in made.spec_types() if not (one.__doc__ or "").strip()]
    bare += [
        f"{one.__name__}.{n}" for one in made.spec_types() for n, (_, m) in made.field_meanings(one).items() if not m
    ]
    assert bare == [], "write beside the field what it is, as a comment, or name it in the docstring"
    named = {name for types in KINDS.values() for name in (types[1].__name__,)}
    assert named <= {one.__name__ for one in made.spec_types()} and len(made.field_meanings(made.spec_types()[0])) > 3


def test_every_hook_and_every_argument_is_documented():
    for hook, _ in KINDS.values():
        function = getattr(hookspecs, hook)
        text = inspect.getdoc(function) or ""
        assert text, hook
        assert [n for n in inspect.signature(function).parameters if f"`{n}`" not in text] == []
    made = generator()
    types = {one: made.field_meanings(one) for one in made.spec_types()}
    methods = [m for t, own in types.items() for k, m in vars(t).items() if inspect.isfunction(m) and k not in own]
    methods = [m for m in methods if not m.__name__.startswith("_")]
    assert len(methods) > 10 and [m.__qualname__ for m in methods if not inspect.getdoc(m)] == []


def test_every_hook_has_a_plugin_to_copy():
    page = generator().hooks_page()
    for hook, _ in KINDS.values():
        assert f"def {hook}():" in page


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_and_named_files_exist(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target
    for named in re.findall(r"`((?:llmbench|plugins|suites|tests|docs)/[\w./-]+)`", text):
        assert (ROOT / named).exists(), named


def test_the_readme_names_every_suite_that_is_shipped():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in suite_names() if f"`{name}`" not in text]
    assert missing == []


def test_every_package_has_a_reason():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", line).group().lower() for line in project["dependencies"]}
    listed = " ".join(re.findall(r"^\|([^|]+)\|", (ROOT / "docs" / "dependencies.md").read_text(), re.M)).lower()
    assert {name for name in names if name not in listed} == set()


def headings(path):
    """The anchors of a page, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = re.findall(r"^#+ +(.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", name.lower()).strip().replace(" ", "-") for name in found}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_to_headings_lead_there(path):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
        assert anchor in headings(path.parent / target if target else path), f"{target}#{anchor}"


def test_the_site_has_no_warning_and_every_page(tmp_path):
    pytest.importorskip("sphinx", reason="llmbench[docs] is not installed")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-d", tmp_path / "trees"]
    done = subprocess.run([*command, ROOT / "docs", tmp_path / "site"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= made


def commands_of(command, path=()):
    if isinstance(command, click.Group):
        return [leaf for name in command.commands for leaf in commands_of(command.commands[name], (*path, name))]
    return [" ".join(path)]


def test_the_documents_say_what_does_what_each_command_does():
    import llmbench
    from llmbench.cli import cli

    page = (ROOT / "docs" / "python.md").read_text()
    rows = dict(re.findall(r"^\| `llmbench ([^`]+)` \| (.+) \|$", page, re.M))
    assert set(rows) == set(commands_of(cli)), "docs/python.md has a row for each command"
    for name in {name for text in rows.values() for name in re.findall(r"llmbench\.(\w+)\(", text)}:
        assert name in llmbench.__all__
    for name in {name for text in rows.values() for name in re.findall(r"results\.(\w+)", text)}:
        assert hasattr(llmbench.Results, name)
