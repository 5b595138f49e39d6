"""Texts in which one of two letters stands more often: the dataset `letters` of llmbench."""

import random

import llmbench

LLMBENCH_API = 2


def load(request):
    rng = random.Random(0)
    texts: dict[str, int] = {}
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
