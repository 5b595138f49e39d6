"""The hooks a plugin may implement. Each returns specs (see `llmbench.contract.specs`) and changes nothing.

A plugin is one module; registering it is one line of its distribution's pyproject.toml::

    [project.entry-points.llmbench]
    my-plugin = "my_plugin"

or `llmbench run --plugin my_plugin.py`, or a file in `./plugins/`. `llmbench plugins new NAME --kind KIND` writes
such a distribution around the plugin that the hook shows; `llmbench plugins check NAME` says whether it keeps its
contract.

A line `LLMBENCH_API = 2` says which version of this interface a plugin was written for; it is read before the plugin
is imported. This llmbench takes the versions from `OLDEST_API` to `API_VERSION`: see docs/plugins.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from llmbench.contract.engines import EngineSpec
from llmbench.contract.specs import (
    CauseSpec,
    DatasetSpec,
    MetricSpec,
    ModelSpec,
    PrecisionSpec,
    RemedySpec,
    ReporterSpec,
    TaskSpec,
)

PROJECT = "llmbench"
API_VERSION = 2  # raised by every addition to the hooks and the specs, and by every removal
OLDEST_API = 1  # raised by removals: plugins written for an older version are left out
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def llmbench_models() -> Iterable[ModelSpec]:
    """Return the models this plugin brings.

    A complete plugin, a bag of embeddings that classifies::

        import llmbench
        from llmbench.layouts import Single

        LLMBENCH_API = 2
        WIDTH = 64

        def build(request):
            from torch import nn
            from torch.nn.functional import cross_entropy

            if request.weights:
                raise llmbench.Unsupported("it has no pretrained weights")

            class Bag(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.embed = nn.EmbeddingBag(request.vocab_size, WIDTH, padding_idx=request.special.pad)
                    self.head = nn.Linear(WIDTH, request.num_labels)

                def forward(self, input_ids, attention_mask, labels=None):
                    logits = self.head(self.embed(input_ids))
                    out = {"logits": logits}
                    if labels is not None:
                        out["loss"] = cross_entropy(logits.float(), labels)
                    return out

            return Bag()

        def flops(request, shapes):
            return 2 * shapes["input_ids"][0] * WIDTH * request.num_labels

        @llmbench.hookimpl
        def llmbench_models():
            return [llmbench.ModelSpec("bag", {"tiny": {}}, {"classify": Single()}, build, flops=flops)]
    """
    raise NotImplementedError


@hookspec
def llmbench_tasks() -> Iterable[TaskSpec]:
    """Return the tasks this plugin brings.

    A complete plugin, whether two texts have the same words, with generated data for it::

        import random
        import llmbench

        LLMBENCH_API = 2
        WORDS = "red green blue old new big small fast slow warm".split()

        def encode(examples, ctx):
            first = ctx.tokenizer.encode_batch([e["first"] for e in examples])
            second = ctx.tokenizer.encode_batch([e["second"] for e in examples])
            sep, rows = ctx.tokenizer.special.sep, zip(first, second, examples)
            return [{"ids": [*a, sep, *b], "label": e["label"]} for a, b, e in rows]

        def decode(prediction, example, feature, tokenizer):
            return int(prediction)

        def pairs(rng):
            while True:
                first, other = rng.sample(WORDS, 4), rng.sample(WORDS, 4)
                second = rng.sample(first, 4) if rng.random() < 0.5 else other
                label = int(set(first) == set(second))
                yield {"first": " ".join(first), "second": " ".join(second), "label": label}

        def majority(ctx):
            labels = [e["label"] for e in ctx.dataset.train]
            return [max(set(labels), key=labels.count)] * len(ctx.test)

        TASK = llmbench.TaskSpec(
            name="same-words",
            head="classify",
            fields=("first", "second", "label"),
            texts=lambda e: (e["first"], e["second"]),
            encode=encode,
            decode=decode,
            reference=lambda e: e["label"],
            metrics=("accuracy",),
            primary="accuracy",
            baselines={"majority": majority},
            num_labels=lambda info: 2,
            examples=({"first": "red old", "second": "old red", "label": 1},),
        )

        def identify(request):
            return "same-words@1"

        def load(request):
            rng, made = random.Random(0), {}
            for e in pairs(rng):
                made[e["first"], e["second"]] = e
                if len(made) == 1200:
                    rows = list(made.values())
                    return llmbench.Dataset(identify(request), rows[:1000], rows[1000:1100], rows[1100:])

        @llmbench.hookimpl
        def llmbench_tasks():
            return [TASK]

        @llmbench.hookimpl
        def llmbench_datasets():
            return [llmbench.DatasetSpec("same-words", identify, load, tasks=(TASK.name,))]
    """
    raise NotImplementedError


@hookspec
def llmbench_datasets() -> Iterable[DatasetSpec]:
    """Return the sources of data this plugin brings.

    A complete plugin, texts in which one of two letters stands more often::

        import random
        import llmbench

        LLMBENCH_API = 2

        def load(request):
            rng, texts = random.Random(0), {}
            while len(texts) < 1200:
                letters = rng.choices("abcd", k=15)
                if letters.count("a") != letters.count("b"):
                    texts[" ".join(letters)] = int(letters.count("b") > letters.count("a"))
            rows = [{"text": text, "label": label} for text, label in texts.items()]
            info = {"labels": ["more a", "more b"]}
            return llmbench.Dataset(identify(request), rows[:1000], rows[1000:1100], rows[1100:], info)

        def identify(request):
            return "letters@1"

        @llmbench.hookimpl
        def llmbench_datasets():
            return [llmbench.DatasetSpec("letters", identify, load, tasks=("classification",))]
    """
    raise NotImplementedError


@hookspec
def llmbench_metrics() -> Iterable[MetricSpec]:
    """Return the metrics this plugin brings.

    A complete plugin, balanced accuracy, which also scores every classification::

        import llmbench

        LLMBENCH_API = 2

        def balanced(predictions, references):
            recalls = []
            for label in sorted(set(references)):
                found = [p == label for p, r in zip(predictions, references) if r == label]
                recalls.append(sum(found) / len(found))
            return sum(recalls) / len(recalls)

        def load(cache_dir):
            import datasets
            import evaluate

            class Balanced(evaluate.Metric):
                def _info(self):
                    label = datasets.Value("int64")
                    features = datasets.Features({"predictions": label, "references": label})
                    return evaluate.MetricInfo(description="mean recall", citation="", features=features)

                def _compute(self, predictions, references):
                    return {"balanced_accuracy": balanced(predictions, references)}

            return Balanced(config_name="balanced-accuracy", cache_dir=cache_dir, keep_in_memory=True)

        @llmbench.hookimpl
        def llmbench_metrics():
            spec = llmbench.MetricSpec(
                name="balanced-accuracy",
                load=load,
                values={"balanced_accuracy": "higher"},
                tasks=("classification",),
                bounds={"balanced_accuracy": (0, 1)},
                known=(([0, 0, 1, 1], [0, 0, 0, 1], {"balanced_accuracy": 5 / 6}),),
            )
            return [spec]
    """
    raise NotImplementedError


@hookspec
def llmbench_precisions() -> Iterable[PrecisionSpec]:
    """Return the numeric settings this plugin brings.

    A complete plugin, double precision, to hold others against::

        import llmbench

        LLMBENCH_API = 2

        @llmbench.hookimpl
        def llmbench_precisions():
            return [llmbench.PrecisionSpec("fp64", parameters="float64", devices=("cpu", "cuda"))]
    """
    raise NotImplementedError


@hookspec
def llmbench_causes() -> Iterable[CauseSpec]:
    """Return the causes that this plugin can predict, remove and measure.

    A complete plugin, dropout as a bottleneck::

        import contextlib
        import llmbench

        LLMBENCH_API = 2

        def dropouts(trial):
            from torch import nn

            found = [m for m in trial.module.modules() if isinstance(m, nn.Dropout) and m.p > 0]
            if not found or not trial.trains:
                raise llmbench.DoesNotApply("no dropout in a step")
            return found

        @contextlib.contextmanager
        def replaced(modules, new):
            for m in modules:
                m.forward = new(m.forward)  # hides the method of the class
            try:
                yield
            finally:
                for m in modules:
                    del m.forward

        def probe(trial):
            found = dropouts(trial)
            return {"part_s": trial.timed(lambda timer: replaced(found, timer))}

        def predict(record, facts):
            return llmbench.without(record, facts["part_s"])

        def intervene(trial):
            found = dropouts(trial)
            return llmbench.Intervention(lambda: replaced(found, lambda forward: lambda x: x))

        @llmbench.hookimpl
        def llmbench_causes():
            return [llmbench.CauseSpec("dropout", "where", "algorithm", probe, predict, intervene)]
    """
    raise NotImplementedError


@hookspec
def llmbench_remedies() -> Iterable[RemedySpec]:
    """Return the changes that `llmbench run --remedies` may try.

    A complete plugin, two loader processes that prepare batches ahead::

        import dataclasses
        import llmbench

        LLMBENCH_API = 2

        def change(cell):
            if cell.workers:
                raise llmbench.DoesNotApply(f"it has {cell.workers} loader processes already")
            return dataclasses.replace(cell, workers=2)

        def predict(record, ceilings):
            gain = llmbench.without(record, record["phases"].get("input_s", ()))
            return llmbench.Forecast(gain, "the wait for batches is hidden behind the step")

        @llmbench.hookimpl
        def llmbench_remedies():
            return [llmbench.RemedySpec("two-workers", ("input",), change, predict, same_updates=True)]
    """
    raise NotImplementedError


@hookspec
def llmbench_reporters() -> Iterable[ReporterSpec]:
    """Return the formats of `llmbench report` that this plugin brings.

    A complete plugin, the tables for Org mode::

        import llmbench

        LLMBENCH_API = 2

        def render(report):
            lines = [f"#+title: {plain(report.title)}", ""]
            for table in report.tables:
                lines += [f"* {plain(table.title)}", "", row(c.heading for c in table.columns), "|-"]
                for values in table.rows:
                    lines.append(row(c.text(v) for c, v in zip(table.columns, values)))
                lines += ["", *(f"- {plain(note)}" for note in table.notes), ""]
            return "\\n".join(lines)

        def plain(text):
            return "".join(c if c.isprintable() else " " for c in text)

        def row(texts):
            return "| " + " | ".join(plain(text).replace("|", "\\\\vert{}") for text in texts) + " |"

        @llmbench.hookimpl
        def llmbench_reporters():
            return [llmbench.ReporterSpec("org", render, ".org", "tables for Org mode")]
    """
    raise NotImplementedError


@hookspec
def llmbench_engines() -> Iterable[EngineSpec]:
    """Return the engines this plugin brings: what drives the models whose `ModelSpec.engine` names them.

    `open(request)` returns an object with the methods of `llmbench.Engine`, whose docstrings say what each does.
    `llmbench_plugins/engines/keras.py` is one for another framework, made of public names alone.
    A complete plugin, torch with algorithms that give the same sums every time, and a model on it::

        import dataclasses
        import llmbench
        from llmbench_plugins.engines.torch import open_engine
        from llmbench_plugins.models import word2vec

        LLMBENCH_API = 2

        def open_repeatable(request):
            import torch

            torch.use_deterministic_algorithms(True)
            return open_engine(request)

        @llmbench.hookimpl
        def llmbench_engines():
            return [llmbench.EngineSpec("repeatable", open_repeatable, "torch, the same sums every time")]

        @llmbench.hookimpl
        def llmbench_models():
            return [dataclasses.replace(word2vec.llmbench_models()[0], name="repeatable", engine="repeatable")]
    """
    raise NotImplementedError
