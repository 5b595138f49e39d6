"""The largest batch that a cell can hold, and the price of its work: pure functions of records and summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.analysis import costs
from llmbench.report.cells.part import Part, explain

Record = Mapping[str, Any]

NOT_ASKED = "not searched; set largest_batch: true in the budget"
NO_PRICE = "no price was given; set price_per_hour in the budget"
#: Price of a million tokens -> the rate of those tokens.
PRICED_RATES = {
    "cost_per_million_tokens": "tokens_per_s",
    "cost_per_million_generated_tokens": "generated_tokens_per_s",
}


def summarise_largest_batch(first: Record | None, why: str | None) -> Part:
    """Return the largest batch that fits (up to 5 % too small) and the sizes that were tried; repeat 0 searched it."""
    memory = first["memory"] if first is not None and first["status"] == "ok" else {}
    names = ("largest_batch", "largest_batch_tried")
    out = {name: memory.get(name) for name in names}
    return explain(out, dict.fromkeys(names, why or memory.get("largest_batch_reason") or NOT_ASKED))


def summarise_price(cell: Mapping[str, Any], unknown: Mapping[str, str], budgets: Sequence[Mapping[str, Any]]) -> Part:
    """Return the price of a million tokens, and of the training of repeat 0, in the currency of the budget.

    `cell` holds its rates and `training`, `unknown` the reasons for those that are None. A price counts the tokens
    that its rate counts.
    """
    given = [budget["price_per_hour"] for budget in budgets if budget.get("price_per_hour") is not None]
    per_hour = given[-1] if given else None
    out: dict[str, Any] = {"price_per_hour": per_hour}
    for name, rate in PRICED_RATES.items():
        out[name] = costs.cost(1e6 / cell[rate] if cell[rate] else None, per_hour)
    training = cell["training"] or {}
    out["cost_of_training"] = costs.cost(training.get("seconds"), per_hour)
    sources = {**PRICED_RATES, "cost_of_training": "training"}
    reasons = {"price_per_hour": NO_PRICE}
    for name, source in sources.items():
        reasons[name] = NO_PRICE if per_hour is None else unknown.get(source, "not recorded")
    return explain(out, reasons)
