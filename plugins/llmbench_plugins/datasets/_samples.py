"""Small data sets in the official formats, for the conformance kit: fourteen examples of each built-in task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COUNT = 14
_WORDS = ("red", "green", "blue", "old", "new", "big", "small")


def rows(task: str) -> list[dict[str, Any]]:
    """Return examples with the fields of a built-in task, all different."""
    made: list[dict[str, Any]] = []
    for number in range(COUNT):
        text = f"the {_WORDS[number % 7]} house number {number} stands here"
        answers = {"text": [f"number {number}"], "answer_start": [text.index("number")]}
        shown: dict[str, dict[str, Any]] = {
            "classification": {"text": text, "label": number % 2},
            "translation": {"en": text, "de": f"das Haus {number}"},
            "summarization": {"document": f"{text}. It is warm.", "summary": f"house {number}"},
            "qa": {"id": str(number), "question": "which house", "context": text, "answers": answers},
            "pretraining": {"text": text},
        }
        made.append(shown[task])
    return made


def files(folder: str) -> dict[str, str]:
    """Write a file of each format of `file:`; return task -> its path."""
    root = Path(folder)
    lines = {
        "classification": ("spam.tsv", [f"{r['label']}\t{r['text']}" for r in rows("classification")]),
        "translation": ("pairs.tsv", [f"{r['en']}\t{r['de']}" for r in rows("translation")]),
        "summarization": ("summaries.jsonl", [json.dumps(r) for r in rows("summarization")]),
        "pretraining": ("text.txt", [str(r["text"]) for r in rows("pretraining")]),
    }
    for name, text in lines.values():
        (root / name).write_text("\n".join(text) + "\n", encoding="utf-8")
    return {task: str(root / name) for task, (name, _) in lines.items()}


def repositories(folder: str) -> dict[str, str]:
    """Write a folder for each task as the hub has them; return task -> its path."""
    made = {}
    for task in ("classification", "translation", "summarization", "qa", "pretraining"):
        root = Path(folder) / f"hub-{task}"
        root.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows(task))
        (root / "train.jsonl").write_text(text, encoding="utf-8")
        made[task] = str(root)
    return made
