"""The plain training loop of a planted case under TraceML: `traceml run traceml_loop.py --args CASE SECONDS`.

Runs in TraceML's environment. The loop is the one of TraceML's README for plain PyTorch; batches come from a torch
DataLoader in every case, since that is where TraceML looks for waiting.
"""

from __future__ import annotations

import itertools
import sys
import time

import traceml_ai as traceml
from torch.utils.data import DataLoader, IterableDataset

from llmbench.planted import targets

LEAST_STEPS = 40  # TraceML is confident from 20 steps on


class Batches(IterableDataset):
    """The case's batches, over and over."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return itertools.chain.from_iterable(itertools.repeat(self.data))


def main() -> None:
    """Take steps until time is up."""
    name, seconds = sys.argv[1], float(sys.argv[2])
    given = getattr(targets, name)()
    model, optimizer, own = given["model"], given.get("optimizer"), given.get("step")
    data = (
        given["data"] if isinstance(given["data"], DataLoader) else DataLoader(Batches(given["data"]), batch_size=None)
    )

    def ordinary(batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        out = model(**batch) if isinstance(batch, dict) else model(*batch)
        loss = out["loss"] if isinstance(out, dict) else out[1] if isinstance(out, tuple) else out
        loss.backward()
        optimizer.step()

    step = own or ordinary
    traceml.init(mode="auto")
    end = time.perf_counter() + seconds
    for number, batch in enumerate(data, start=1):
        with traceml.trace_step(model):
            step(batch)
        if time.perf_counter() > end and number >= LEAST_STEPS:
            break


if __name__ == "__main__":
    main()
