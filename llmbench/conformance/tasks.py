"""The contract of a task: text to features, predictions to answers, answers to scores."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.conformance.subject import Failed, NotHere, Subject, check
from llmbench.contract.cell import STAGES
from llmbench.contract.errors import UserError
from llmbench.contract.specs import HEADS, BaselineContext, DataRequest, Dataset, EncodeContext, Feature, MetricSpec
from llmbench.execution import worker_calls
from llmbench.execution.child import resolve

SEQ = 64  # tokens of an input
TARGET = 24  # tokens of an output
MAX_EXAMPLES = 40
VOCABULARY = 400  # tokens
#: Head -> the keys of its features.
KEYS = {
    "classify": {"ids", "label"},
    "span": {"question", "context", "start", "end"},
    "generate": {"source", "target"},
    "pretrain": {"ids"},
}


def data_of(subject: Subject) -> Dataset:
    """Return data to try a task on: its own examples, else those of a data set that serves it and needs no argument."""
    examples = subject.spec.examples
    for provided in subject.registry.by_kind["dataset"].values():
        if provided.spec.tasks is None or subject.name not in provided.spec.tasks:
            continue
        try:
            data: Dataset = provided.spec.load(DataRequest(subject.spec, ""))
        except UserError:
            continue
        rows = [*examples, *data.test[:MAX_EXAMPLES]]
        return Dataset(data.identity, data.train[: 5 * MAX_EXAMPLES], [], rows, data.info)
    if not examples:
        raise Failed("there is nothing to try it on: give a few `examples`, as data sets give them")
    return Dataset("examples@1", list(examples), [], list(examples), {"labels": [str(n) for n in range(9)]})


def context_of(subject: Subject, data: Dataset, *, train: bool = False) -> EncodeContext:
    """Return a context with a tokenizer that was trained on the examples."""
    texts = [text for example in [*data.train, *data.test] for text in subject.spec.texts(example)]
    tokenizer = resolve(worker_calls.TRAIN_TOKENIZER)(texts or ["a b"], VOCABULARY)
    return EncodeContext(tokenizer, SEQ, TARGET, data.info, train)


@check("task", says="its head, stages, metrics and primary value are there")
def spec(subject: Subject) -> None:
    """Look at what the fields say together."""
    one, require = subject.spec, subject.require
    require(one.head in HEADS, f"head {one.head!r} is none (heads: {', '.join(HEADS)})")
    strange = [stage for stage in one.stages if stage not in STAGES]
    require(bool(one.stages) and not strange, f"stages {one.stages}: write some of {', '.join(STAGES)}")
    missing = [name for name in one.metrics if name not in subject.registry.names("metric")]
    require(not missing, f"no plugin brings the metric {', '.join(missing)}")
    values = sorted({value for name in one.metrics for value in subject.registry.get("metric", name).values})
    require(one.primary in values, f"primary {one.primary!r} is no value of its metrics ({', '.join(values)})")
    require(bool(one.fields), "it names no fields of an example")


@check("task", says="each example becomes the features of its head, the same ones every time")
def features(subject: Subject) -> None:
    """Encode examples, twice, and look whether they are as they were."""
    import pickle

    data, require = data_of(subject), subject.require
    for example in data.test[:5]:
        missing = [name for name in subject.spec.fields if name not in example]
        require(not missing, f"its example {example!r:.60} lacks {', '.join(missing)}, which `fields` names")
        texts = subject.spec.texts(example)
        require(not isinstance(texts, str) and all(isinstance(t, str) for t in texts), "texts returns no list of texts")
    for train in (True, False):
        ctx = context_of(subject, data, train=train)
        before = copy.deepcopy(data.test)
        encoded = subject.spec.encode(data.test, ctx)
        require(before == data.test, "encode changes the examples that it is given")
        require(encoded == subject.spec.encode(data.test, ctx), "encode gives other features the second time")
        if subject.spec.head != "pretrain":
            require(
                len(encoded) == len(data.test), f"encode makes {len(encoded)} features of {len(data.test)} examples"
            )
        for feature in encoded:
            _feature(subject, feature, ctx, data.info)
        require(pickle.loads(pickle.dumps(encoded)) == encoded, "its features do not pickle to loader processes")


def _feature(subject: Subject, feature: Feature, ctx: EncodeContext, info: Mapping[str, Any]) -> None:
    head, require = subject.spec.head, subject.require
    missing = KEYS[head] - set(feature)
    require(not missing, f"a feature lacks {', '.join(sorted(missing))}, which the head {head} needs")
    for name in KEYS[head] & {"ids", "question", "context", "source", "target"}:
        good = all(isinstance(i, int) and 0 <= i < ctx.tokenizer.vocab_size for i in feature[name])
        require(good, f"{name} of a feature is {feature[name]!r:.60}; write ids of the tokenizer")
    if head == "classify":
        classes = subject.spec.num_labels(info)
        good = isinstance(feature["label"], int) and 0 <= feature["label"] < classes
        require(good, f"label {feature['label']!r} of a feature: write a class from 0 to {classes - 1} (num_labels)")
    if head == "span" and feature["start"] is not None:
        good = 0 <= feature["start"] <= feature["end"] < len(feature["context"])
        require(good, f"start {feature['start']}, end {feature['end']}: both are tokens of the context, the end inside")


@check("task", says="a perfect prediction decodes to the answer, and scores best")
def round_trip(subject: Subject) -> None:
    """Decode what the features say, and score that against the references."""
    data = data_of(subject)
    ctx = context_of(subject, data)
    encoded = subject.spec.encode(data.test, ctx)
    if subject.spec.head == "pretrain":
        _score(subject, data, _decode(subject, data, encoded, ctx, _guess), [None] * len(encoded))
        return
    answerable = [(e, f) for e, f in zip(data.test, encoded, strict=True) if f.get("start", 0) is not None]
    examples, features = [e for e, _ in answerable], [f for _, f in answerable]
    perfect = {
        "classify": lambda f: f["label"],
        "span": lambda f: (f["start"], f["end"]),
        "generate": lambda f: list(f["target"]),
    }[subject.spec.head]
    shown = Dataset(data.identity, data.train, [], examples, data.info)
    answers = _decode(subject, shown, features, ctx, perfect)
    references = [subject.spec.reference(e) for e in examples]
    for answer, reference in zip(answers, references, strict=True):
        right = reference if isinstance(reference, list | tuple) else [reference]
        inside = isinstance(answer, str) and any(str(r).strip() in answer for r in right)
        subject.require(
            answer in right or inside,
            f"a perfect prediction decodes to {answer!r:.60}, and the reference is {reference!r:.60}",
        )
    best = _score(subject, shown, answers, references)
    worst = _score(subject, shown, answers[1:] + answers[:1], references)
    way = next(s.values[subject.spec.primary] for s in _metrics(subject) if subject.spec.primary in s.values)
    a, b = best[subject.spec.primary], worst[subject.spec.primary]
    subject.require(
        a >= b if way == "higher" else a <= b,
        f"{subject.spec.primary} of perfect answers is {a:g}, and {b:g} of exchanged ones",
    )


def _guess(feature: Feature) -> dict[str, float]:
    """Return the prediction of a model of language that knows nothing."""
    count = max(1, len(feature["ids"]) - 1)
    return {"nll": math.log(VOCABULARY) * count, "tokens": count, "masked": False}


def _decode(subject: Subject, data: Dataset, encoded: Sequence[Feature], ctx: EncodeContext, predict: Any) -> list[Any]:
    examples: Sequence[Any] = data.test if len(encoded) == len(data.test) else [{}] * len(encoded)
    return [subject.spec.decode(predict(f), e, f, ctx.tokenizer) for e, f in zip(examples, encoded, strict=True)]


def _metrics(subject: Subject) -> list[MetricSpec]:
    return [subject.registry.get("metric", name) for name in subject.spec.metrics]


def _score(subject: Subject, data: Dataset, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    for spec in _metrics(subject):
        metric = spec.load(str(subject.folder))
        values |= (
            metric.compute(predictions=list(answers), references=list(references), **spec.options(data.info)) or {}
        )
    subject.require(bool(values), "its metrics give no value for what it decodes")
    if subject.spec.head != "pretrain":
        subject.require(
            subject.spec.primary in values, f"its metrics give no {subject.spec.primary} for what it decodes"
        )
    return values


@check("task", says="each baseline answers every example, the same way every time")
def baselines(subject: Subject) -> None:
    """Ask the baselines."""
    if not subject.spec.baselines:
        raise NotHere("it has no baselines")
    data = data_of(subject)
    ctx = context_of(subject, data)
    encoded = subject.spec.encode(data.test, ctx)
    context = BaselineContext(data, data.test, ctx.tokenizer, encoded, seed=1)
    for name, predict in subject.spec.baselines.items():
        answers = predict(context)
        wanted = {len(encoded), len(data.test)}
        subject.require(
            len(answers) in wanted, f"baseline {name} gives {len(answers)} answers to {len(data.test)} examples"
        )
        subject.require(
            answers == predict(context), f"baseline {name} gives other answers the second time; draw from ctx.seed"
        )
        references: list[Any] = [subject.spec.reference(e) for e in data.test]
        _score(subject, data, answers, references if len(references) == len(answers) else [None] * len(answers))
