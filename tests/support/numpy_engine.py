"""An engine of no framework: logistic regression on token counts, in numpy; a plugin file as a user would write it.

Shapes: `B` batch, `V` vocabulary, `C` classes.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import time

import numpy as np

import llmbench
from llmbench.layouts import Single


class NumpyEngine:
    graphs = None

    def __init__(self, request):
        if request.device != "cpu":
            raise llmbench.Unsupported("numpy has the CPU only")

    def build(self, model, request, *, seed):
        self.weights = model.build(request)

    def prepare_training(self, *, learning_rate, steps, optimizer):
        self.rate = learning_rate

    def batches(self, features, order, layout, ctx, workers):
        for indices in order:
            begin = time.perf_counter()
            batch = layout.collate([features[i] for i in indices], ctx)
            yield dataclasses.replace(batch, collate_s=time.perf_counter() - begin)

    def copy(self, batch):
        return batch.arrays

    def parts(self, arrays):
        return ((arrays, 1.0),)

    def probabilities(self, arrays):
        ids = arrays["input_ids"]
        self.counts = np.zeros((len(ids), len(self.weights)))
        np.add.at(self.counts, (np.arange(len(ids))[:, None], ids), arrays["attention_mask"])
        scores = self.counts @ self.weights
        odds = np.exp(scores - scores.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def forward(self, arrays):
        found, labels = self.probabilities(arrays), arrays["labels"]
        self.error = found - np.eye(found.shape[1])[labels]
        return -np.log(found[np.arange(len(labels)), labels] + 1e-12).mean()

    def backward(self, loss):
        self.gradient = self.counts.T @ self.error / len(self.error)

    def update(self):
        self.weights -= self.rate * self.gradient

    def predict(self, arrays, *, max_new_tokens):
        return self.probabilities(arrays).argmax(1).tolist()

    def loss_value(self, loss):
        return float(loss)

    def synchronize(self):
        pass

    def mark(self):
        return time.perf_counter()

    def seconds_between(self, marks):
        return [b - a for a, b in zip(marks, marks[1:])]

    def peak_memory_mib(self):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    def capacity_mib(self):
        return 4096.0

    def limit_memory(self, memory_mib):
        pass

    def free_memory(self):
        pass

    def parameters(self):
        return self.weights.size

    def compile_watch(self):
        return None

    def trial(self, plain):
        self.rate = 0.0
        return plain

    def memory_parts(self, batch, *, train):
        return {"weights_mib": self.weights.nbytes / 2**20}

    def trace(self, batch, *, train, max_new_tokens):
        totals = dict.fromkeys(("flops", "recomputed_flops", "bytes", "kernels"))
        shapes = {name: list(array.shape) for name, array in batch.arrays.items()}
        return {"rows": [], "times": None, "phases_s": {}, "totals": totals, "shapes": shapes, "notes": ["not counted"]}

    def save(self, path):
        from safetensors.numpy import save_file

        save_file({"weights": self.weights}, str(path))

    def load(self, path, *, strict):
        from safetensors.numpy import load_file

        self.weights = load_file(str(path))["weights"]
        return ["weights"]


def flops(request, shapes):
    return 2.0 * shapes["input_ids"][0] * request.vocab_size * request.num_labels


@llmbench.hookimpl
def llmbench_engines():
    return [llmbench.EngineSpec("numpy", NumpyEngine, "token counts")]


@llmbench.hookimpl
def llmbench_models():
    return [
        llmbench.ModelSpec(
            name="counts",
            sizes={"tiny": {}},
            layouts={"classify": Single()},
            build=lambda request: np.zeros((request.vocab_size, request.num_labels)),
            engine="numpy",
            learning_rate={"finetune": 0.5},
            flops=flops,
            parameters=lambda request: math.prod((request.vocab_size, request.num_labels)),
        )
    ]
