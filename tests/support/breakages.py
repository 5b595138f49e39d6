"""Deliberately broken plugins: the working one that a hook shows, with one thing wrong, and what the kit must say.

Each is (kind, check that must fail, words of its reason, text of the working plugin, what stands there instead).
"""

from __future__ import annotations

from pathlib import Path

from llmbench.plugins.scaffold import plugin_source

ALWAYS = "LLMBENCH_API = 2\n"
BREAKAGES: dict[str, tuple[str, str, str, str, str]] = {
    # models
    "imports_torch": ("model", "imports", "imports torch", ALWAYS, ALWAYS + "import torch\n"),
    "starts_a_thread": (
        "model",
        "imports",
        "starts 1 threads",
        ALWAYS,
        ALWAYS + "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
    ),
    "changes_the_environment": (
        "model",
        "imports",
        "environment variables",
        ALWAYS,
        ALWAYS + "import os\nos.environ['OMP_NUM_THREADS'] = '7'\n",
    ),
    "wrong_shape": (
        "model",
        "outputs",
        "logits has shape (4, 4)",
        "nn.Linear(WIDTH, request.num_labels)",
        "nn.Linear(WIDTH, request.num_labels + 1)",
    ),
    "half_loss": (
        "model",
        "outputs",
        "the loss is torch.float16",
        "cross_entropy(logits.float(), labels)",
        "cross_entropy(logits.float(), labels).half()",
    ),
    "loss_per_row": (
        "model",
        "outputs",
        "only one element",
        "cross_entropy(logits.float(), labels)",
        "cross_entropy(logits.float(), labels, reduction='none')",
    ),
    "unseeded": (
        "model",
        "seed",
        "of two trainings from one seed",
        "self.embed = nn",
        "__import__('torch').seed(); self.embed = nn",
    ),
    "counts_otherwise": (
        "model",
        "batches",
        "its masks",
        '{"classify": Single()}',
        '{"classify": type("Odd", (Single,), {"collate": lambda self, rows, ctx: __import__("dataclasses").replace('
        "Single.collate(self, rows, ctx), tokens=1)})()}",
    ),
    "never_learns": (
        "model",
        "learns",
        "after 60 steps",
        "self.head(self.embed(input_ids))",
        "self.head(self.embed(input_ids)) * 1e-3",
    ),
    "reads_nothing": (
        "model",
        "reads",
        "does not read its input",
        "self.embed(input_ids)",
        "self.embed(input_ids * 0 + 9)",
    ),
    "reads_padding": ("model", "padding", "padding more the loss", ", padding_idx=request.special.pad", ""),
    "wrong_flops": ("model", "flops", "its formula says", "return 2 * shapes", "return 7 * shapes"),
    "ignores_weights": ("model", "unsupported", "as if nothing were wrong", "if request.weights:", "if False:"),
    "hangs": (
        "model",
        "outputs",
        "it took longer than",
        "            logits = ",
        "            while True: pass\n            logits = ",
    ),
    "crashes": (
        "model",
        "outputs",
        "ended the process by signal",
        "            logits = ",
        "            import os; os.kill(os.getpid(), 11)\n            logits = ",
    ),
    # tasks
    "decodes_another": (
        "task",
        "round-trip",
        "a perfect prediction decodes to",
        "return int(prediction)",
        "return 1 - int(prediction)",
    ),
    "loses_examples": ("task", "features", "features of", "for a, b, e in rows]", "for a, b, e in rows][1:]"),
    "unknown_metric": ("task", "spec", "no plugin brings the metric", 'metrics=("accuracy",)', 'metrics=("acuracy",)'),
    "label_out_of_range": (
        "task",
        "features",
        "write a class from 0 to 0",
        "num_labels=lambda info: 2",
        "num_labels=lambda info: 1",
    ),
    # data sets
    "overlapping_splits": (
        "dataset",
        "splits",
        "is in train and in test",
        "rows[1000:1100], rows[1100:]",
        "rows[1000:1100], rows[:100]",
    ),
    "another_identity": ("dataset", "identity", "in a fresh process", '@1"', '@" + str(hash("a"))'),
    "unseeded_data": ("dataset", "identity", "loads other examples", "random.Random(0)", "random.Random()"),
    "global_random": (
        "dataset",
        "repeats",
        "global `random`",
        "rng = random.Random(0)",
        "random.seed(0); rng = random",
    ),
    # metrics
    "wrong_value": ("metric", "values", "is known", "sum(hits) / len(hits)", "sum(hits) / max(2, len(hits))"),
    "out_of_bounds": (
        "metric",
        "bounds",
        "out of its bounds",
        "return sum(recalls) / len(recalls)",
        "return 5 / 6 if predictions == [0, 0, 1, 1] else sum(recalls)",
    ),
    "order_matters": (
        "metric",
        "repeats",
        "depends on the order",
        "return sum(recalls) / len(recalls)",
        "return 5 / 6 if predictions[0] == 0 else 0.5",
    ),
    # precisions
    "no_dtype": ("precision", "spec", "is no dtype of torch", "float64", "float65"),
    "needless_scaling": (
        "precision",
        "spec",
        "grad_scaling",
        'parameters="float64"',
        'parameters="float64", grad_scaling=True',
    ),
    # causes
    "leaves_its_change": ("cause", "restores", "is not what it was", "            del m.forward", "            pass"),
    "predicts_text": (
        "cause",
        "predicts",
        "it predicts a headroom of",
        'llmbench.without(record, facts["part_s"])',
        "'much'",
    ),
    "raises_instead": ("cause", "declines", "raises KeyError", "raise llmbench.DoesNotApply(", "raise KeyError("),
    # remedies
    "changes_the_model": ("remedy", "scope", "it changes size", "workers=2", "workers=2, size='small'"),
    "trains_on_more": ("remedy", "scope", "it trains on", "workers=2", "workers=2, batch_size=2 * cell.batch_size"),
    "never_done": ("remedy", "once", "applies again", "if cell.workers:", "if cell.workers > 8:"),
    "forecasts_nothing": (
        "remedy",
        "forecasts",
        "a positive ratio",
        "llmbench.Forecast(gain,",
        "llmbench.Forecast(-1.0,",
    ),
    # engines
    "one_row_too_few": (
        "engine",
        "drives",
        "predictions of",
        "return open_engine(request)",
        "engine = open_engine(request); predict = engine.predict\n"
        "    engine.predict = lambda arrays, *, max_new_tokens: predict(arrays, max_new_tokens=max_new_tokens)[1:]\n"
        "    return engine",
    ),
    "never_updates": (
        "engine",
        "trains",
        "after 60 steps",
        "return open_engine(request)",
        "engine = open_engine(request); engine.update = lambda: engine.optimizer.zero_grad()\n    return engine",
    ),
    "another_seed": (
        "engine",
        "repeats",
        "of two trainings from one seed",
        "return open_engine(request)",
        "engine = open_engine(request); build = engine.build\n"
        "    engine.build = lambda model, request, *, seed: build(model, request, seed=id(request) + seed)\n"
        "    return engine",
    ),
    "loads_nothing": (
        "engine",
        "saves",
        "loaded again its loss is",
        "return open_engine(request)",
        "engine = open_engine(request); engine.load = lambda path, *, strict: []\n    return engine",
    ),
    # reporters
    "lets_controls_through": ("reporter", "hostile", "control characters", "c if c.isprintable() else", "c if c else"),
    "breaks_tables": ("reporter", "hostile", "breaks a table", '.replace("|", "\\\\vert{}")', ""),
    "computes_names": (
        "reporter",
        "hostile",
        "becomes a formula",
        'render, ".org"',
        'lambda report: "\\n".join(plain(str(cell["model"])) for cell in report.cells), ".csv"',
    ),
    "shows_the_time": (
        "reporter",
        "repeats",
        "another document",
        'lines = [f"#',
        'import time\n    lines = [str(time.perf_counter_ns()), f"#',
    ),
}


def source(name: str) -> tuple[str, str, str, str]:
    """Return kind, check, words, and the source of a broken plugin."""
    kind, check, words, good, bad = BREAKAGES[name]
    text = plugin_source(name.replace("_", "-"), kind)
    assert text.count(good) >= 1, f"{name}: the working plugin has no {good!r}"
    return kind, check, words, text.replace(good, bad)


def write(name: str, folder: Path) -> tuple[str, str, str, Path]:
    """Write a broken plugin; return kind, check, words and its file."""
    kind, check, words, text = source(name)
    path = folder / f"{name}.py"
    path.write_text(text)
    return kind, check, words, path
