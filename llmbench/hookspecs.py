"""The hooks a plugin may implement. Each returns specs (see `llmbench.specs`) and changes nothing.

A plugin is one module; registering it is one line of its distribution's pyproject.toml::

    [project.entry-points.llmbench]
    my-plugin = "my_plugin"

or `llmbench run --plugin my_plugin.py`, or a file in `./plugins/`.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from llmbench.specs import (
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
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def llmbench_models() -> Iterable[ModelSpec]:
    """Return the models this plugin brings.

    A complete plugin, a bag of embeddings that classifies::

        import llmbench
        from llmbench.layouts import Single

        def build(request):
            from torch import nn
            from torch.nn.functional import cross_entropy

            class Bag(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.embed = nn.EmbeddingBag(request.vocab_size, 64, padding_idx=request.special.pad)
                    self.head = nn.Linear(64, request.num_labels)

                def forward(self, input_ids, attention_mask, labels=None):
                    logits = self.head(self.embed(input_ids))
                    out = {"logits": logits}
                    if labels is not None:
                        out["loss"] = cross_entropy(logits.float(), labels)
                    return out

            return Bag()

        @llmbench.hookimpl
        def llmbench_models():
            return [llmbench.ModelSpec(name="bag", sizes={"tiny": {}}, layouts={"classify": Single()}, build=build)]
    """
    raise NotImplementedError


@hookspec
def llmbench_tasks() -> Iterable[TaskSpec]:
    """Return the tasks this plugin brings.

    A complete plugin, classification of a text by its last words only::

        import dataclasses
        import llmbench
        from llmbench_plugins.tasks.classification import TASK

        def encode(examples, ctx):
            cut = [{**e, "text": " ".join(e["text"].split()[-8:])} for e in examples]
            return TASK.encode(cut, ctx)

        @llmbench.hookimpl
        def llmbench_tasks():
            return [dataclasses.replace(TASK, name="classify-last-words", encode=encode)]
    """
    raise NotImplementedError


@hookspec
def llmbench_datasets() -> Iterable[DatasetSpec]:
    """Return the sources of data this plugin brings.

    A complete plugin, the parity of a run of letters::

        import random
        import llmbench

        def load(request):
            rng = random.Random(0)
            def rows(n):
                texts = [" ".join(rng.choices("ab", k=8)) for _ in range(n)]
                return [{"text": t, "label": t.count("a") % 2} for t in texts]
            return llmbench.Dataset(identify(request), rows(512), rows(64), rows(64), {"labels": ["even", "odd"]})

        def identify(request):
            return "parity@1"

        @llmbench.hookimpl
        def llmbench_datasets():
            return [llmbench.DatasetSpec(name="parity", identify=identify, load=load, tasks=("classification",))]
    """
    raise NotImplementedError


@hookspec
def llmbench_metrics() -> Iterable[MetricSpec]:
    """Return the metrics this plugin brings.

    A complete plugin, the share of answers that are not empty::

        import llmbench

        def load(cache_dir):
            import datasets
            import evaluate

            class Answered(evaluate.Metric):
                def _info(self):
                    features = datasets.Features({"predictions": datasets.Value("string"),
                                                  "references": datasets.Value("string")})
                    return evaluate.MetricInfo(description="share of answers", citation="", features=features)

                def _compute(self, predictions, references):
                    return {"answered": sum(map(bool, predictions)) / len(predictions)}

            return Answered(cache_dir=cache_dir)

        @llmbench.hookimpl
        def llmbench_metrics():
            return [llmbench.MetricSpec(name="answered", load=load, values={"answered": "higher"})]
    """
    raise NotImplementedError


@hookspec
def llmbench_precisions() -> Iterable[PrecisionSpec]:
    """Return the numeric settings this plugin brings.

    A complete plugin, half-precision weights under bfloat16 autocast::

        import llmbench

        @llmbench.hookimpl
        def llmbench_precisions():
            return [llmbench.PrecisionSpec(name="fp16-bf16", parameters="float16", autocast="bfloat16")]
    """
    raise NotImplementedError


@hookspec
def llmbench_causes() -> Iterable[CauseSpec]:
    """Return the causes that this plugin can predict, remove and measure.

    A complete plugin, dropout as a bottleneck::

        import contextlib
        import llmbench

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

    A complete plugin, one loader process that prepares batches ahead::

        import dataclasses
        import llmbench

        def change(cell):
            if cell.workers:
                raise llmbench.DoesNotApply(f"it has {cell.workers} loader processes already")
            return dataclasses.replace(cell, workers=1)

        def predict(record, ceilings):
            gain = llmbench.without(record, record["phases"].get("input_s", ()))
            return llmbench.Forecast(gain, "the wait for batches is hidden behind the step")

        @llmbench.hookimpl
        def llmbench_remedies():
            return [llmbench.RemedySpec("one-worker", ("input",), change, predict, same_updates=True)]
    """
    raise NotImplementedError


@hookspec
def llmbench_reporters() -> Iterable[ReporterSpec]:
    """Return the formats of `llmbench report` that this plugin brings.

    A complete plugin, the tables for Org mode::

        import llmbench

        def render(report):
            lines = [f"#+title: {report.title}", ""]
            for table in report.tables:
                lines += [f"* {table.title}", "", row(c.heading for c in table.columns), "|-"]
                for values in table.rows:
                    lines.append(row(c.text(v) for c, v in zip(table.columns, values)))
                lines += ["", *(f"- {note}" for note in table.notes), ""]
            return "\\n".join(lines)

        def row(texts):
            return "| " + " | ".join(text.replace("|", "\\\\vert{}") for text in texts) + " |"

        @llmbench.hookimpl
        def llmbench_reporters():
            return [llmbench.ReporterSpec("org", render, ".org", "tables for Org mode")]
    """
    raise NotImplementedError
