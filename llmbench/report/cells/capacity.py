"""The largest batch that a cell can hold, and the price of its work: pure functions of records and summaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from llmbench.analysis import costs
from llmbench.report.cells.part import Part, explain

if TYPE_CHECKING:
    from llmbench.contract.record import BudgetFields, CellSummary, Memory, Record

NOT_ASKED = "not searched; set largest_batch: true in the budget"
NO_PRICE = "no price was given; set price_per_hour in the budget"
#: Cost -> the field of the cell that it is the price of.
PRICED = {
    "cost_per_million_tokens": "tokens_per_s",
    "cost_per_million_generated_tokens": "generated_tokens_per_s",
    "cost_of_training": "training",
}


def summarise_largest_batch(first: Record | None, why: str | None) -> Part:
    """Return the largest batch that fits (up to 5 % too small) and the sizes that were tried; repeat 0 searched it."""
    memory: Memory = first["memory"] if first is not None and first["status"] == "ok" else {}
    names = ("largest_batch", "largest_batch_tried")
    fields = {name: memory.get(name) for name in names}
    return explain(fields, dict.fromkeys(names, why or memory.get("largest_batch_reason") or NOT_ASKED))


def summarise_price(priced: Part, budgets: Sequence[BudgetFields]) -> Part:
    """Return the price of a million tokens, and of the training of repeat 0, in the currency of the budget.

    `priced` holds the rates and `training` of the cell. A price counts the tokens that its rate counts.
    """
    given = [price for budget in budgets if (price := budget.get("price_per_hour")) is not None]
    per_hour = given[-1] if given else None
    cell = cast("CellSummary", priced.fields)
    rate, generated_rate = cell["tokens_per_s"], cell["generated_tokens_per_s"]
    training = cell["training"] or {}
    fields = {
        "price_per_hour": per_hour,
        "cost_per_million_tokens": costs.cost(1e6 / rate if rate else None, per_hour),
        "cost_per_million_generated_tokens": costs.cost(1e6 / generated_rate if generated_rate else None, per_hour),
        "cost_of_training": costs.cost(training.get("seconds"), per_hour),
    }
    if per_hour is None:
        return explain(fields, dict.fromkeys(fields, NO_PRICE))
    return explain(fields, {name: priced.reasons.get(source, "not recorded") for name, source in PRICED.items()})
