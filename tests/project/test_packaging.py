"""What is shipped beside the code: vendored files, licences, the version, the files of the repository."""

from __future__ import annotations

import hashlib
import importlib.resources
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from support.paths import ROOT

import llmbench

PAGE = importlib.resources.files("llmbench_plugins") / "reporters" / "page"
APACHE = "Apache License\n                           Version 2.0, January 2004\n                        http://www.apache.org/licenses/"
OWN = {"page.css", "page.html.j2", "page.js", "VENDORED.md"}


def project_table():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def vendored():
    """Return the hash that VENDORED.md has for each file."""
    text = (PAGE / "VENDORED.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|", text, re.MULTILINE))


def test_vendored_files_are_what_their_table_says():
    found = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in PAGE.iterdir() if one.name not in OWN}
    assert "chart.umd.min.js" in found and found == vendored()


def test_the_version_of_chart_js_is_the_one_in_its_own_first_lines():
    said = re.search(r"^ \* Chart\.js v(\S+)$", (PAGE / "chart.umd.min.js").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"| `chart.umd.min.js` | Chart.js | {said[1]} |" in (PAGE / "VENDORED.md").read_text(encoding="utf-8")


def test_the_version_is_written_once():
    project = project_table()
    assert "version" not in project and project["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", llmbench.__version__)


def test_the_licence_files_are_those_of_the_licence_expression():
    project = project_table()
    assert project["license"] == "Apache-2.0 AND MIT"
    found = {one for pattern in project["license-files"] for one in ROOT.glob(pattern)}
    first_lines = {one.name: one.read_text(encoding="utf-8").split("\n\n")[0].strip() for one in found}
    assert first_lines == {"LICENSE": APACHE, "chart.LICENSE.md": "The MIT License (MIT)"}


def test_a_distribution_of_the_repository_carries_the_same_licence():
    assert (ROOT / "plugins/llmbench-mlflow/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_large_files_are_refused_but_for_the_runs_that_are_there(tmp_path):
    (tmp_path / "large.json").write_bytes(b" " * 500_001)
    (tmp_path / "small.json").write_bytes(b" " * 500_000)
    script = str(ROOT / ".ci" / "large_files.py")

    def refused(*names):
        command = [sys.executable, script, *names]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    found = refused("large.json", "small.json", "gone.json")
    assert found.returncode == 1 and found.stderr.splitlines()[0] == "large.json: 500 KB, more than 500"
    old = tmp_path / "results/amd-epyc-2-cores/quick/records.jsonl"
    old.parent.mkdir(parents=True)
    old.write_bytes(b" " * 500_001)
    assert refused("small.json", str(old.relative_to(tmp_path))).returncode == 0


def test_the_citation_has_this_version_and_the_licences():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == llmbench.__version__
    assert " AND ".join(cited["license"]) == project_table()["license"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_call_parts_that_exist(path):
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    known = set(re.findall(r"^part_(\w+)\(\)", ci, re.MULTILINE))
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    called = " ".join(step for step in steps if ".ci/run" in step)
    named = set(re.sub(r'bash \.ci/run|--out out|"\$PART"', "", called).split())
    matrices = [job.get("strategy", {}).get("matrix", {}) for job in workflow["jobs"].values()]
    named |= {row["part"] for matrix in matrices for row in matrix.get("include", ())}
    assert called and named <= known
    assert workflow["permissions"] == {"contents": "read"}


def test_every_part_of_ci_is_in_a_list_and_every_list_names_parts():
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    lists = {name: text.split() for name, text in re.findall(r"^(DEFAULT|OTHERS)=\(([\w ]+)\)$", ci, re.MULTILINE)}
    assert sorted(lists["DEFAULT"] + lists["OTHERS"]) == sorted(re.findall(r"^part_(\w+)\(\)", ci, re.MULTILINE))
