"""Data sets of the Hugging Face hub, its cache or a local folder: `hf:NAME[,config=CONFIG][,split=SPLIT]`.

Columns are found by their usual names and by their types:

| task           | columns                                                                                    |
|----------------|--------------------------------------------------------------------------------------------|
| classification | text, sentence, content ...; label (a `ClassLabel`, whole numbers from 0, or names)        |
| translation    | translation (a dict of two languages), or two columns of language codes, or source, target |
| summarization  | document, article, dialogue, text; summary, highlights, abstract; references               |
| qa             | question, context, answers, and id (SQuAD)                                                 |
| pretraining    | text, content, or the only column of text                                                  |

With `split=` (such as `train[:10%]`) only that part is taken, and split 90/5/5.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmbench import DataError, DataRequest, Dataset, DatasetSpec, hookimpl
from llmbench_plugins.datasets import _formats, _hub, _samples, _splits
from llmbench_plugins.datasets._formats import Rows
from llmbench_plugins.datasets._hub import Tables
from llmbench_plugins.datasets._languages import is_language, iso_code

TEXT = ("text", "sentence", "content", "review", "review_body", "tweet", "message", "sms", "description")
LABEL = ("label", "labels", "class", "category", "coarse_label", "target")
DOCUMENT = ("document", "article", "dialogue", "text", "source", "content")
SUMMARY = ("summary", "highlights", "abstract", "tldr", "target")
SIDES = (("source", "target"), ("src", "tgt"), ("input", "output"))


@hookimpl
def llmbench_datasets() -> list[DatasetSpec]:
    """Bring the data sets of the Hugging Face hub."""
    description = "Hugging Face `datasets`: hub name or local folder, columns found by name and type"
    return [DatasetSpec("hf", identify, load, description=description, samples=_samples.repositories)]


def identify(request: DataRequest) -> str:
    """Return `hf:NAME@HASH`, where the hash is of all rows that the task uses."""
    return load(request).identity


def load(request: DataRequest) -> Dataset:
    """Read all splits. Raises DataError (one line) when there is no such data set, or its columns do not fit."""
    kind = _formats.kind_of(request.task)
    name, options = _hub.parse(request.argument)
    where = f"hf:{request.argument}"
    tables, names = _hub.by_split(_hub.load_tables(name, options, where), where)
    raw, info = MAPPERS[kind](tables, where)
    dropped = info.pop("notes", [])
    raw = {split: rows for split, rows in raw.items() if rows}
    if "train" not in raw:
        raise DataError(f"{where}: no examples for training in {', '.join(sorted(names.values()))}")
    digest = hashlib.sha256(json.dumps([request.task.name, info, raw], sort_keys=True).encode()).hexdigest()[:12]
    splits, notes = _splits.complete(raw, kind, where, names)
    return Dataset(
        identity=f"hf:{_hub.short_name(name)}@{digest}",
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        info={**info, "notes": [*dropped, *notes]},
    )


# --- columns --------------------------------------------------------------------------------------------


def _features(tables: Tables) -> Mapping[str, Any]:
    return dict(tables["train"].features)


def _column(features: Mapping[str, Any], wanted: Sequence[str], is_kind: Callable[[Any], bool]) -> str | None:
    """Return the column with the first of the `wanted` names whose type fits, whatever its case."""
    by_name = {column.lower(): column for column in features}
    for name in wanted:
        column = by_name.get(name)
        if column is not None and is_kind(features[column]):
            return column
    return None


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string", "string_view")


def _is_label(feature: Any) -> bool:
    return _is_text(feature) or hasattr(feature, "names") or str(getattr(feature, "dtype", "")).strip("u")[:3] == "int"


def _text_column(features: Mapping[str, Any], wanted: Sequence[str]) -> str | None:
    """Return the column of text with a usual name, else the only one there is."""
    texts = [column for column, feature in features.items() if _is_text(feature)]
    return _column(features, wanted, _is_text) or (texts[0] if len(texts) == 1 else None)


def _rows(tables: Tables, columns: Sequence[str], where: str) -> dict[str, list[dict[str, Any]]]:
    for split, table in tables.items():
        absent = [column for column in columns if column not in table.features]
        if absent:
            raise DataError(f"{where}: split {split} lacks {', '.join(absent)}; it has {', '.join(table.features)}")
    return {split: list(table.select_columns(list(columns))) for split, table in tables.items()}


def _missing(where: str, needed: str, features: Mapping[str, Any]) -> DataError:
    return DataError(f"{where}: needs {needed}; its columns are {', '.join(features) or 'none'}")


def _texts(rows: Mapping[str, Rows], fields: Mapping[str, str]) -> tuple[dict[str, Rows], list[str]]:
    """Return `rows` with only `fields` (ours -> column) stripped, without rows where one is empty; and notes."""
    out = {}
    notes = []
    for split, raw in rows.items():
        kept = [r for r in raw if all(isinstance(r[c], str) and r[c].strip() for c in fields.values())]
        out[split] = [{**r, **{field: r[column].strip() for field, column in fields.items()}} for r in kept]
        if len(kept) < len(raw):
            notes.append(f"{len(raw) - len(kept)} rows of {split} with an empty text are left out")
    return out, notes


# --- tasks ----------------------------------------------------------------------------------------------


def _classification(tables: Tables, where: str) -> tuple[dict[str, Rows], dict[str, Any]]:
    features = _features(tables)
    classes = [column for column, feature in features.items() if hasattr(feature, "names")]
    label = _column(features, LABEL, _is_label) or (classes[0] if len(classes) == 1 else None)
    text = _text_column({c: f for c, f in features.items() if c != label}, TEXT)
    if text is None or label is None:
        raise _missing(where, f"a text ({', '.join(TEXT[:3])}) and a label column", features)
    rows, notes = _texts(_rows(tables, [text, label], where), {"text": text})
    out: dict[str, Rows] = {}
    for split, found in rows.items():
        known = [r for r in found if r[label] not in (None, -1)]
        if len(known) < len(found):
            notes.append(f"{len(found) - len(known)} rows of {split} without a label are left out")
        out[split] = [{"text": r["text"], "label": r[label]} for r in known]
    names = getattr(features[label], "names", None)
    values = sorted({r["label"] for found in out.values() for r in found})
    if names is None and _is_text(features[label]):
        names, number_of = values, {value: number for number, value in enumerate(values)}
        out = {s: [{"text": r["text"], "label": number_of[r["label"]]} for r in found] for s, found in out.items()}
    elif values and (values[0] < 0 or (names is None and values != list(range(len(values))))):
        raise DataError(f"{where}: the values of {label} are not 0, 1, 2 ... without gaps: {values[:8]}")
    return out, {"labels": list(names or map(str, values)), "notes": notes}


def _translation(tables: Tables, where: str) -> tuple[dict[str, Rows], dict[str, Any]]:
    features = _features(tables)
    nested = next((c for c, f in features.items() if len(_languages_of(f)) == 2), None)
    if nested is not None:
        sides = _languages_of(features[nested])
        rows = {s: [r[nested] or dict.fromkeys(sides) for r in f] for s, f in _rows(tables, [nested], where).items()}
    else:
        named = [pair for pair in SIDES if all(_column(features, [side], _is_text) for side in pair)]
        coded = [c for c, f in features.items() if _is_text(f) and is_language(c)]
        sides = [str(_column(features, [side], _is_text)) for side in named[0]] if named else coded
        if len(sides) != 2:
            raise _missing(where, "a translation column, source and target, or two of language codes", features)
        rows = _rows(tables, sides, where)
    if all(map(is_language, sides)):
        sides = sorted(sides, key=lambda side: (iso_code(side) != "en", side))
    source, target = sides
    found, notes = _texts(rows, {"source": source, "target": target})
    out = {split: [{"source": r["source"], "target": r["target"]} for r in f] for split, f in found.items()}
    languages = [iso_code(side) if is_language(side) else None for side in sides]
    return out, {"source_lang": languages[0], "target_lang": languages[1], "notes": notes}


def _languages_of(feature: Any) -> list[str]:
    """Return the languages of a column that holds a dict of texts, else an empty list."""
    keys = getattr(feature, "languages", None) or (feature if isinstance(feature, dict) else [])
    return [str(key) for key in keys if is_language(str(key))]


def _summarization(tables: Tables, where: str) -> tuple[dict[str, Rows], dict[str, Any]]:
    features = _features(tables)
    document = _column(features, DOCUMENT, _is_text)
    summary = _column({c: f for c, f in features.items() if c != document}, SUMMARY, _is_text)
    if document is None or summary is None:
        raise _missing(where, "a document (document, article) and a summary (summary, highlights) column", features)
    more = ["references"] if "references" in features else []
    found, notes = _texts(_rows(tables, [document, summary, *more], where), {"document": document, "summary": summary})
    out = {
        split: [
            {"document": r["document"], "summary": r["summary"], "references": r.get("references") or [r["summary"]]}
            for r in rows
        ]
        for split, rows in found.items()
    }
    return out, {"notes": notes}


def _qa(tables: Tables, where: str) -> tuple[dict[str, Rows], dict[str, Any]]:
    features = _features(tables)
    needed = ["question", "context", "answers"]
    if not all(column in features for column in needed):
        raise _missing(where, "question, context and answers columns (SQuAD)", features)
    columns = [*needed, "id"] if "id" in features else needed
    out: dict[str, Rows] = {}
    for split, rows in _rows(tables, columns, where).items():
        out[split] = []
        for number, row in enumerate(rows):
            place = f"{split}[{number}]"
            _formats.text_of(row, "context", f"{where}: {place}")
            qa = {"id": str(row.get("id") or place), "question": row["question"], "answers": _answers(row["answers"])}
            out[split].append(_formats.question_row(qa, row["context"], where, f"{where}: {place}"))
    return out, {}


def _answers(value: Any) -> Any:
    """Return SQuAD's columns of lists as a list of answers."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        pairs = zip(value["text"], value.get("answer_start") or [], strict=False)
        return [{"text": text, "answer_start": start} for text, start in pairs]
    return value


def _pretraining(tables: Tables, where: str) -> tuple[dict[str, Rows], dict[str, Any]]:
    features = _features(tables)
    text = _text_column(features, TEXT)
    if text is None:
        raise _missing(where, f"a text column ({', '.join(TEXT[:3])})", features)
    found, _ = _texts(_rows(tables, [text], where), {"text": text})
    return {split: [{"text": r["text"]} for r in rows] for split, rows in found.items()}, {}


MAPPERS: Mapping[str, Callable[[Tables, str], tuple[dict[str, Rows], dict[str, Any]]]] = {
    "classification": _classification,
    "translation": _translation,
    "summarization": _summarization,
    "qa": _qa,
    "pretraining": _pretraining,
}
