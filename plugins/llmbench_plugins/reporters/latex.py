"""The report as LaTeX: longtables with booktabs rules, a document that compiles as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import llmbench

HEAD = r"""\documentclass[9pt]{extarticle}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage[a4paper,landscape,margin=12mm]{geometry}
\usepackage{array,booktabs,longtable}
\setlength{\tabcolsep}{3pt}
\setlength{\LTleft}{0pt}
\setlength{\parindent}{0pt}
\setcounter{secnumdepth}{0}
\begin{document}
"""
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": r"{-}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "±": r"\textpm{}",
    "µ": r"\textmu{}",
    "×": r"\texttimes{}",
    "²": r"\texttwosuperior{}",
    "–": "--",
}
#: Millimetres of the page that columns share, and the widest that a column of text becomes.
WIDTH, WIDEST = 273, 60
#: Millimetres per character, about, of the size that tables are set in.
CHARACTER = 1.35


def render(report: Any) -> str:
    """Return the document."""
    parts = [HEAD, r"\section*{" + escape(report.title) + "}"]
    if report.findings:
        items = "\n".join(r"\item " + escape(finding.text) for finding in report.findings)
        parts.append("\\begin{itemize}\n" + items + "\n\\end{itemize}")
    parts += [_table(table.with_ids()) for table in report.tables]
    again = list(dict.fromkeys(text.replace(cell, "CELL") for cell, text in report.commands.items()))
    if again:
        parts.append(r"\subsection*{Measure a row again}")
        parts += [r"{\small\ttfamily\raggedright " + escape(text) + r"\par}" for text in again]
    return "\n\n".join([*parts, r"\end{document}", ""])


def _table(table: Any) -> str:
    small, same = table.without_constants()
    texts = [[c.text(v) for c, v in zip(small.columns, row, strict=True)] for row in small.rows]
    heads = [[c.name for c in small.columns], [f"({c.unit})" if c.unit else "" for c in small.columns]]
    widths = _widths(small.columns, [*heads, *texts])
    form = "".join(
        "r" if c.align == "right" else rf">{{\raggedright\arraybackslash}}p{{{width:.0f}mm}}"
        for c, width in zip(small.columns, widths, strict=True)
    )
    lines = [r"\subsection*{" + escape(table.title) + "}", r"{\tiny", rf"\begin{{longtable}}{{@{{}}{form}@{{}}}}"]
    lines += [
        r"\toprule",
        *(_row(head) for head in heads if any(head)),
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endlastfoot",
    ]
    lines += [_row(row) for row in texts]
    lines += [r"\end{longtable}}"]
    notes = ([f"all: {same}"] if same else []) + list(table.notes)
    lines += [r"{\scriptsize " + escape(note) + r"\par}" for note in notes]
    return "\n".join(lines)


def _widths(columns: Sequence[Any], rows: Sequence[Sequence[str]]) -> list[float]:
    """Return millimetres per column: what texts need, less where all together do not fit."""
    need = [max([6.0, *(CHARACTER * len(row[i]) for row in rows)]) for i in range(len(columns))]
    texts = [i for i, column in enumerate(columns) if column.align != "right"]
    room = WIDTH - 2.2 * len(columns) - sum(width for i, width in enumerate(need) if i not in texts)
    want = {i: min(need[i], WIDEST) for i in texts}
    factor = min(1.0, max(0.2, room / sum(want.values()))) if want else 1.0
    return [max(6.0, want[i] * factor) if i in want else width for i, width in enumerate(need)]


def _row(texts: Sequence[str]) -> str:
    return " & ".join(map(escape, texts)) + r" \\"


def escape(text: str) -> str:
    """Return `text` so that LaTeX prints it; characters that its standard fonts lack become a question mark."""
    out = []
    for character in " ".join(text.split()):
        if character in SPECIAL:
            out.append(SPECIAL[character])
        elif (character.isascii() and character.isprintable()) or re.fullmatch(r"[À-ÖØ-öø-ÿ]", character):
            out.append(character)
        else:
            out.append("?")
    return "".join(out)


@llmbench.hookimpl
def llmbench_reporters() -> list[llmbench.ReporterSpec]:
    """Return the format."""
    return [llmbench.ReporterSpec("latex", render, ".tex", "tables with booktabs, a document that compiles")]
