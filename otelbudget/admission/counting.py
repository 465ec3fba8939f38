"""The counters that a charge raises, in the same step as the accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otelbudget.model.amounts import COST, INPUT, OUTPUT, TOOLS, Amounts

if TYPE_CHECKING:
    from otelbudget.admission.cost import Price
    from otelbudget.admission.payer import Payer
    from otelbudget.model.usage import Usage

Count = tuple[Any, str, int]


def counts_of(payer: Payer, usage: Usage, amounts: Amounts, cost: Price) -> list[Count]:
    """The counters that charging *amounts* raises."""
    model = usage.model
    spend = payer.spend_cell if model is None else payer.engine.meters.spend(payer.owner.tenant, model)
    counts = [(payer.cell, "records", 1), (spend, "input", amounts[INPUT]), (spend, "output", amounts[OUTPUT])]
    if amounts[COST]:
        counts.append((spend, "cost_nanousd", amounts[COST]))
    if amounts[TOOLS]:
        counts.append((payer.tenant_cell, "tool_calls", amounts[TOOLS]))
    if usage.cache_read_tokens or usage.cache_write_tokens or usage.reasoning_tokens:
        details = payer.engine.meters.details(payer.owner.tenant, model)
        counts.append((details, "cache_read", usage.cache_read_tokens))
        counts.append((details, "cache_write", usage.cache_write_tokens))
        counts.append((details, "reasoning", usage.reasoning_tokens))
    if cost.unpriced:
        counts.append((payer.engine.meters.unpriced_calls(model), "n", 1))
    return counts


def expiry_counts(payer: Payer, model: str | None, charged: Amounts) -> list[Count]:
    """The counters that an expiry raises which charges *charged* for *model*; they are born at zero by that."""
    spend = payer.engine.meters.spend(payer.owner.tenant, model)
    counts = [(payer.cell, "records", 1), (spend, "input", charged[INPUT]), (spend, "output", charged[OUTPUT])]
    return [*counts, (spend, "cost_nanousd", charged[COST])]
