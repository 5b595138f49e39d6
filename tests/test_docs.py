"""The documents say what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from llmbench.plugins import KINDS
from llmbench.suite import shipped_suites

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(generator().PAGES))
def test_generated_pages_are_current(name):
    made = generator().PAGES[name]()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made, "run: python docs/generate.py"


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
    missing = [name for name in shipped_suites() if f"`{name}`" not in text]
    assert missing == []


def test_the_readme_gives_a_reason_for_every_package():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", line).group().lower() for line in project["dependencies"]}
    listed = " ".join(re.findall(r"^\|([^|]+)\|", (ROOT / "README.md").read_text(), re.M)).lower()
    assert {name for name in names if name not in listed} == set()
