"""What reporters of plugins are given: the report, and every other format of it."""

from __future__ import annotations

import tomllib

import pytest
from click.testing import CliRunner
from support.paths import ROOT
from support.records import record

from llmbench.cli import cli
from llmbench.records.run_dir import RunDir

SENDER = """
import llmbench

def render(report):
    page = report.render("html")
    return f"sent {len(page)} characters of {report.title}, formats {'markdown' in report.formats}"

@llmbench.hookimpl
def llmbench_reporters():
    return [llmbench.ReporterSpec("sender", render, ".txt")]
"""


def test_a_reporter_can_ask_for_another_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunDir.open(tmp_path / "quick", write=True) as run_dir:
        run_dir.append(record())
    (tmp_path / "sender.py").write_text(SENDER)
    words = ["report", "quick", "--format", "sender", "--plugin", "sender.py"]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.output.startswith("sent ") and done.output.endswith("characters of quick, formats True\n")


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*/pyproject.toml")), ids=lambda p: p.parent.name)
def test_distributions_in_plugins_are_no_part_of_this_one(path):
    own = tomllib.loads(path.read_text())["project"]
    main = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert own["entry-points"]["llmbench"] and any(d.startswith("llmbench") for d in own["dependencies"])
    inner = {folder.name for folder in (path.parent / "src").iterdir()}
    assert not inner & set(main["tool"]["setuptools"]["packages"])
    assert f"./{path.parent.relative_to(ROOT)}[test]" in (ROOT / ".ci" / "run").read_text()
