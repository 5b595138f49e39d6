"""The largest batch that a cell can hold, and the price of its work: pure functions of records and summaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from llmbench.analysis import costs
from llmbench.report.cells.part import Part, explain

if TYPE_CHECKING:
    from llmbench.contract.record import BudgetFields, Memory, Record, Training

NOT_ASKED = "not searched; set largest_batch: true in the budget"
NOT_RECORDED = "not recorded"
NO_PRICE = "no price was given; set price_per_hour in the budget"


def summarise_largest_batch(first: Record | None, why: str | None) -> Part:
    """Return the largest batch that fits (up to 5 % too small) and the sizes that were tried; repeat 0 searched it."""
    memory: Memory = first["memory"] if first is not None and first["status"] == "ok" else {}
    names = ("largest_batch", "largest_batch_tried")
    fields = {name: memory.get(name) for name in names}
    return explain(fields, dict.fromkeys(names, why or memory.get("largest_batch_reason") or NOT_ASKED))


def summarise_price(timing: Part, generation: Part, training: Part, budgets: Sequence[BudgetFields]) -> Part:
    """Return the price of a million tokens, and of the training of repeat 0, in the currency of the budget.

    `timing`, `generation` and `training` are parts of the cell's summary: they hold the rates and the seconds. A price
    counts the tokens that its rate counts.
    """
    given = [price for budget in budgets if (price := budget.get("price_per_hour")) is not None]
    per_hour = given[-1] if given else None
    rate = cast("float | None", timing.fields["tokens_per_s"])
    generated_rate = cast("float | None", generation.fields["generated_tokens_per_s"])
    trained = cast("Training | None", training.fields["training"]) or {}
    fields = {
        "price_per_hour": per_hour,
        "cost_per_million_tokens": costs.cost(1e6 / rate if rate else None, per_hour),
        "cost_per_million_generated_tokens": costs.cost(1e6 / generated_rate if generated_rate else None, per_hour),
        "cost_of_training": costs.cost(trained.get("seconds"), per_hour),
    }
    if per_hour is None:
        return explain(fields, dict.fromkeys(fields, NO_PRICE))
    reasons = {
        "cost_per_million_tokens": timing.reasons.get("tokens_per_s", NOT_RECORDED),
        "cost_per_million_generated_tokens": generation.reasons.get("generated_tokens_per_s", NOT_RECORDED),
        "cost_of_training": training.reasons.get("training", NOT_RECORDED),
    }
    return explain(fields, reasons)
