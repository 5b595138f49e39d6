"""Discovery: who owns what, broken plugins, clashes."""

import re
from pathlib import Path

import pytest

import llmbench
import llmbench_plugins
from llmbench.contract.errors import PluginError
from llmbench.plugins.discovery import _entry_points, discover

PRECISION = """
import llmbench

@llmbench.hookimpl
def llmbench_precisions():
    return [llmbench.PrecisionSpec(name={name!r})]
"""


def write(folder, file, text):
    path = folder / file
    path.write_text(text)
    return path


def test_a_file_is_found_with_its_owner(tmp_path):
    registry = discover([write(tmp_path, "mine.py", PRECISION.format(name="fp11"))])
    assert registry.get("precision", "fp11").name == "fp11"
    assert registry.by_kind["precision"]["fp11"].owner.name == "mine.py"


def test_a_plugins_folder_is_found_but_not_a_package(tmp_path):
    folder = tmp_path / "plugins"
    folder.mkdir()
    write(folder, "mine.py", PRECISION.format(name="fp12"))
    assert "fp12" in discover(cwd=tmp_path).names("precision")
    write(folder, "__init__.py", "")
    assert "fp12" not in discover(cwd=tmp_path).names("precision")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
        ("import does_not_exist", "ModuleNotFoundError"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("import llmbench\n@llmbench.hookimpl\ndef llmbench_models():\n    return ['x']", "must return ModelSpec"),
        ("import llmbench\n@llmbench.hookimpl\ndef llmbench_modles():\n    return []", "llmbench_modles"),
    ],
)
def test_a_broken_plugin_is_named_and_stops_nobody(tmp_path, text, error):
    good = write(tmp_path, "good.py", PRECISION.format(name="fp13"))
    registry = discover([write(tmp_path, "bad.py", text), good])
    (broken,) = [b for b in registry.failures if b.owner.name == "bad.py"]
    assert error in broken.error
    assert "\n" not in broken.error
    assert "fp13" in registry.names("precision")


def test_two_owners_of_one_name_are_both_named(tmp_path):
    files = [write(tmp_path, f"{n}.py", PRECISION.format(name="fp14")) for n in ("one", "two")]
    registry = discover(files)
    (line,) = registry.notes()
    assert "one.py" in line and "two.py" in line
    assert "fp14" not in registry.names("precision") and "fp32" in registry.names("precision")
    with pytest.raises(PluginError, match=r"one\.py.*two\.py"):
        registry.get("precision", "fp14")


def test_unknown_names_get_a_suggestion(tmp_path):
    registry = discover([write(tmp_path, "mine.py", PRECISION.format(name="wobble"))])
    with pytest.raises(PluginError, match="did you mean 'wobble'"):
        registry.get("precision", "wobbel")


def test_a_missing_file_is_the_user_s_error(tmp_path):
    with pytest.raises(PluginError, match="no such file"):
        discover([tmp_path / "nothing.py"])


def test_public_names_resolve():
    for name in llmbench.__all__:
        assert getattr(llmbench, name) is not None
    with pytest.raises(AttributeError):
        llmbench.nothing


def test_the_built_in_modules_are_the_files_on_disk():
    folder = Path(llmbench_plugins.__file__).parent
    files = [f for f in folder.rglob("*.py") if re.search(r"^def llmbench_\w+\(", f.read_text(), re.MULTILINE)]
    on_disk = [".".join(f.relative_to(folder).with_suffix("").parts) for f in files]
    assert sorted(llmbench_plugins.MODULES) == sorted(on_disk)


def test_a_broken_built_in_is_named_and_stops_nobody(monkeypatch):
    monkeypatch.setattr(llmbench_plugins, "MODULES", (*llmbench_plugins.MODULES, "metrics.not_there"))
    _entry_points.cache_clear()
    try:
        registry = discover()
    finally:
        _entry_points.cache_clear()
    (broken,) = registry.failures
    assert broken.owner.origin == "module llmbench_plugins.metrics.not_there" and "not_there" in broken.error
    assert {"bert", "gpt"} <= set(registry.names("model"))
