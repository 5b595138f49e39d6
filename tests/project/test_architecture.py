"""What may import what, what must not be named, and what must stay cheap."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.limits import HANG_S
from support.paths import ROOT

CORE = ROOT / "llmbench"
#: package -> the packages of llmbench that its files import; `__init__` and `__main__` are the top. A package imports
#: packages of a lower rank only, so the order of this table is the order in which to read the code from the bottom.
RANKS = {
    "contract": 0,
    "stats": 0,
    "layouts": 1,
    "plugins": 1,
    "records": 1,
    "suite": 2,
    "analysis": 2,
    "worker": 3,
    "execution": 3,
    "report": 3,
    "conformance": 4,
    "planted": 4,
    "api": 5,
    "cli": 6,
}
MAY_IMPORT = {
    "worker": {"contract", "stats", "plugins", "layouts"},  # all that is loaded into a measured process
}
#: The only file that names functions of the worker.
WORKER_CALLS = "llmbench.execution.worker_calls"
HEAVY = ("torch", "pandas", "transformers", "numpy", "evaluate", "datasets", "rich", "yaml", "llmbench_plugins")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
#: Plugins to copy: they lie in the package, and are written as anybody's.
EXAMPLES = CORE / "plugins" / "examples"
CORE_FILES = sorted(p for p in CORE.rglob("*.py") if p.parent != EXAMPLES)
#: The torch engine is the worker's own; its plugin only says where it is.
PRIVATE_USE = {"llmbench_plugins.engines.torch": {"llmbench.worker.torch_engine.engine.TorchEngine"}}
PLUGIN_FILES = sorted(
    [*EXAMPLES.glob("*.py"), *(p for p in (ROOT / "plugins").rglob("*.py") if not {"tests", "build"} & set(p.parts))]
)


def module_of(path: Path) -> str:
    """The import name of a file; built-in plugins and other distributions have source roots of their own."""
    root = next(
        (r for r in (ROOT / "plugins" / "llmbench-mlflow" / "src", ROOT / "plugins") if path.is_relative_to(r)), ROOT
    )
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, module: str, *, package: bool) -> set[str]:
    """Every module that `tree` imports, wherever the import stands; `from a import b` counts as `a.b`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: len(module.split(".")) - node.level + package]
                base = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def package_of(name: str) -> str | None:
    """The package or top-level module of llmbench that an imported name is in; '' for `llmbench` itself, None: none."""
    pieces = name.split(".")
    if pieces[0] != "llmbench":
        return None
    return pieces[1] if len(pieces) > 1 and pieces[1] in RANKS else ""


def runtime_tree(source: str) -> ast.AST:
    """The syntax tree without what only type checkers see."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return tree


def violations(path: Path, source: str | None = None) -> list[str]:
    module = module_of(path)
    tree = runtime_tree(source if source is not None else path.read_text())
    me = module.split(".")[1] if module not in ("llmbench", "llmbench.__main__") else ""
    wrong = []
    for name in sorted(imported(tree, module, package=path.name == "__init__.py")):
        package = package_of(name)
        if name.split(".")[0] == "llmbench_plugins":
            wrong.append(f"{module} imports {name}: the core names no plugin")
        if not package or not me or package == me:
            continue
        if package == "worker":
            wrong.append(f"{module} imports {name}: nobody imports the worker; name the function in {WORKER_CALLS}")
        elif RANKS[package] >= RANKS[me] or package not in MAY_IMPORT.get(me, RANKS):
            wrong.append(f"{module} imports {name}: {me} may not import {package}")
    return wrong


@pytest.mark.parametrize("path", CORE_FILES, ids=module_of)
def test_packages_import_lower_ones_only(path):
    module = module_of(path)
    top = "__main__" if module == "llmbench.__main__" else module.partition(".")[2].partition(".")[0]
    assert top in {"", "__main__", *RANKS}, f"{module}: its package has no rank"
    assert violations(path) == []


@pytest.mark.parametrize(
    "path, line",
    [
        ("stats/ratios.py", "from llmbench.suite.plan import plan_cells"),
        ("stats/ratios.py", "def f():\n    import llmbench.cli.app"),
        ("contract/cell.py", "from llmbench import stats"),
        ("report/findings.py", "from llmbench.worker.data import features"),
        ("cli/run.py", "import importlib\nimportlib.import_module('llmbench.worker.job')"),
        ("worker/job.py", "from llmbench.records.run_dir import RunDir"),
        ("worker/job.py", "from llmbench.suite.plan import Plan"),
        ("cli/run.py", "import llmbench_plugins.models.x"),
        ("stats/ratios.py", "from ..report import findings"),
        ("suite/plan.py", "from llmbench.analysis import costs"),
    ],
)
def test_the_layer_check_sees(path, line):
    assert violations(CORE / path, line)


def test_what_only_type_checkers_see_is_no_import():
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from llmbench.suite.plan import Plan"
    assert violations(CORE / "analysis" / "costs.py", source) == []


def imports_between_files(sources: Mapping[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """module -> the modules that it imports, wherever the import stands; `sources`: text, and whether a package."""
    imports = {}
    for module, (text, package) in sources.items():
        names = imported(runtime_tree(text), module, package=package)
        targets = {name if name in sources else name.rpartition(".")[0] for name in names}
        imports[module] = {target for target in targets if target in sources and target != module}
    return imports


def circle_of(imports: Mapping[str, set[str]]) -> list[str]:
    """A circle of imports, as the modules on it; empty where there is none."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for target in sorted(imports[module]):
            circle = walk(target, [*way, module])
            if circle:
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(imports) if (circle := walk(module, []))), [])


def test_no_file_imports_itself_by_way_of_others():
    files = [*CORE_FILES, *PLUGIN_FILES]
    sources = {module_of(path): (path.read_text(), path.name == "__init__.py") for path in files}
    assert circle_of(imports_between_files(sources)) == []


def test_the_search_for_circles_sees_one():
    sources = {"a": ("import b", False), "b": ("def f():\n    from c import x", False), "c": ("import a", False)}
    assert circle_of(imports_between_files(sources)) == ["a", "b", "c", "a"]
    assert circle_of(imports_between_files(sources | {"c": ("", False)})) == []


@pytest.mark.parametrize(
    "package", ["llmbench", "llmbench.stats", "llmbench.report", "llmbench.cli", "llmbench.plugins"]
)
def test_no_submodule_hides_a_public_name(package):
    module = importlib.import_module(package)
    assert {one.name for one in pkgutil.iter_modules(module.__path__)} & set(module.__all__) == set()


@pytest.mark.parametrize("path", [*CORE_FILES, *PLUGIN_FILES], ids=module_of)
def test_no_module_has_the_name_of_something_in_it(path):
    defined = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, DEFINITIONS)}
    assert path.stem not in defined


def test_few_things_lie_at_the_top():
    assert len([one for one in CORE.iterdir() if one.name != "__pycache__"]) <= 20


@pytest.mark.parametrize("path", CORE_FILES, ids=module_of)
def test_functions_of_the_worker_are_named_in_one_file(path):
    names = {text for text in string_literals(ast.parse(path.read_text())) if "llmbench.worker." in text}
    module = module_of(path)
    assert not names or module in (WORKER_CALLS, "llmbench.worker.preload")


def test_every_function_of_the_worker_that_is_named_is_there():
    from llmbench.execution import worker_calls
    from llmbench.execution.child import resolve

    calls = {text for name, text in vars(worker_calls).items() if name.isupper()}
    assert calls and all(callable(resolve(call)) for call in calls if ":" in call)
    assert all(importlib.util.find_spec(call) for call in calls if ":" not in call)


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=module_of)
def test_plugins_import_only_public_names(path):
    public = {f"llmbench.{name}" for name in importlib.import_module("llmbench").__all__}
    module = module_of(path)
    names = imported(ast.parse(path.read_text()), module, package=path.name == "__init__.py")
    inner = {n for n in names if n.split(".")[0] == "llmbench" and n != "llmbench"}
    public |= PRIVATE_USE.get(module, set())
    public |= {f"llmbench.report.{name}" for name in importlib.import_module("llmbench.report").__all__}
    assert {n for n in inner if n not in public and not n.startswith("llmbench.layouts")} == set()


def string_literals(tree: ast.AST) -> set[str]:
    """Every string of the code that is not a docstring."""
    docs = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docs.add(id(first.value))
    constants = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docs)
    return {n.value for n in constants if isinstance(n.value, str)}


@pytest.fixture(scope="module")
def built_in_names():
    from llmbench.plugins.discovery import discover

    registry = discover()
    ours = [
        (kind, name)
        for kind in ("model", "task", "metric")
        for name, provided in registry.by_kind[kind].items()
        if provided.owner.name == "llmbench"
    ]
    assert ours, "no built-in plugin was found"
    return {name for _, name in ours}


@pytest.mark.parametrize("path", CORE_FILES, ids=module_of)
def test_the_core_names_no_plugin(path, built_in_names):
    assert string_literals(ast.parse(path.read_text())) & built_in_names == set()


def test_every_package_on_disk_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        "llmbench": CORE,
        "llmbench_plugins": ROOT / "plugins" / "llmbench_plugins",
        "llmbench_suites": ROOT / "suites",
    }
    on_disk = [
        ".".join((name, *path.parent.relative_to(folder).parts))
        for name, folder in folders.items()
        for path in folder.rglob("__init__.py")
    ]
    assert project["packages"] == sorted(on_disk)


def test_docstrings_are_not_literals():
    tree = ast.parse('"""a"""\ndef f():\n    """b"""\n    return "c"')
    assert string_literals(tree) == {"c"}


def test_public_names_are_the_exported_ones():
    llmbench = importlib.import_module("llmbench")
    exported = {name for name in dir(llmbench) if not name.startswith("__")}
    typed = imported(ast.parse((CORE / "__init__.py").read_text()), "llmbench", package=True)
    assert set(llmbench.__all__) == exported == set(llmbench._HOME_OF)
    assert exported == {name.rpartition(".")[2] for name in typed if name.startswith("llmbench.")}
    assert all(getattr(llmbench, name) is not None for name in llmbench.__all__)
    assert len(set(llmbench.__all__)) == len(llmbench.__all__)


def python(code: str) -> str:
    compiled = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}  # as installed packages are
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=True, env=compiled
    )
    return done.stdout


@pytest.mark.parametrize(
    "use", ["import llmbench", "import llmbench.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass"]
)
def test_help_and_import_load_nothing_heavy(use):
    out = python(f"{use}\nimport sys\nprint('LOADED', *sorted(m.split('.')[0] for m in sys.modules))")
    assert set(out.split("LOADED")[1].split()) & set(HEAVY) == set()


@pytest.mark.skipif(bool(os.environ.get("CI")), reason="times are not reliable on shared machines")
@pytest.mark.timed
def test_help_is_as_fast_as_its_libraries():
    codes = ("import llmbench.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass", "import click, pluggy")
    times = {code: [] for code in codes}
    for _ in range(9):
        for code in codes:  # in turns, so that a busy machine slows both
            start = time.perf_counter()
            python(code)
            times[code].append(time.perf_counter() - start)
    help_s, libraries_s = (min(times[code]) for code in codes)
    assert help_s <= 1.5 * libraries_s
