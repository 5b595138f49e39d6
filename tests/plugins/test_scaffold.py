"""`llmbench plugins new`: what it writes is a working distribution of every kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from support.commands import call
from support.limits import HANG_S

import llmbench
from llmbench.contract import hookspecs
from llmbench.plugins import scaffold
from llmbench.plugins.discovery import discover
from llmbench.plugins.registry import KINDS
from llmbench.suite.file import load_suite
from llmbench.suite.plan import plan_cells


def test_every_hook_has_a_kind():
    assert {hook for hook, _ in KINDS.values()} == {name for name in vars(hookspecs) if name.startswith("llmbench_")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_complete_plugin_that_says_what_it_is(kind):
    example = scaffold.read_example(kind)
    registry = discover([Path(scaffold.__file__).parent / "examples" / f"{kind}.py"])
    assert registry.failures == () and registry.get(kind, example.name).name == example.name
    assert example.summary[0].isupper() and not example.summary.endswith(".")
    assert f"{example.summary}: the {kind} `my-own` of llmbench." in scaffold.plugin_source("my-own", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_is_found_and_its_suite_uses_it(kind, tmp_path, capsys):
    code, out, _ = call(capsys, "plugins", "new", "my-own", "--kind", kind, "-o", str(tmp_path))
    folder = tmp_path / "llmbench-my-own"
    assert code == 0 and str(folder) in out
    registry = discover([folder / "llmbench_my_own.py"])
    assert registry.failures == () and registry.get(kind, "my-own").name == "my-own"
    plan = plan_cells(load_suite(str(folder / "suite.yaml"), []), registry)
    assert [one.obstacle for one in plan.cells] == [None] * len(plan.cells) and plan.cells
    used = {value for one in plan.cells for value in one.cell.to_json().values() if isinstance(value, str)}
    used |= {metric.name for one in plan.cells for metric in registry.metrics(registry.get("task", one.cell.task))}
    named = any(value.partition("@")[0] == "my-own" for value in used)
    assert named or kind in ("cause", "remedy", "reporter")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["llmbench"] == {"my-own": "llmbench_my_own"}
    assert yaml.safe_load((folder / ".github/workflows/test.yml").read_text())["jobs"]
    compile((folder / "tests" / "test_llmbench_my_own.py").read_text(), "test", "exec")
    texts = [p.read_text() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert not any("{{" in text.replace("${{", "") or "{%" in text for text in texts)


def test_a_new_model_is_short():
    assert len(scaffold.plugin_source("my-own", "model").splitlines()) < 40


def test_the_distribution_is_named_for_llmbench_once():
    assert "llmbench_mine.py" in scaffold.files("llmbench-mine", "reporter")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["My Model", "--kind", "model"], "such as my-model"),
        (["../up", "--kind", "task"], "such as my-task"),
        (["x" * 61, "--kind", "task"], "small letters"),
        (["lstm", "--kind", "model"], "llmbench 0.1.0 brings a model of that name"),
        (["mine", "--kind", "modle"], "modle"),
        (["mine"], "--kind"),
        (["there", "--kind", "model"], "is there already"),
        (["mine", "--kind", "model", "-o", "file/below"], "cannot be written"),
    ],
)
def test_mistakes_are_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llmbench-there").mkdir()
    (tmp_path / "file").write_text("")
    code, out, err = call(capsys, "plugins", "new", *words)
    assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "llmbench-there"]


def test_a_metric_scores_the_tasks_that_it_names(tmp_path):
    scaffold.write("mean-recall", "metric", tmp_path, discover())
    registry = discover([tmp_path / "llmbench-mean-recall" / "llmbench_mean_recall.py"])
    assert "mean-recall" in [m.name for m in registry.metrics(registry.get("task", "classification"))]
    assert "mean-recall" not in [m.name for m in registry.metrics(registry.get("task", "qa"))]


@pytest.mark.slow
def test_it_installs_and_is_listed(tmp_path):
    """As a third party's: built by pip, found by its entry point."""
    folder = scaffold.write("my-own", "precision", tmp_path, discover())
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(folder)]
    subprocess.run(pip, check=True, timeout=HANG_S, capture_output=True)
    listed = [sys.executable, "-m", "llmbench", "plugins", "list", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        listed, check=True, timeout=HANG_S, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    (mine,) = [one for one in json.loads(done.stdout)["plugins"] if one["name"] == "my-own"]
    assert (mine["owner"], mine["version"], mine["kind"]) == ("llmbench-my-own", "0.1.0", "precision")


def test_plugins_may_say_which_interface_they_were_written_for():
    assert all(f"LLMBENCH_API = {llmbench.API_VERSION}\n" in scaffold.plugin_source("a", kind) for kind in KINDS)
