"""What was spent: price it, charge it once, count it, say it. Nothing here refuses or raises.

A charge and its counters change in one critical section, so the counters always add up to the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from otelbudget import ledger, semconv
from otelbudget.amounts import COST, INPUT, NANOS, NESTED, OUTPUT, TOOLS, Amounts, usd
from otelbudget.model import Usage
from otelbudget.runs import closing
from otelbudget.telemetry import events
from otelbudget.telemetry.events import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otelbudget.ledger import Crossing, Hold, HoldState
    from otelbudget.runs.run import BudgetRun

__all__ = ["Price", "announce", "expired", "give_back", "price", "record", "settle"]


class Price(NamedTuple):
    """What a usage costs.

    Attributes:
        nanousd: Its cost; 0 if nothing says.
        unpriced: Nothing says: no cost, no model or no price for it.
    """

    nanousd: int
    unpriced: bool = False


def price(run: BudgetRun, usage: Usage, asked_model: str | None = None) -> Price:
    """The cost of *usage*: as given, else by the price of the model that answered or was asked, else by policy."""
    if usage.cost_usd is not None:
        return Price(usage.cost_nanousd or 0)
    if not usage.tokens:
        return Price(0)
    prices = run.engine.prices
    for model in (usage.model, asked_model):
        known = None if model is None else prices.cost_nanousd(model, usage.provider, usage)
        if known is not None:
            return Price(known)
    if run.unpriced_policy() == "estimate":
        # The dearest model that has a price: an unknown one is seldom dearer, and never free.
        return Price(max((prices.cost_nanousd(m, None, usage) or 0 for m in prices.models), default=0), unpriced=True)
    return Price(0, unpriced=True)


def record(run: BudgetRun, usage: Usage, site: Site, nested: int = 0) -> None:
    """Charge *usage* to *run* and everything above it."""
    cost = price(run, usage)
    amounts = usage.amounts(cost.nanousd)
    if nested:
        amounts = amounts._replace(nested_tool_calls=nested)
    with run.engine.lock:
        crossed = ledger.charge(run.accounts, amounts)
        _count(run, usage, amounts, cost)
    announce(run, amounts, site, crossed, estimated=usage.estimated)


def settle(run: BudgetRun, held: Hold, usage: Usage | None, site: Site, *, asked_model: str | None = None) -> Amounts:
    """End *held* by charging what was used; gives what was charged.

    None charges the hold itself. A held resource that *usage* leaves open is charged at its hold. After an expiry only
    what exceeds its charge is added; after a release everything is, flagged as late.
    """
    usage = _complete(usage, held.amounts)
    cost = price(run, usage, asked_model)
    if cost.unpriced and held.amounts[COST]:
        cost = Price(held.amounts[COST])
    amounts = usage.amounts(cost.nanousd)._replace(nested_tool_calls=min(held.amounts[NESTED], usage.tool_calls))
    with run.engine.lock:
        was = held.state
        late = was == "released" or run.closed
        if was == "open":
            crossed = run.engine.store.settle(held, amounts, "committed")
            run.open_holds -= 1
        elif was != "committed":
            if was == "expired":
                pairs = zip(amounts, held.on_expiry, strict=True)
                amounts = Amounts(*(max(0, actual - charged) for actual, charged in pairs))
            held.state = "committed"
            crossed = ledger.charge(held.accounts, amounts)
        else:
            return amounts
        _count(run, usage, amounts, cost)
    announce(run, amounts, site, crossed, estimated=usage.estimated, late=late)
    closing.finish_if_idle(run)
    return amounts


def give_back(run: BudgetRun, held: Hold) -> bool:
    """Return all that *held* holds; False if it had ended before."""
    return _end(run, held, (0,) * len(held.amounts), "released")


def _end(run: BudgetRun, held: Hold, amounts: tuple[int, ...], state: HoldState) -> bool:
    with run.engine.lock:
        if held.state != "open":
            return False
        run.engine.store.settle(held, amounts, state)
        run.open_holds -= 1
    closing.finish_if_idle(run)
    return True


def expired(run: BudgetRun, charged: Amounts, crossed: Sequence[Crossing]) -> None:
    """Count what an expired hold charged; called with the lock held. Thresholds are announced with the next charge."""
    run.open_holds -= 1
    if any(charged):
        usage = Usage(charged[INPUT], charged[OUTPUT], steps=charged[0], estimated=True)
        _count(run, usage, charged, Price(charged[COST]))
    if crossed:
        run.unannounced = (*run.unannounced, *crossed)
        run.refresh()


def _complete(usage: Usage | None, held: Amounts) -> Usage:
    """*usage* with what it leaves open taken from the hold."""
    if usage is None:
        return Usage(held[INPUT], held[OUTPUT], cost_usd=usd(held[COST]), steps=held[0], tool_calls=held[TOOLS])
    if usage.input_tokens is not None and usage.output_tokens is not None:
        return usage
    known_input = held[INPUT] if usage.input_tokens is None else usage.input_tokens
    known_output = held[OUTPUT] if usage.output_tokens is None else usage.output_tokens
    return Usage(
        known_input,
        known_output,
        cost_usd=usage.cost_usd,
        steps=usage.steps,
        tool_calls=usage.tool_calls,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        model=usage.model,
        provider=usage.provider,
        response_id=usage.response_id,
        estimated=usage.estimated or usage.tokens is None,
    )


def _count(run: BudgetRun, usage: Usage, amounts: Sequence[int], cost: Price) -> None:
    run.cell.records += 1
    meters = run.engine.meters
    spend = run.spend_cell if usage.model is None else meters.spend(run.tenant, usage.model)
    spend.input += amounts[INPUT]
    spend.output += amounts[OUTPUT]
    spend.cost_nanousd += amounts[COST]
    spend.cache_read += usage.cache_read_tokens
    spend.cache_write += usage.cache_write_tokens
    spend.reasoning += usage.reasoning_tokens
    run.tenant_cell.tool_calls += amounts[TOOLS]
    if cost.unpriced:
        meters.count_unpriced(usage.model)
        if run.unpriced_policy() == "deny":
            run.unpriced = usage.model or ""
            run.refresh()


def announce(
    run: BudgetRun,
    amounts: Sequence[int],
    site: Site,
    crossed: Sequence[Crossing],
    *,
    estimated: bool = False,
    late: bool = False,
) -> None:
    """Say what was charged: the record event where the call lives, thresholds on the run's span."""
    span = site.span
    if span is not None:
        charged = (amounts[INPUT], amounts[OUTPUT], amounts[COST])
        run.say(site, events.record_event, charged, estimated=estimated, late=late)
    if span is not None and site is not run.site and span.is_recording():
        # As an attribute of the call's own span, since trace queries sum over attributes and not over events.
        span.set_attribute(semconv.COST_USD, amounts[COST] / NANOS)
    if run.unannounced:
        with run.lock:
            crossed, run.unannounced = (*run.unannounced, *crossed), ()
            run.refresh()
    for crossing in crossed:
        payer = run.ancestor_of(crossing.account) or run
        events.threshold_event(payer.site, crossing)
    if run.kind == "implicit":
        closing.write_totals(run)
