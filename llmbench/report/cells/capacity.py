"""What a cell could hold at most, and what it costs: pure functions of records and of what was derived from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.analysis import costs

Record = Mapping[str, Any]

NOT_ASKED = "not searched; set largest_batch: true in the budget"
NO_PRICE = "no price was given; set price_per_hour in the budget"
#: Tokens of each rate that a price is given for, in millions.
PRICED = {
    "cost_per_million_tokens": "tokens_per_s",
    "cost_per_million_generated_tokens": "generated_tokens_per_s",
}


def largest_batch(first: Record | None, reasons: dict[str, str], why: str | None) -> dict[str, Any]:
    """Return the largest batch that fits (within 5 % below it) and what was tried; repeat 0 searched it."""
    memory = first["memory"] if first is not None and first["status"] == "ok" else {}
    names = ("largest_batch", "largest_batch_tried")
    out = {name: memory.get(name) for name in names}
    unknown = why or memory.get("largest_batch_reason") or NOT_ASKED
    reasons |= {name: unknown for name in names if out[name] is None}
    return out


def price(cell: Mapping[str, Any], budgets: Sequence[Mapping[str, Any]], reasons: dict[str, str]) -> dict[str, Any]:
    """Return what a million tokens, and the training of repeat 0, cost; in the currency of the price.

    `cell` holds what is known of it already: its rates and `training`. Tokens are those that its rate counts.
    """
    given = [budget["price_per_hour"] for budget in budgets if budget.get("price_per_hour") is not None]
    per_hour = given[-1] if given else None
    out: dict[str, Any] = {"price_per_hour": per_hour}
    for name, rate in PRICED.items():
        out[name] = costs.cost(1e6 / cell[rate] if cell[rate] else None, per_hour)
    training = cell["training"] or {}
    out["cost_of_training"] = costs.cost(training.get("seconds"), per_hour)
    source = {**PRICED, "cost_of_training": "training"}
    for name, value in out.items():
        if value is None:
            reasons[name] = NO_PRICE if per_hour is None else reasons.get(source[name], "not recorded")
    return out
