"""Two loader processes that prepare batches ahead: the remedy `two-workers` of llmbench."""

import dataclasses

import llmbench

LLMBENCH_API = 2


def change(cell):
    if cell.workers:
        raise llmbench.DoesNotApply(f"it has {cell.workers} loader processes already")
    return dataclasses.replace(cell, workers=2)


def predict(record, ceilings):
    gain = llmbench.without(record, record["phases"].get("input_s", ()))
    return llmbench.Forecast(gain, "the wait for batches overlaps with the step")


@llmbench.hookimpl
def llmbench_remedies():
    return [llmbench.RemedySpec("two-workers", ("input",), change, predict, same_updates=True)]
