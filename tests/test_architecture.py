"""What may import what, what must not be named, and what must stay cheap."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from limits import HANG_S

ROOT = Path(__file__).parent.parent
CORE = ROOT / "llmbench"
LAYERS = {
    **dict.fromkeys(("errors", "schema", "specs", "trials", "engines"), 0),
    **dict.fromkeys(
        (
            "hookspecs",
            "plugins",
            "suite",
            "stats",
            "roofline",
            "layouts",
            "environments",
            "costs",
            "headroom",
            "pretrained",
        ),
        1,
    ),
    **dict.fromkeys(("ceilings", "sizes", "powers", "crossed", "scrub", "checks", "json_schemas"), 1),
    **dict.fromkeys(("guard", "tampering"), 1),
    **dict.fromkeys(("conformance",), 4),
    # behind `stats`
    **dict.fromkeys(("distributions", "intervals", "ratios", "changes", "samples", "steady", "stopping"), 1),
    **dict.fromkeys(
        ("plan", "predict", "keep", "points", "store", "sources", "calibration", "attribution", "compare", "processes"),
        2,
    ),
    **dict.fromkeys(("bundle", "differences", "scores", "stored"), 2),
    **dict.fromkeys(("remedies", "scaffold"), 2),
    **dict.fromkeys(("studies", "learning", "reach", "scaling", "laws"), 2),
    **dict.fromkeys(("executors", "report"), 3),
    **dict.fromkeys(
        (
            "cli",
            "api",
            "running",
            "machine",
            "results",
            "__main__",
            "progress",
            "authoring",
            "diagnosing",
            "comparing",
            "exporting",
            "pytest_plugin",
            "planted",
        ),
        4,
    ),
}
HEAVY = ("torch", "pandas", "transformers", "numpy", "evaluate", "datasets", "rich", "yaml", "llmbench_plugins")
CORE_FILES = sorted(CORE.rglob("*.py"))
#: The torch engine is the worker's own; its plugin only says where it is.
PRIVATE_USE = {"llmbench_plugins.engines.torch": {"llmbench.worker.torch_engine.TorchEngine"}}
PLUGIN_FILES = sorted(p for p in (ROOT / "plugins").rglob("*.py") if not {"tests", "build"} & set(p.parts))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
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


def part_of(name: str) -> str | None:
    """The part of llmbench that an imported name belongs to; None for other packages, '' for `llmbench` itself."""
    pieces = name.split(".")
    if pieces[0] != "llmbench":
        return None
    known = len(pieces) > 1 and (pieces[1] in LAYERS or pieces[1] == "worker")
    return pieces[1] if known or (len(pieces) > 1 and (CORE / pieces[1]).exists()) else ""


def violations(path: Path, source: str | None = None) -> list[str]:
    module = module_of(path)
    tree = ast.parse(source if source is not None else path.read_text())
    me = module.split(".")[1] if "." in module else ""
    wrong = []
    for name in sorted(imported(tree, module, package=path.name == "__init__.py")):
        part = part_of(name)
        if name.split(".")[0] == "llmbench_plugins":
            wrong.append(f"{module} imports {name}: the core names no plugin")
        if not part or not me or part == me:
            continue
        if part == "worker":
            wrong.append(f"{module} imports {name}: a file is the boundary to the worker")
        elif LAYERS[part] > (1 if me == "worker" else LAYERS[me]):
            wrong.append(f"{module} imports {name}: layers import downward only")
    return wrong


@pytest.mark.parametrize("path", CORE_FILES, ids=module_of)
def test_layers_import_downward_only(path):
    module = module_of(path)
    assert module == "llmbench" or module.split(".")[1] in {*LAYERS, "worker"}, f"{module} has no layer"
    assert violations(path) == []


@pytest.mark.parametrize(
    "part, line",
    [
        ("stats.py", "from llmbench.plan import plan_cells"),
        ("stats.py", "def f():\n    import llmbench.cli"),
        ("schema.py", "from llmbench import stats"),
        ("report/cells.py", "from llmbench.worker import data"),
        ("cli.py", "import importlib\nimportlib.import_module('llmbench.worker.main')"),
        ("worker/data.py", "from llmbench.store import RunDir"),
        ("cli.py", "import llmbench_plugins.models.x"),
        ("stats.py", "from .report import cells"),
    ],
)
def test_the_layer_check_sees(part, line):
    assert violations(CORE / part, line)


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=module_of)
def test_plugins_import_only_public_names(path):
    public = {f"llmbench.{name}" for name in importlib.import_module("llmbench").__all__}
    module = "llmbench_" + module_of(path).rpartition("src.llmbench_")[2]
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
    from llmbench.plugins import discover

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
