"""Write the reference pages that are made from the code: `python docs/generate.py`.

With `--check` nothing is written: files that are not what the code says are named, and the exit code is 1.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent


def cli_page() -> str:
    """Return the help of every command."""
    from llmbench.cli import cli

    parts = ["# Command line", "", "Made from the code by `python docs/generate.py`.", ""]
    for path, command in _commands(cli, ("llmbench",)):
        context = click.Context(command, info_name=" ".join(path), max_content_width=100, terminal_width=100)
        parts += [f"## `{' '.join(path)}`", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(parts)


def _commands(command: click.Command, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            found += _commands(command.commands[name], (*path, name))
    return found


def hooks_page() -> str:
    """Return every hook with its complete plugin to copy."""
    from llmbench.contract import hookspecs, specs
    from llmbench.plugins.registry import KINDS
    from llmbench.plugins.scaffold import read_example

    parts = ["# Hooks", "", "Made from the code by `python docs/generate.py`.", ""]
    parts += [_marked(inspect.getdoc(hookspecs) or ""), ""]
    for kind, (hook, spec_type) in KINDS.items():
        parts += [f"## `{hook}() -> Iterable[{spec_type.__name__}]`", "", f"Kind: {kind}.", ""]
        parts += [_marked(inspect.getdoc(getattr(hookspecs, hook)) or ""), ""]
        parts += ["```python", read_example(kind).source.rstrip(), "```", ""]
    parts += ["# What plugins return, and what they are given", "", _marked(inspect.getdoc(specs) or ""), ""]
    for one in spec_types():
        parts += _type_lines(one)
    return "\n".join([*parts, *layout_lines()])


def layout_lines() -> list[str]:
    """Return what a layout gives a model, for each of `llmbench.layouts`, and the functions that make one."""
    from llmbench import layouts

    own = {n: one for n, one in vars(layouts).items() if getattr(one, "__module__", "") == layouts.__name__}
    parts = ["# Layouts", "", _marked(inspect.getdoc(layouts) or ""), ""]
    for name, one in own.items():
        if inspect.isclass(one):
            parts += [f"## `{name}`", "", _marked(inspect.getdoc(one) or ""), ""]
    parts += ["## Functions for layouts of your own", ""]
    for name, one in own.items():
        if inspect.isfunction(one) and not name.startswith("_"):
            parts.append(f"- `{name}{_signature(one)}`: {' '.join((inspect.getdoc(one) or '').split())}")
    return [*parts, ""]


def _marked(text: str) -> str:
    """Return a docstring as Markdown: what follows `::` and is indented is Python."""
    out: list[str] = []
    code = False
    for line in text.splitlines():
        if code and line.strip() and not line.startswith("    "):
            while not out[-1].strip():
                out.pop()
            out += ["```", ""]
            code = False
        out.append(line[4:] if code else line)
        if not code and line.rstrip().endswith("::"):
            out[-1] = line.rstrip()[:-1]
            out += ["", "```python"]
            code = True
            continue
    while out and not out[-1].strip():
        out.pop()
    text = "\n".join([*out, "```"] if code else out)
    text = re.sub(r"```python\n\n+", "```python\n", text)
    return text.replace("```python\n[project", "```toml\n[project")


def spec_types() -> list[type]:
    """Return the types that hooks return, and those that their functions are given."""
    from llmbench.contract import engines, specs, step_trial

    found = [
        (home, one) for home in (specs, engines, step_trial) for one in vars(home).values() if inspect.isclass(one)
    ]
    return [one for home, one in found if one.__module__ == home.__name__]


def field_meanings(one: type) -> dict[str, tuple[str, str]]:
    """Return field -> declaration and what stands beside it, of a type of `llmbench.contract.specs`."""
    lines = inspect.getsource(one).splitlines()
    (tree,) = ast.parse(inspect.getsource(one)).body
    found = {}
    for node in tree.body if isinstance(tree, ast.ClassDef) else []:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            _, _, comment = lines[(node.end_lineno or 1) - 1].partition("  # ")
            said = re.search(rf"`{node.target.id}\b", one.__doc__ or "")
            found[node.target.id] = (ast.unparse(node), comment or ("see above" if said else ""))
    return found


def _type_lines(one: type) -> list[str]:
    parts = [f"## `{one.__name__}`", "", _marked(inspect.getdoc(one) or ""), ""]
    fields = field_meanings(one)
    if fields:
        parts += ["| field | what it is |", "|---|---|"]
        parts += [f"| `{_cell(text)}` | {_cell(meaning)} |" for text, meaning in fields.values()] + [""]
    for name, method in vars(one).items():
        if inspect.isfunction(method) and not name.startswith("_") and name not in fields:
            parts.append(f"- `{name}{_signature(method)}`: {' '.join((inspect.getdoc(method) or '').split())}")
    return [*parts, ""] if parts[-1] else parts


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _signature(method: Any) -> str:
    return str(inspect.signature(method)).replace("'", "").replace("(self, ", "(").replace("(self)", "()")


def columns_page() -> str:
    """Return what each column of each table means."""
    from llmbench.report.tables import column_meanings

    parts = [
        "# Columns",
        "",
        "Made from the code by `python docs/generate.py`.",
        "",
        inspect.getdoc(column_meanings) or "",
        "",
    ]
    for table, known in column_meanings.COLUMNS.items():
        parts += [f"## `{table}`", "", "| column | meaning |", "|---|---|"]
        parts += [f"| `{name}` | {text} |" for name, text in known.items()] + [""]
    return "\n".join(parts)


def suites_page() -> str:
    """Return the keys of a suite file, from its schema."""
    import json_schemas

    schema = json_schemas.suite_schema()
    head = (HERE / "parts/suites.md").read_text(encoding="utf-8")
    parts = [head.rstrip(), "", "## Keys", "", "| key | what it is |", "|---|---|"]
    parts += [f"| `{name}` | {_said(one)} |" for name, one in schema["properties"].items()]
    parts += ["", "## Fields of `matrix`, `include`, `exclude` and `defaults`", "", *_FIELD_HEAD]
    parts += [
        _field_row(name, schema["$defs"][f"{name}_values"]["anyOf"][0])
        for name in schema["properties"]["matrix"]["properties"]
    ]
    parts += ["", "## Keys of `budget`", "", *_FIELD_HEAD]
    budget = schema["properties"]["budget"]["properties"]
    parts += [_field_row(name, one) for name, one in budget.items() if name != "steps"]
    parts += ["| `steps` | the default of the field | as there |", ""]
    return "\n".join(parts)


_FIELD_HEAD = ("| field | what it is | values |", "|---|---|---|")


def _said(schema: dict[str, Any]) -> str:
    return schema.get("description") or next(one["description"] for one in schema["anyOf"] if "description" in one)


def _field_row(name: str, schema: dict[str, Any]) -> str:
    choices = schema.get("anyOf", [schema])
    texts = [text for one in choices if (text := _values(one))]
    return f"| `{name}` | {_said(schema)} | {' or '.join(texts)} |"


def _values(schema: dict[str, Any]) -> str:
    """Return what values a schema allows, in a few words."""
    if "anyOf" in schema:
        return " or ".join(filter(None, map(_values, schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema["type"]
    if kind == "integer":
        return f"integer of at least {schema['minimum']}"
    if kind == "number":
        return "number above 0"
    if kind == "string":  # numbers that YAML takes for text
        return "" if "eE" in schema.get("pattern", "") else "a name"
    return {"boolean": "`true`, `false`", "null": "`null`"}[kind]


def records_page() -> str:
    """Return the fields of a record, from its schema."""
    import json_schemas

    schema = json_schemas.record_schema()["properties"]
    head = (HERE / "parts/records.md").read_text(encoding="utf-8")
    parts = [head.rstrip(), "", "## Fields", "", "| field | what it is | null |", "|---|---|---|"]
    for name, one in schema.items():
        nullable = "null" in str(one.get("type", "")) or {"type": "null"} in one.get("anyOf", ())
        parts.append(f"| `{name}` | {_said(one)} | {'where not known' if nullable else ''} |")
    parts += ["", "## Fields of `cell`", "", "| field | what it is |", "|---|---|"]
    parts += [f"| `{name}` | {one['description']} |" for name, one in schema["cell"]["properties"].items()]
    parts += ["", "## Keys of `budget`", "", "| key | what it is |", "|---|---|"]
    parts += [f"| `{name}` | {_said(one)} |" for name, one in schema["budget"]["properties"].items()]
    return "\n".join([*parts, ""])


ROOTS = ("llmbench", "plugins/llmbench_plugins")


def architecture_page() -> str:
    """Return how the code is built, and every file with the first sentence of its docstring."""
    head = (HERE / "parts/architecture.md").read_text(encoding="utf-8")
    parts = [head.rstrip(), "", "## Every file", "", "Made from the docstrings by `python docs/generate.py`.", ""]
    for root in ROOTS:
        parts += [line for path in packages_below(HERE.parent / root) for line in _package_lines(path)]
    return "\n".join(parts)


def packages_below(folder: Path) -> list[Path]:
    """Return `folder` and the packages below it, each before its own."""
    return sorted(path.parent for path in folder.rglob("__init__.py"))


def _package_lines(folder: Path) -> list[str]:
    name = folder.relative_to(HERE.parent).as_posix()
    files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    rows = [f"| `{path.name}` | {_cell(first_sentence(path))} |" for path in files]
    table = ["| file | what is in it |", "|---|---|", *rows, ""] if rows else []
    return [f"### `{name}/`", "", _cell(first_sentence(folder / "__init__.py")), "", *table]


def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, on one line."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:!?])\s+(?=[A-Z`])", text)[0].rstrip(".:")


def schema_text(name: str) -> str:
    """Return a JSON Schema that is shipped."""
    import json_schemas

    made = {"suite": json_schemas.suite_schema, "record": json_schemas.record_schema}[name]()
    return json.dumps(made, indent=1) + "\n"


PAGES = {
    "cli.md": cli_page,
    "hooks.md": hooks_page,
    "columns.md": columns_page,
    "suites.md": suites_page,
    "records.md": records_page,
    "architecture.md": architecture_page,
    "../llmbench/schemas/suite.schema.json": lambda: schema_text("suite"),
    "../llmbench/schemas/record.schema.json": lambda: schema_text("record"),
}


def stale_pages() -> list[str]:
    """Return the paths of the files that are not what the code says, from the root of the repository."""
    stale = []
    for name, page in PAGES.items():
        path = (HERE / name).resolve()
        if not path.is_file() or path.read_text(encoding="utf-8") != page():
            stale.append(path.relative_to(HERE.parent.resolve()).as_posix())
    return stale


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 and name the files that are stale.")
def main(check: bool) -> None:
    """Write the reference pages and the schemas."""
    if check:
        if stale := stale_pages():
            raise click.ClickException(f"stale: {', '.join(stale)}; run: python docs/generate.py")
        return
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
