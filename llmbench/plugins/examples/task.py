"""Whether two texts have the same words, with generated data for it: the task `same-words` of llmbench."""

import random

import llmbench

LLMBENCH_API = 2
WORDS = ["red", "green", "blue", "old", "new", "big", "small", "fast", "slow", "warm"]


def encode(examples, ctx):
    firsts = ctx.tokenizer.encode_batch([e["first"] for e in examples])
    seconds = ctx.tokenizer.encode_batch([e["second"] for e in examples])
    sep, rows = ctx.tokenizer.special.sep, zip(firsts, seconds, examples, strict=True)
    return [{"ids": [*a, sep, *b], "label": e["label"]} for a, b, e in rows]


def decode(prediction, example, feature, tokenizer):
    return int(prediction)


def predict_majority(ctx):
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
    baselines={"majority": predict_majority},
    num_labels=lambda info: 2,
    examples=({"first": "red old", "second": "old red", "label": 1},),
)


def draw_pair(rng):
    first, other = rng.sample(WORDS, 4), rng.sample(WORDS, 4)
    second = rng.sample(first, 4) if rng.random() < 0.5 else other
    label = int(set(first) == set(second))
    return {"first": " ".join(first), "second": " ".join(second), "label": label}


def identify(request):
    return "same-words@1"


def load(request):
    rng = random.Random(0)
    pairs = [draw_pair(rng) for _ in range(1200)]
    rows = list({(p["first"], p["second"]): p for p in pairs}.values())  # no pair twice
    return llmbench.Dataset(identify(request), rows[:1000], rows[1000:1100], rows[1100:])


@llmbench.hookimpl
def llmbench_tasks():
    return [TASK]


@llmbench.hookimpl
def llmbench_datasets():
    return [llmbench.DatasetSpec("same-words", identify, load, tasks=(TASK.name,))]
