"""The report as one HTML file that needs no network: findings first, then charts, then every table.

Jinja2 writes the page with autoescape; Chart.js (vendored next to this file, 210 KB) draws the charts on canvases. The
scripts are allowed by their hashes and nothing else is, so that a name or a message in a record stays text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llmbench
from llmbench_plugins.reporters._charts import charts_of
from llmbench_plugins.reporters._columns import Strings, pack
from llmbench_plugins.reporters._written import as_json, parts

HERE = Path(__file__).parent / "page"
#: Rows that are in the page as HTML; the script shows the others when they are asked for.
STATIC_ROWS = 30
#: Findings that the first screen has room for.
SHOWN_FINDINGS = 9
#: Workloads that a finding lists.
MOST_WORKLOADS = 6
#: Machines that the title names one by one.
MOST_MACHINES = 3
EXPLAIN = (
    "How to read this: in training, a step is the forward pass, the backward pass and the update of one batch; in "
    "inference, it is the answer to one batch. Work is bounded by the cause whose removal saves most time. llmbench "
    "predicts this time from the parts of a step. Then it removes the cause, and measures with and without it in "
    "turns. Below each gain is its 95 % interval. A gain counts if it is above 1.10x with confidence; else it is grey."
)


def render(report: Any) -> str:
    """Return the page."""
    import jinja2
    from markupsafe import Markup

    folder = jinja2.FileSystemLoader(HERE)
    templates = jinja2.Environment(
        loader=folder,
        autoescape=True,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
    )
    templates.filters["options"] = _options
    scripts = [_read("chart.umd.min.js"), _read("page.js")]
    page, shown = _page(report), _page_head(report)
    commands = page["data"]["templates"]
    return templates.get_template("page.html.j2").render(
        **shown,
        data=Markup("".join(_safe_parts(page.pop("data")))),
        tables=page["tables"],
        style=_read("page.css"),
        scripts=scripts,
        script_hashes=" ".join(f"'sha256-{_hash(script)}'" for script in scripts),
        charts=page["charts"],
        series=page["series"],
        commands=commands,
    )


def _printable(value: Any) -> Any:
    """Return a text with its control characters spelled out: HTML may hold none. What is markup stays."""
    from llmbench.report import printable

    return printable(value) if type(value) is str else value


def _page_head(report: Any) -> dict[str, Any]:
    """Return the values of the first part of the page: title, findings, and how to read them."""
    found = report.findings
    most = max((w.measured_x or 1.0 for f in found for w in f.workloads), default=1.0)
    return {
        "title": f"{report.title} - llmbench",
        "heading": _heading(report),
        "lead": _lead(report),
        "findings": found,
        "shown": SHOWN_FINDINGS,
        "most_workloads": MOST_WORKLOADS,
        "explain": EXPLAIN,
        "bar": lambda x: round(100 * min(1.0, (x - 1.0) / max(0.5, most - 1.0)), 1),
        "version": llmbench.__version__,
    }


def _options(text: str) -> Any:
    """Return `text` with its command line options as code, which is not broken at their dashes."""
    from markupsafe import Markup

    words = re.split(r"(\B--[\w=.-]*\w)", text)
    return Markup("").join(
        Markup('<code class="option">{}</code>').format(w) if i % 2 else w for i, w in enumerate(words)
    )


def _heading(report: Any) -> str:
    models = list(dict.fromkeys(str(cell["model"]) for cell in report.cells))
    names = ", ".join(models[:5]) + (" ..." if len(models) > 5 else "")
    verified = any(finding.cause for finding in report.findings)
    question = "What limits the speed of" if verified or not report.findings else "Where the time goes in"
    return f"{question} {names} on {_machines(report)}" if models else report.title


def _machines(report: Any) -> str:
    """Return the devices that cells ran on, by their names; the cores of a CPU are said where there is only one."""
    names: dict[str, dict[str, None]] = {}
    for run, cells in zip(report.runs, report.summaries, strict=True):
        kinds = {str(cell["device"] or "").partition(":")[0] for cell in cells}
        for environment in run.environments.values():
            for device in environment.get("devices") or []:
                if str(device.get("device", "")).partition(":")[0] in kinds:
                    cores = environment.get("usable_cores")
                    cpu = device.get("device") == "cpu"
                    extra = f" ({cores} core{'' if cores == 1 else 's'})" if cpu and cores else ""
                    names.setdefault(f"{device.get('name')}{' CPU' if cpu else ''}", {})[extra] = None
    if len(names) > MOST_MACHINES:
        return f"{len(names)} kinds of machines"
    return (
        ", ".join(name + (next(iter(of)) if len(of) == 1 else "") for name, of in names.items()) or "an unnamed machine"
    )


def _lead(report: Any) -> str:
    cells = report.cells
    measured = sum(cell["step_ms"] is not None for cell in cells)
    verified = sum(cell["verdict"] is not None for cell in cells)
    text = f"{len(report.runs)} runs" if len(report.runs) > 1 else f"Run {report.title}"
    text += f": {measured} of {len(cells)} workloads measured."
    if not verified:
        return text
    how = "the suspected costs were removed one by one and the work timed with and without them, in turns"
    return f"{text} In {verified} of them {how}: 2.00x means twice as fast without it."


def _page(report: Any) -> dict[str, Any]:
    """Return the tables as the template wants them, and all data for the script."""
    strings = Strings()
    ids: dict[str, tuple[int, int]] = {}
    templates: dict[str, int] = {}
    for cell_id, command in report.commands.items():
        pattern = command.replace(cell_id, "CELL")
        ids[cell_id] = (len(ids), templates.setdefault(pattern, len(templates)))
    shown, tables = [], []
    for number, table in enumerate(report.tables):
        small, all_same = table.without_constants()
        again = [None if cell not in ids else ids[cell][0] for cell in small.cells] or None
        values = zip(*small.rows, strict=True)
        columns = [pack(column, own, strings) for column, own in zip(small.columns, values, strict=True)]
        tables.append(as_json({"n": len(small.rows), "columns": columns, "cells": again, "all": all_same or ""}))
        rows = []
        for i, row in enumerate(small.rows[:STATIC_ROWS]):
            texts = [(c.text(v), form["r"]) for c, v, form in zip(small.columns, row, columns, strict=True)]
            cell = small.cells[i] if small.cells else None
            rows.append({"texts": texts, "cell": cell, "command": report.commands.get(cell)})
        heads = [{"name": c.name, "unit": c.unit, "right": c.align == "right"} for c in small.columns]
        shown.append(
            {
                "id": f"t{number}-" + re.sub(r"[^a-z]+", "-", table.title.lower()).strip("-"),
                "title": table.title,
                "heads": heads,
                "rows": rows,
                "count": len(small.rows),
                "cells": bool(small.cells),
                "notes": ([f"all: {all_same}"] if all_same else []) + list(table.notes),
            }
        )
    charts = charts_of(report)
    data = {
        "unknown": llmbench_unknown(),
        "strings": strings.values,
        "tables": tables,
        "cells": [[cell_id, template] for cell_id, (_, template) in ids.items()],
        "templates": list(templates),
        **charts.data,
    }
    return {"tables": shown, "data": data, "charts": charts.figures, "series": charts.series}


def llmbench_unknown() -> str:
    """Return how a number that is not known is printed."""
    from llmbench.report import UNKNOWN

    return UNKNOWN


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _safe_parts(value: Any) -> Iterator[str]:
    """Yield the parts of JSON that cannot end the script element that it stands in."""
    for part in parts(value, 2):
        yield part.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return the HTML page."""
    return [llmbench.ReporterSpec("html", render, ".html", "one self-contained page: findings, charts, tables")]
