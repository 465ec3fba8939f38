"""What a usage costs: as given, configured, reported or listed, else by policy; what keywords ask for; its counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from otelbudget import semconv
from otelbudget.admission import notices
from otelbudget.admission.payer import Payer
from otelbudget.engine.owner import Owner
from otelbudget.model.amounts import COST, INPUT, NANOS, NOTHING, OUTPUT, TOOLS, Amounts, amounts_from, nanousd
from otelbudget.model.usage import Usage


@dataclass(slots=True, eq=False)
class Price:
    """What a usage costs.

    Attributes:
        nanousd: Its cost; 0 if nothing says.
        unpriced: Nothing says: no cost, no model or no price for it.
        denies: So the next request is refused.
        source: Whose price it is; empty if there is none.
    """

    nanousd: int
    unpriced: bool = False
    denies: bool = False
    source: str = ""

    def attributes(self, nanousd: int, *, semconv_cost: bool) -> dict[str, Any]:
        """What a call's span says of it where *nanousd* were charged; with *semconv_cost* in proposed names too."""
        usd = nanousd / NANOS
        said: dict[str, Any] = {semconv.COST_USD: usd}
        if self.source:
            said[semconv.COST_SOURCE] = self.source
        if semconv_cost and not self.unpriced:
            source = "provider" if self.source.startswith("provider") else "local"
            said |= {semconv.GEN_AI_COST: usd, semconv.GEN_AI_COST_CURRENCY: "USD", semconv.GEN_AI_COST_SOURCE: source}
        return said


def price(payer: Payer, usage: Usage, asked_model: str | None = None, owner: Owner | None = None) -> Price:
    """The cost of *usage*, of a request of *owner*: as given, else by the configured price of the model that was asked
    or answered, else as reported where that is trusted, else by its listed price, else by policy."""
    if usage.cost_usd is not None:
        return Price(usage.cost_nanousd or 0, source="caller")
    if usage.reported_cost_usd and (reported := _reported(payer, usage, asked_model)) is not None:
        return Price(reported, source="provider")
    asked, answered = asked_model or usage.model, usage.model or asked_model
    known = payer.engine.prices.known(asked, usage.provider, answered=answered, tier=usage.tier)
    if known is not None:
        return Price(known.cost(usage), source=known.source)
    if not (usage.input_tokens or usage.output_tokens):
        return Price(0)
    for model in dict.fromkeys((answered, asked)) if usage.estimated else ():
        told = payer.engine.learned.cost_nanousd(usage.provider, model, usage.tokens or 0)
        if told is not None:  # as dear as its responses said before
            return Price(told, source="provider, before")
    return _by_policy(payer, usage, asked_model, owner)


def _by_policy(payer: Payer, usage: Usage, asked_model: str | None, owner: Owner | None) -> Price:
    """What tokens cost that no price is known for: as the budget says, else the configuration, else it is refused where
    money is limited."""
    money = payer.binding(usage.model or asked_model, owner).money
    policy = payer.on_unpriced or payer.engine.config.on_unpriced or ("deny" if money else "allow")
    if policy == "allow":
        if money:
            notices.unpriced(payer, usage.model)
        return Price(0, True)
    # The dearest price there is: an unknown model is seldom dearer, and never free.
    estimate = payer.engine.prices.dearest_nanousd(usage) if policy == "estimate" else None
    return Price(estimate or 0, True, estimate is None)


def _reported(payer: Payer, usage: Usage, asked_model: str | None) -> int | None:
    """The cost that the response reports, in nano-USD, if it is to be believed and no price is configured."""
    engine = payer.engine
    if not engine.config.trust_reported_cost:
        return None
    if any(engine.prices.entry(model, usage.provider) for model in (usage.model, asked_model)):
        return None
    return nanousd("reported_cost_usd", usage.reported_cost_usd)


def wanted(
    payer: Payer, given: dict[str, Any], owner: Owner | None = None, *, timed: bool = False
) -> tuple[Amounts, str | None, str | None]:
    """What the keywords *given* ask of *payer*: (amounts, the model, that model if it is refused for its price).

    *timed* if time is asked for as well, so that nothing else is implied. A model without its cost is priced: tokens
    without a split as input.
    """
    model = given.pop("model", None)
    if model is not None and not (isinstance(model, str) and model):
        raise ValueError(f"model must be the name of a model, got {model!r}")
    if not given:
        return (NOTHING if timed else payer.binding(model, owner).one_call), model, None
    amounts = amounts_from(given)
    if model is None or "cost_usd" in given or not amounts.tokens:
        return amounts, model, None
    cost = price(payer, Usage(amounts.input_tokens, amounts.output_tokens, model=model), owner=owner)
    return amounts._replace(cost_nanousd=max(cost.nanousd, amounts[COST])), model, model if cost.denies else None


# --- the counters that a charge raises, in the same step as the accounts


def counts_of(payer: Payer, usage: Usage, amounts: Amounts, cost: Price) -> list[tuple[Any, str, int]]:
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


def expiry_counts(payer: Payer, model: str | None, charged: Amounts) -> list[tuple[Any, str, int]]:
    """The counters that an expiry raises which charges *charged* for *model*; they are born at zero by that."""
    spend = payer.engine.meters.spend(payer.owner.tenant, model)
    counts = [(payer.cell, "records", 1), (spend, "input", charged[INPUT]), (spend, "output", charged[OUTPUT])]
    return [*counts, (spend, "cost_nanousd", charged[COST])]
