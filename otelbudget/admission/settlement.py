"""What was spent: charge it once, count it, say it. Nothing here refuses or raises.

A charge and its counters change in one critical section, so the counters always add up to the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.context import get_current

from otelbudget import semconv
from otelbudget.admission import closing
from otelbudget.admission.admission import payers
from otelbudget.admission.cost import Price, price
from otelbudget.engine import scope
from otelbudget.ledger.changes import Change, at_once
from otelbudget.model.amounts import COST, INPUT, NANOS, NESTED, OUTPUT, STEPS, TOOLS, Amounts
from otelbudget.model.budget import Usage, sum_of
from otelbudget.telemetry import events
from otelbudget.telemetry.events import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otelbudget.ledger.ledger import Crossing, Hold, HoldState
    from otelbudget.runs.idempotency import Keyed
    from otelbudget.runs.run import BudgetRun

__all__ = [
    "abandoned",
    "announce",
    "expired",
    "expires",
    "give_back",
    "record",
    "say_crossed",
    "settle",
]


def record(run: BudgetRun, usage: Usage, site: Site, nested: int = 0, once: Keyed | None = None) -> bool:
    """Charge *usage* to *run* and everything above it; False if that was done before under the key of *once*."""
    cost = price(run, usage)
    amounts = usage.amounts(cost.nanousd)
    if nested:
        amounts = amounts._replace(nested_tool_calls=nested)
    with run.engine.lock:
        crossed = at_once(lambda change: _records(change, run, usage, amounts, once))
        if crossed is None:
            return False
        permit = scope.wrap_up_in(get_current())
        if permit is not None and usage.steps and permit.holds(run):
            permit.used = True  # that was the model call it stands for
        _count(run, usage, amounts, cost)
        late = run.closed
    announce(run, amounts, site, crossed, _flags(usage, late=late))
    return True


def _records(
    change: Change, run: BudgetRun, usage: Usage, amounts: Amounts, once: Keyed | None
) -> list[Crossing] | None:
    """Charge *usage* with *change*; None if that was done before."""
    if once is not None and once.recorded(change):
        return None
    return run.engine.store.charges(change, payers(run, usage.model), amounts)


def settle(
    run: BudgetRun,
    held: Hold,
    usage: Usage | None,
    site: Site,
    *,
    asked_model: str | None = None,
    by_price: bool = False,
) -> bool:
    """End *held* by charging what was used; False if it had been charged before, and then nothing changes.

    None charges the hold itself. A held resource that *usage* leaves open is charged at its hold; with *by_price* its
    cost is what its tokens cost, whatever was held. After an expiry only what exceeds its charge is added; after a
    release everything is, flagged as late.
    """
    given = usage
    cost, usage, amounts = _charge_of(run, held.amounts, given, asked_model, by_price=by_price)
    asked = _Settlement(run, held, given, usage, amounts)
    with run.engine.lock:
        late = held.state == "released" or run.closed
        was_open = held.state == "open"
        done = at_once(asked.plan)
        if done is None:
            return False
        amounts, crossed = done
        if was_open:
            run.engine.store.ended(held)
        _count(run, usage, amounts, cost)
    announce(run, amounts, site, crossed, _flags(usage, late=late, wrap_up=held.wrapping is not None))
    closing.finish_if_idle(run)
    return True


class _Settlement(NamedTuple):
    """What `settle` is asked for.

    Attributes:
        given: The usage as the caller gave it.
        usage: The usage in full.
        amounts: What it comes to.
    """

    run: BudgetRun
    held: Hold
    given: Usage | None
    usage: Usage
    amounts: Amounts

    def plan(self, change: Change) -> tuple[Amounts, list[Crossing]] | None:
        """Charge it with *change*: what that is, and the thresholds crossed; None if the hold was charged before."""
        run, held, amounts = self.run, self.held, self.amounts
        was, store = held.state, run.engine.store
        if was == "committed":
            return None
        whole = amounts
        if was == "open":
            crossed = store.settles(change, held, amounts, "committed")
            _lets_go(change, run)
        else:
            if was == "expired":
                amounts = _beyond(amounts, held.on_expiry)
            change.set(held, "state", "committed")
            crossed = store.charges_late(change, held, amounts)
        late_known = run.engine.owners.of_model(run.org, self.usage.model)
        if late_known and not any(account.scope == "model" for account in held.accounts):
            # Which model it was is known only now: its quota counts it all the same.
            crossed += store.charges(change, late_known, whole)
        change.set(held, "paid", self.given)
        return amounts, crossed


def _charge_of(
    run: BudgetRun, held: Amounts, given: Usage | None, asked_model: str | None, *, by_price: bool
) -> tuple[Price, Usage, Amounts]:
    """What a commit of *given* costs, means in full, and charges."""
    if given is None:
        return Price(held[COST]), _complete(None, held), held
    usage = _complete(given, held)
    cost = price(run, usage, asked_model)
    nothing = not (usage.input_tokens or usage.output_tokens)
    if held[COST] and given.cost_usd is None and not by_price and (cost.unpriced or nothing):
        cost = Price(held[COST])
    return cost, usage, usage.amounts(cost.nanousd)._replace(nested_tool_calls=min(held[NESTED], usage.tool_calls))


def _beyond(actual: Amounts, charged: Amounts) -> Amounts:
    """What *actual* exceeds *charged* by; tokens stay the sum of their parts, as the counters have them."""
    rest = Amounts(*(max(0, a - b) for a, b in zip(actual, charged, strict=True)))
    return rest._replace(tokens=rest.input_tokens + rest.output_tokens)


def _lets_go(change: Change, run: BudgetRun) -> None:
    """One call less in flight with *change*."""
    one: BudgetRun | None = run
    while one is not None:
        change.set(one, "open_holds", one.open_holds - 1)
        one = one.parent


def give_back(run: BudgetRun, held: Hold) -> bool:
    """Return all that *held* holds; False if it had ended before."""
    return _end(run, held, (0,) * len(held.amounts), "released")


def _end(run: BudgetRun, held: Hold, amounts: tuple[int, ...], state: HoldState) -> bool:
    def plan(change: Change) -> bool:
        if held.state != "open":
            return False
        run.engine.store.settles(change, held, amounts, state)
        _abandons(change, held)
        return True

    with run.engine.lock:
        if not at_once(plan):
            return False
        run.engine.store.ended(held)
    closing.finish_if_idle(run)
    return True


def _abandons(change: Change, held: Hold) -> None:
    """With *change*, let its run go on without a hold that ends uncharged."""
    if held.permit is not None:
        change.set(held.permit, "used", False)  # nothing was sent: the last call has not been made
    expires(change, held)


def abandoned(held: Hold) -> None:
    """Let its run go on without a hold that has ended uncharged. Called with the lock held."""
    at_once(lambda change: _abandons(change, held))


def expires(change: Change, held: Hold) -> None:
    """With *change*, let the run of a hold that ends without a commit, if it is one of a run, go on without it."""
    run: BudgetRun | None = held.payer
    if run is not None:
        _lets_go(change, run)


def expired(run: BudgetRun, held: Hold, crossed: Sequence[Crossing]) -> None:
    """Count what an expired hold charged; called with the lock held. Thresholds are announced with the next charge."""
    charged = held.on_expiry
    if any(charged):
        usage = Usage(charged[INPUT], charged[OUTPUT], steps=charged[0], estimated=True)
        _count(run, usage, charged, Price(charged[COST]))
    if crossed:
        run.unannounced = (*run.unannounced, *crossed)
        run.refresh()


def _complete(usage: Usage | None, held: Amounts) -> Usage:
    """*usage* with what it leaves open taken from the hold."""
    if usage is None:
        return sum_of(held)
    steps = usage.steps if usage.says_steps else held[STEPS]
    tool_calls = usage.tool_calls if usage.says_tool_calls else held[TOOLS]
    split = usage.input_tokens is not None and usage.output_tokens is not None
    if split and (steps, tool_calls) == (usage.steps, usage.tool_calls):
        return usage
    known_input = held[INPUT] if usage.input_tokens is None else usage.input_tokens
    known_output = held[OUTPUT] if usage.output_tokens is None else usage.output_tokens
    return Usage(
        known_input,
        known_output,
        cost_usd=usage.cost_usd,
        steps=steps,
        tool_calls=tool_calls,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        model=usage.model,
        provider=usage.provider,
        response_id=usage.response_id,
        estimated=usage.estimated
        or bool(usage.input_tokens is None and held[INPUT])
        or bool(usage.output_tokens is None and held[OUTPUT]),
        reported_cost_usd=usage.reported_cost_usd,
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
        if run.kind != "quota" and run.unpriced_policy(usage.model) == "deny":
            for one in run.lineage():  # also those whose money it was: their next call is as blind
                if one is run or one.money_limited:
                    one.unpriced = usage.model or ""
                    one.refresh()


def _flags(usage: Usage, *, late: bool, wrap_up: bool = False) -> list[str]:
    said = ((usage.estimated, semconv.ESTIMATED), (late, semconv.LATE), (wrap_up, semconv.WRAP_UP))
    return [name for holds, name in said if holds]


def announce(
    run: BudgetRun,
    amounts: Sequence[int],
    site: Site,
    crossed: Sequence[Crossing],
    flags: Sequence[str] = (),
) -> None:
    """Say what was charged: the record event where the call lives, thresholds on the run's span."""
    span = site.span
    if span is not None:
        charged = (amounts[INPUT], amounts[OUTPUT], amounts[COST])
        run.say(site, events.record_event, charged, flags)
    if span is not None and site is not run.site and run.kind != "quota" and span.is_recording():
        # As an attribute of the call's own span, since trace queries sum over attributes and not over events.
        span.set_attribute(semconv.COST_USD, amounts[COST] / NANOS)
    if run.unannounced:
        with run.lock:
            crossed, run.unannounced = (*run.unannounced, *crossed), ()
            run.refresh()
    if crossed:
        say_crossed(run, site, crossed)
    if run.kind == "implicit":
        closing.write_totals(run)


def say_crossed(run: BudgetRun, site: Site, crossed: Sequence[Crossing]) -> None:
    """Say which thresholds were reached: on the span of the run whose limit it is, for a quota on that of *run*, and
    on *site*, the call's, where that run has no span."""
    for crossing in crossed:
        payer = run.ancestor_of(crossing.account) or run
        payer.say(site if payer.span is None else payer.site, events.threshold_event, crossing)
