"""Readers of the official file formats. Each takes a path and returns examples; errors name file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbench import DataError, TaskSpec

Rows = list[dict[str, Any]]

#: kind of task -> the fields that its examples hold
FIELDS: Mapping[str, frozenset[str]] = {
    "classification": frozenset({"text", "label"}),
    "translation": frozenset({"source", "target"}),
    "summarization": frozenset({"document", "summary", "references"}),
    "qa": frozenset({"id", "question", "context", "answers"}),
    "pretraining": frozenset({"text"}),
}


def kind_of(task: TaskSpec) -> str:
    """Return the built-in task whose examples `task` takes: the one of its name, else the one of its fields."""
    if task.name in FIELDS:
        return task.name
    fields = frozenset(task.fields)
    for kind, known in FIELDS.items():
        if fields == known:
            return kind
    for kind, known in FIELDS.items():
        if fields and fields < known:
            return kind
    raise DataError(
        f"task {task.name!r}: no known format has the fields {', '.join(sorted(fields))}; write a data set plugin"
    )


# --- files ----------------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises DataError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file (a byte order mark is dropped)."""
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file") from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file; only line feeds end a line, as `wc -l` counts."""
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


# --- classification -------------------------------------------------------------------------------------


def read_class_csv(path: Path, classes: Sequence[str] | None = None) -> Rows:
    """Read `"class","title","description"` (AG News): no header, classes counted from 1."""
    rows = []
    for line, fields in _csv_rows(path):
        where = f"{path}:{line}"
        if len(fields) != 3:
            raise DataError(f'{where}: {len(fields)} column(s), not 3; write "class","title","description"')
        number, title, description = fields
        if not number.strip().isdecimal() or int(number) < 1:
            raise DataError(f"{where}: class {number!r} is not a whole number from 1 (the format has no header)")
        label = int(number) - 1
        if classes is not None and label >= len(classes):
            raise DataError(f"{where}: class {label + 1}, but classes.txt has {len(classes)} lines")
        text = f"{title} {description}".strip()
        if not text:
            raise DataError(f"{where}: title and description are empty; remove the row")
        rows.append({"text": text, "label": label})
    return rows


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line where each row begins, and its fields; blank lines are passed over."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not CSV: {error}; double the quotes inside a quoted column") from error


def read_label_tsv(path: Path) -> Rows:
    """Read `label TAB text` lines (SMS Spam Collection); labels stay strings."""
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2:
            raise DataError(f"{path}:{number}: {len(fields)} column(s), not 2; write label TAB text")
        if not all(fields):
            raise DataError(f"{path}:{number}: {'text' if fields[0] else 'label'} is empty; write label TAB text")
        rows.append({"text": fields[1], "label": fields[0]})
    return rows


# --- translation ----------------------------------------------------------------------------------------


def read_pair_tsv(path: Path) -> Rows:
    """Read `source TAB target [TAB attribution]` lines (Tatoeba)."""
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) not in (2, 3):
            raise DataError(
                f"{path}:{number}: {len(fields)} column(s), not 2 or 3; write source TAB target [TAB attribution]"
            )
        if not (fields[0] and fields[1]):
            raise DataError(f"{path}:{number}: {'target' if fields[0] else 'source'} is empty; remove the line")
        rows.append({"source": fields[0], "target": fields[1]})
    return rows


def read_parallel(source: Path, target: Path) -> Rows:
    """Read two files whose line N belong together; pairs with an empty side are left out."""
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        first_alone = min(len(sources), len(targets)) + 1
        longer = source if len(sources) > len(targets) else target
        raise DataError(
            f"{longer}:{first_alone}: line without a partner: {source.name} has {len(sources)} lines,"
            f" {target.name} has {len(targets)}; line N of one must translate line N of the other"
        )
    pairs = [(s.strip(), t.strip()) for s, t in zip(sources, targets, strict=True)]
    return [{"source": s, "target": t} for s, t in pairs if s and t]


# --- summarization --------------------------------------------------------------------------------------


def read_summary_jsonl(path: Path) -> Rows:
    """Read one object per line: `document`, `summary` and optionally `references` (list of str)."""
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = parse_json(line, path, number)
        if not isinstance(row, dict):
            raise DataError(f'{where}: not an object; write {{"document": "...", "summary": "..."}}')
        document, summary = (text_of(row, name, where) for name in ("document", "summary"))
        references = row.get("references") or [summary]
        if not (isinstance(references, list) and all(isinstance(r, str) and r.strip() for r in references)):
            raise DataError(f"{where}: references must be a list of texts that are not empty")
        rows.append({"document": document, "summary": summary, "references": [r.strip() for r in references]})
    return rows


def parse_json(text: str, path: Path, first_line: int = 1) -> Any:
    """Parse JSON; the error names the line of the file."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates ("\\ud800") are no text
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise DataError(f"{path}:{line}: malformed JSON: {error.msg} (column {error.colno})") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{path}:{first_line}: holds half of a surrogate pair, such as \\ud800; remove it") from error
    except RecursionError as error:
        raise DataError(f"{path}:{first_line}: malformed JSON: nested too deeply") from error
    return value


def text_of(row: Any, name: str, where: str) -> str:
    """Return the stripped text `row[name]`. Raises DataError when it is missing, no text or empty."""
    value = row.get(name) if isinstance(row, Mapping) else None
    if not isinstance(value, str) or not value.strip():
        what = "is missing" if value is None else "is empty" if isinstance(value, str) else "is not a text"
        raise DataError(f"{where}: {name} {what}")
    return value.strip()


# --- question answering ---------------------------------------------------------------------------------


def read_squad(path: Path) -> Rows:
    """Read SQuAD v1.1 JSON; every answer must be in its context at `answer_start`."""
    root = parse_json(read_text(path), path)
    rows: Rows = []
    ids = set()
    for a, article in enumerate(_list_in(root, "data", str(path))):
        where = f"{path}: data[{a}]"
        for p, paragraph in enumerate(_list_in(article, "paragraphs", where)):
            at = f"{where}.paragraphs[{p}]"
            text_of(paragraph, "context", at)
            for q, qa in enumerate(_list_in(paragraph, "qas", at)):
                row = question_row(qa, paragraph["context"], str(path), f"{at}.qas[{q}]")
                if row["id"] in ids:
                    raise DataError(f"{path}: question {row['id']}: the id occurs twice")
                ids.add(row["id"])
                rows.append(row)
    return rows


def question_row(qa: Any, context: str, file: str, at: str) -> dict[str, Any]:
    """Return the checked example of one question. `file` and `at` (a place in it) start error messages."""
    name = str(text_of(qa, "id", at))
    where = f"{file}: question {name}"
    question = text_of(qa, "question", where)
    answers = []
    for answer in _list_in(qa, "answers", where):
        text = answer.get("text") if isinstance(answer, Mapping) else None
        start = answer.get("answer_start") if isinstance(answer, Mapping) else None
        if not isinstance(text, str) or not text or not isinstance(start, int) or isinstance(start, bool):
            raise DataError(f'{where}: an answer needs a "text" that is not empty and a whole "answer_start"')
        check_answer(context, text, start, where)
        answers.append({"text": text, "answer_start": start})
    if not answers:
        raise DataError(f"{where}: no answers; use SQuAD v1.1, where every question has one")
    return {"id": name, "question": question, "context": context, "answers": answers}


def check_answer(context: str, text: str, start: int, where: str) -> None:
    """Raise DataError unless `text` is in `context` at character `start`; name the right place if there is one."""
    if start >= 0 and context[start : start + len(text)] == text:
        return
    places = [i for i in range(len(context)) if context.startswith(text, i)]
    if not places:
        raise DataError(f"{where}: the answer {text[:60]!r} does not occur in its context")
    nearest = min(places, key=lambda place: abs(place - start))
    raise DataError(f"{where}: answer_start {start} should be {nearest}")


def _list_in(value: Any, name: str, where: str) -> list[Any]:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, list):
        raise DataError(f'{where}: needs a list "{name}" (SQuAD v1.1: data, paragraphs, qas, answers)')
    return found


# --- pretraining ----------------------------------------------------------------------------------------


def read_paragraphs(path: Path) -> Rows:
    """Read plain text, one paragraph per line; empty lines are left out."""
    return [{"text": line.strip()} for line in read_lines(path) if line.strip()]


#: kind of task -> extension -> reader
READERS: Mapping[str, Mapping[str, Callable[[Path], Rows]]] = {
    "classification": {".csv": read_class_csv, ".tsv": read_label_tsv},
    "translation": {".tsv": read_pair_tsv},
    "summarization": {".jsonl": read_summary_jsonl},
    "qa": {".json": read_squad},
    "pretraining": {".txt": read_paragraphs, ".tokens": read_paragraphs},
}
#: the same for a file that is named itself, whose extension may say nothing
PLAIN_READERS: Mapping[str, Callable[[Path], Rows]] = {
    "classification": read_label_tsv,
    "translation": read_pair_tsv,
    "pretraining": read_paragraphs,
}
EXPECTED: Mapping[str, str] = {
    "classification": '.csv ("class","title","description") or .tsv (label TAB text)',
    "translation": "a pair such as train.en and train.de, or .tsv (source TAB target)",
    "summarization": '.jsonl ({"document": ..., "summary": ...})',
    "qa": ".json (SQuAD v1.1)",
    "pretraining": ".txt (one paragraph per line)",
}
