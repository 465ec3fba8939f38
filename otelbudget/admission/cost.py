"""What a usage costs a run: as given, configured, reported or listed, else by policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from otelbudget.model.amounts import nanousd

if TYPE_CHECKING:
    from otelbudget.model.budget import Usage
    from otelbudget.runs.run import BudgetRun

__all__ = ["Price", "price"]


class Price(NamedTuple):
    """What a usage costs.

    Attributes:
        nanousd: Its cost; 0 if nothing says.
        unpriced: Nothing says: no cost, no model or no price for it.
    """

    nanousd: int
    unpriced: bool = False


def price(run: BudgetRun, usage: Usage, asked_model: str | None = None) -> Price:
    """The cost of *usage*: as given, else by the configured price of the model that answered or was asked, else as
    reported where that is trusted, else by its listed price, else by policy."""
    if usage.cost_usd is not None:
        return Price(usage.cost_nanousd or 0)
    if (reported := _reported(run, usage, asked_model)) is not None:
        return Price(reported)
    if not (usage.input_tokens or usage.output_tokens):
        return Price(0)
    prices = run.engine.prices
    for model in (usage.model, asked_model):
        known = prices.cost_nanousd(model, usage.provider, usage)
        if known is not None:
            return Price(known)
    for model in (usage.model, asked_model) if usage.estimated else ():
        told = run.engine.learned.cost_nanousd(usage.provider, model, usage.tokens or 0)
        if told is not None:  # as dear as its responses said before
            return Price(told)
    policy = run.unpriced_policy(usage.model or asked_model)
    if policy == "allow" and run.money_limited:
        run.engine.warn_once(
            f"unpriced {usage.model}",
            "no price is known for model %r, so a cost limit does not see what it spends; add it under `prices:`",
            usage.model,
        )
    # The dearest price there is: an unknown model is seldom dearer, and never free.
    estimate = prices.dearest_nanousd(usage) if policy == "estimate" else None
    return Price(estimate or 0, unpriced=True)


def _reported(run: BudgetRun, usage: Usage, asked_model: str | None) -> int | None:
    """The cost that the response reports, in nano-USD, if it is to be believed and no price is configured."""
    engine = run.engine
    if not (usage.reported_cost_usd and engine.config.trust_reported_cost):
        return None
    if engine.prices.gives(usage.model) or engine.prices.gives(asked_model):
        return None
    return nanousd("reported_cost_usd", usage.reported_cost_usd)
