"""The tables for Org mode: the reporter `org` of llmbench."""

import llmbench

LLMBENCH_API = 2


def render(report):
    lines = [f"#+title: {plain(report.title)}", ""]
    for table in report.tables:
        lines += [f"* {plain(table.title)}", "", row(c.heading for c in table.columns), "|-"]
        for values in table.rows:
            lines.append(row(c.text(v) for c, v in zip(table.columns, values, strict=True)))
        lines += ["", *(f"- {plain(note)}" for note in table.notes), ""]
    return "\n".join(lines)


def plain(text):
    return "".join(c if c.isprintable() else " " for c in text)


def row(texts):
    return "| " + " | ".join(plain(text).replace("|", "\\vert{}") for text in texts) + " |"


@llmbench.hookimpl
def llmbench_reporters():
    return [llmbench.ReporterSpec("org", render, ".org", "tables for Org mode")]
