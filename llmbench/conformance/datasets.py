"""The contract of a data set: an identity that follows its content, whole splits, examples for its tasks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from llmbench.conformance.common import ask_fresh_process
from llmbench.conformance.subject import Failed, NotHere, Subject, check
from llmbench.contract.errors import UserError
from llmbench.contract.specs import DataRequest, Dataset, EncodeContext
from llmbench.execution import worker_calls
from llmbench.execution.child import resolve

_IDENTITY = re.compile(r"[\w.+-]+(?::[^@\s]+)?@[\w.+-]+")
SPLITS = ("train", "validation", "test")
MAX_EXAMPLES = 200  # of a split, that are looked at one by one


def load_each(subject: Subject) -> Iterator[tuple[DataRequest, Dataset]]:
    """Yield a request for each task that the data set serves here, and the data that it loads for it."""
    spec, tried, reasons = subject.spec, 0, []
    tasks = spec.tasks if spec.tasks is not None else subject.registry.names("task")
    arguments = dict(spec.samples(str(subject.folder))) if spec.samples else dict.fromkeys(tasks, "")
    for name in tasks:
        if name not in arguments:
            continue
        if name not in subject.registry.by_kind["task"]:
            raise Failed(f"it serves the task {name!r}, which no plugin brings")
        request = DataRequest(subject.registry.get("task", name), arguments[name])
        try:
            data = spec.load(request)
        except UserError as error:
            reasons.append(f"{name}: {error}")
            continue
        tried += 1
        yield request, data
    if not tried and spec.tasks is not None and not spec.samples:
        raise Failed(reasons[0] if reasons else "it serves no task")
    if not tried:
        raise NotHere("it can be loaded with an argument only; give `samples`, which writes small ones")


def digest(data: Dataset) -> str:
    """Return a fingerprint of the content of a data set and of its order."""
    content = hashlib.sha256()
    for split in SPLITS:
        for example in getattr(data, split):
            content.update(json.dumps(example, sort_keys=True, default=str).encode())
        content.update(b"|")
    content.update(json.dumps(data.info, sort_keys=True, default=str).encode())
    return content.hexdigest()


@check("dataset", says="its identity names it and its content, in every process, and no path")
def identity(subject: Subject) -> None:
    """Ask for the identity here and in a fresh process, and compare the content there."""
    for request, data in load_each(subject):
        name, require = f"{request.task.name}: ", subject.require
        said = subject.spec.identify(request)
        require(
            bool(_IDENTITY.fullmatch(said)),
            f"{name}identity {said!r}: write NAME@FINGERPRINT or NAME:SHORT@FINGERPRINT",
        )
        require(
            said.partition("@")[0].partition(":")[0] == subject.name,
            f"{name}identity {said!r} does not begin with {subject.name!r}",
        )
        folder = str(subject.folder)
        require(
            "/" not in said.replace("//", "") or folder not in said,
            f"{name}identity {said!r} holds a path of this machine",
        )
        require(said == data.identity, f"{name}identify says {said!r}, and what it loads is {data.identity!r}")
        place = (request.argument, list(subject.files), str(Path.cwd()))
        fresh = ask_fresh_process("load_dataset", subject.name, request.task.name, *place)
        require("error" not in fresh, f"{name}{fresh.get('error')}")
        require(
            fresh["identity"] == said, f"{name}identity is {said!r} here and {fresh['identity']!r} in a fresh process"
        )
        require(
            fresh["digest"] == digest(data),
            f"{name}a fresh process loads other examples under the same identity; seed what is drawn",
        )


@check("dataset", says="its splits are there, hold what the task names, and share no example")
def splits(subject: Subject) -> None:
    """Look at the examples."""
    for request, data in load_each(subject):
        name, require = request.task.name, subject.require
        require(
            len(data.train) > 0 and len(data.test) > 0,
            f"{name}: {len(data.train)} examples to train, {len(data.test)} to test",
        )
        seen: dict[str, str] = {}
        for split in SPLITS:
            rows = [getattr(data, split)[i] for i in range(len(getattr(data, split)))]
            keys = {
                json.dumps({f: row[f] for f in request.task.fields if f in row}, sort_keys=True, default=str)
                for row in rows
            }
            for row in rows[:MAX_EXAMPLES]:
                missing = [field for field in request.task.fields if field not in row]
                require(not missing, f"{name}: an example of {split} lacks {', '.join(missing)}")
            both = next((key for key in sorted(keys) if seen.get(key, split) != split), None)
            require(both is None, f"{name}: {(both or '')[:80]} is in {seen.get(both or '')} and in {split}")
            seen |= dict.fromkeys(keys, split)


@check("dataset", says="its tasks can encode what it holds")
def encodes(subject: Subject) -> None:
    """Encode the beginning of each split with the task's own function."""
    import pickle

    for request, data in load_each(subject):
        task = request.task
        texts = [text for example in data.train[:MAX_EXAMPLES] for text in task.texts(example)]
        tokenizer = resolve(worker_calls.TRAIN_TOKENIZER)(texts, 400)
        classes = task.num_labels(data.info)
        for split in SPLITS:
            rows = list(getattr(data, split)[:MAX_EXAMPLES])
            subject.require(pickle.loads(pickle.dumps(rows)) == rows, f"{task.name}: its examples do not pickle")
            features = task.encode(rows, EncodeContext(tokenizer, 64, 24, data.info, split == "train"))
            labels = [f["label"] for f in features if "label" in f] if task.head == "classify" else []
            wrong = [label for label in labels if not 0 <= label < classes]
            subject.require(not wrong, f"{task.name}: label {wrong[:1]} in {split}, and there are {classes} classes")


@check("dataset", says="loading it twice gives the same, and leaves chance alone")
def repeats(subject: Subject) -> None:
    """Load it twice, with another state of the random generators."""
    import random

    for request, data in load_each(subject):
        random.seed(99)
        state = random.getstate()
        again = subject.spec.load(request)
        subject.require(digest(again) == digest(data), f"{request.task.name}: it loads other examples the second time")
        subject.require(
            random.getstate() == state,
            f"{request.task.name}: loading draws from the global `random`; use random.Random(seed)",
        )


@check("dataset", says="its oracle answers every example")
def oracle(subject: Subject) -> None:
    """Ask the oracle."""
    asked = 0
    for request, data in load_each(subject):
        if data.oracle is None:
            continue
        asked += 1
        subject.require(
            data.oracle.kind in ("exact", "reference"), f"oracle of kind {data.oracle.kind!r}: exact or reference"
        )
        rows = data.test[:MAX_EXAMPLES]
        answers = data.oracle.predict(rows)
        count = len(answers)
        subject.require(
            count == len(rows), f"{request.task.name}: {count} answers of the oracle to {len(rows)} examples"
        )
    if not asked:
        raise NotHere("it has no oracle")


@check("dataset", says="what is not there is refused in one line")
def refuses(subject: Subject) -> None:
    """Ask for a place that does not exist."""
    task = subject.registry.get("task", (subject.spec.tasks or subject.registry.names("task"))[0])
    request = DataRequest(task, str(subject.folder / "nothing" / "here"))
    try:
        subject.spec.load(request)
    except UserError as error:
        subject.require("\n" not in str(error).strip(), f"its error has several lines: {str(error)!r:.80}")
        return
    except Exception as error:
        raise Failed(
            f"of a place that is not there it raises {type(error).__name__}; raise DataError with one line: {error}"[
                :200
            ]
        ) from None
    if any(True for _ in _arguments(subject)):
        raise Failed("it loads a place that is not there as if it were")
    raise NotHere("it takes no argument")


def _arguments(subject: Subject) -> Iterator[str]:
    if subject.spec.samples:
        yield from subject.spec.samples(str(subject.folder)).values()
