"""What was spent: charge it once, count it, say it. Nothing here refuses or raises.

A charge and its counters change in one step, so the counters always add up to the ledger. What comes in the middle of
another operation of its own thread (out of a finalizer or a signal handler) is done right after that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from otelbudget import semconv
from otelbudget.admission import closing, notices, trips
from otelbudget.admission.cost import Price, counts_of, price
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import Once
from otelbudget.admission.state import RunState
from otelbudget.ledger.account import Account, Crossing, Hold
from otelbudget.ledger.change import Changes
from otelbudget.model.amounts import COST, INPUT, NESTED, NOTHING, OUTPUT, STEPS, TOOLS, Amounts, Unsaid
from otelbudget.model.usage import Usage, sum_of
from otelbudget.model.vector import pack
from otelbudget.telemetry import events
from otelbudget.telemetry.events import Site


def record(
    payer: Payer,
    usage: Usage,
    site: Site,
    *,
    asked_model: str | None = None,
    nested: int = 0,
    permit: Any = None,
    once: Any = None,
    owner: Any = None,
) -> bool:
    """Charge *usage* to *payer* and everything above it; False if that was done before, under the key of *once*."""
    ledger = payer.engine.ledger
    if ledger.lock._is_owned():
        once = once or Once("record", "", usage)
        more = {"asked_model": asked_model, "nested": nested, "permit": permit, "owner": owner}
        return ledger.later(partial(record, payer, usage, site, once=once, **more))
    cost = price(payer, usage, asked_model, owner)
    amounts = usage.amounts(cost.nanousd)
    if nested:
        amounts = amounts._replace(nested_tool_calls=nested)
    writes: Changes = []
    wraps_up = permit is not None and amounts.steps > 0 and not permit.used and permit.holds(payer)
    if wraps_up:
        writes.append((permit, "used", True))
    bound = payer.binding(usage.model, owner)
    owed: tuple[Any, ...] = ()
    keyed, settled = False, None
    if bound.shared:
        owed = trips.owe_record(payer, bound.shared, amounts, partial(say_crossed, payer, site), once)
        keyed = once is not None and once.there is not None and not once.done
        settled = payer.engine.store.settle_first(owed[0]) if keyed else None
        if settled is not None and settled.replayed:
            return False
        if settled is None:
            writes += trips.owing(payer, owed)
    crossed = ledger.charge(bound.here, pack(amounts), counts_of(payer, usage, amounts, cost), writes, once=once)
    if crossed is None:
        return False
    if keyed:
        owed = trips.sent_first(payer, owed, settled)
    charge = _Charge(cost, usage, amounts)
    _announce(payer, charge, site, crossed, owed, owner=owner, late=payer.closed, wrap_up=wraps_up)
    return True


@dataclass(slots=True, eq=False)
class _Charge:
    """What a commit comes to: what it costs, the usage in full, and what is charged."""

    cost: Price
    usage: Usage
    amounts: Amounts


def settle(
    payer: Payer,
    held: Hold,
    usage: Usage | None,
    site: Site,
    *,
    asked_model: str | None = None,
    by_price: bool = False,
    owner: Any = None,
) -> bool:
    """End *held* by charging what was used; False if it had been charged before, and then nothing changes.

    None charges the hold itself. A held resource that *usage* leaves open is charged at its hold; with *by_price* its
    cost is what its tokens cost, whatever was held. After an expiry only what exceeds its charge is added; after a
    release everything is, flagged as late.
    """
    ledger = payer.engine.ledger
    if ledger.lock._is_owned():
        again = partial(settle, payer, held, usage, site, asked_model=asked_model, by_price=by_price, owner=owner)
        return held.state != "committed" and ledger.later(again)
    whole = _charge_of(payer, held.amounts, usage, asked_model, owner, by_price=by_price)
    joining = late_known(payer, held, whole.usage.model, owner) if payer.engine.directory.by_model else ()
    here = () if payer.engine.store is not None else joining
    crossed: list[Crossing] | None = None
    while crossed is None:  # again if it has expired meanwhile
        was = held.state
        if was in ("new", "committed"):
            return False
        charge = _beyond(whole, held) if was == "expired" else whole
        owed: tuple[Any, ...] = ()
        if payer.engine.store is not None:
            told = partial(say_crossed, payer, site)
            owed = trips.owe(payer, held, whole.amounts, told, late=was == "released", seen=by_price)
            owed += trips.owe_record(payer, joining, whole.amounts, told)
        writes: Changes = [(held, "paid", usage), *(trips.owing(payer, owed) if owed else ())]
        counts = counts_of(payer, charge.usage, charge.amounts, charge.cost)
        due, full = pack(charge.amounts), pack(whole.amounts) if here else 0
        crossed = ledger.settle(held, due, "committed", counts, writes, was=was, joining=here, whole=full)
    late = was == "released" or payer.closed
    wraps_up = held.permit is not None
    _announce(payer, charge, site, crossed, owed, asked_model, owner=owner, late=late, wrap_up=wraps_up)
    if payer.unusual:
        closing.finish_if_idle(payer)
    return True


def late_known(payer: Payer, held: Hold, model: str | None, owner: Any) -> tuple[Account, ...]:
    """The quotas of *model* that *held* is not held on, since which one it was is known only now."""
    on = held.accounts if held.trip is None else held.trip.accounts
    if model is None or any(account.scope == "model" for account in on):
        return ()
    return tuple(one for one in payer.binding(model, owner).accounts if one.scope == "model")


def _charge_of(
    payer: Payer, held: Amounts, given: Usage | None, asked_model: str | None, owner: Any, *, by_price: bool
) -> _Charge:
    if given is None:
        return _Charge(Price(held[COST]), _complete(None, held), held)
    usage = _complete(given, held)
    cost = price(payer, usage, asked_model, owner)
    nothing = not (usage.input_tokens or usage.output_tokens or cost.nanousd)
    if held[COST] and given.cost_usd is None and not by_price and (cost.unpriced or nothing):
        cost = Price(held[COST])
    amounts = usage.amounts(cost.nanousd)
    if held[NESTED]:
        amounts = amounts._replace(nested_tool_calls=min(held[NESTED], usage.tool_calls))
    return _Charge(cost, usage, amounts)


def _beyond(charge: _Charge, held: Hold) -> _Charge:
    """What exceeds what an expiry has charged; tokens stay the sum of their parts, as the counters have them."""
    rest = Amounts(*(max(0, a - b) for a, b in zip(charge.amounts, held.on_expiry, strict=True)))
    return replace(charge, amounts=rest._replace(tokens=rest.input_tokens + rest.output_tokens))


def charge_hold(payer: Payer, held: Hold) -> list[Crossing]:
    """Charge a tool call what it holds, if that has not ended; gives the thresholds crossed."""
    crossed: list[Crossing] = []
    owed = trips.owe(payer, held, held.amounts, crossed.extend)
    counts = [(payer.tenant_cell, "tool_calls", held.amounts.tool_calls)]
    here = payer.engine.ledger.settle(held, held.vector, "committed", counts, trips.owing(payer, owed))
    if here is None:
        return []
    trips.send(payer, owed)
    return crossed + here


def give_back(payer: Payer, held: Hold) -> bool:
    """Return all that *held* holds; False if it had ended before."""
    ledger = payer.engine.ledger
    if ledger.inside:
        return held.state == "open" and ledger.later(partial(give_back, payer, held))
    owed = trips.owe(payer, held, NOTHING, lambda _: None)
    if ledger.settle(held, 0, "released", writes=trips.owing(payer, owed)) is None:
        return False
    trips.send(payer, owed)
    closing.finish_if_idle(payer)
    return True


def _complete(usage: Usage | None, held: Amounts) -> Usage:
    """*usage* with what it leaves open taken from the hold."""
    if usage is None:
        return sum_of(held)
    steps = held[STEPS] if isinstance(usage.steps, Unsaid) else usage.steps
    tool_calls = held[TOOLS] if isinstance(usage.tool_calls, Unsaid) else usage.tool_calls
    given, made = usage.input_tokens, usage.output_tokens
    if given is not None and made is not None and (steps, tool_calls) == (usage.steps, usage.tool_calls):
        return usage
    guessed = (given is None and held[INPUT] > 0) or (made is None and held[OUTPUT] > 0)
    return replace(
        usage,
        input_tokens=held[INPUT] if given is None else given,
        output_tokens=held[OUTPUT] if made is None else made,
        tokens=None,
        steps=steps,
        tool_calls=tool_calls,
        estimated=usage.estimated or guessed,
    )


# --- what is counted and said


def _announce(
    payer: Payer,
    charge: _Charge,
    site: Site,
    crossed: Sequence[Crossing],
    owed: tuple[Any, ...],
    asked_model: str | None = None,
    *,
    owner: Any,
    late: bool,
    wrap_up: bool,
) -> None:
    """Tell a shared store what was charged, and say it: the record event where the call lives, thresholds on the run's
    span."""
    usage, amounts = charge.usage, charge.amounts
    if owed:
        trips.send(payer, owed)
    if charge.cost.denies:
        for one in payer.lineage:  # those above whose money it was are as blind
            if one is payer or one.binding().money:
                one.unpriced = usage.model or ""  # so the next request is refused
                one.refresh()
        notices.unpriced(payer, usage.model)
    flags: Sequence[str] = ()
    if usage.estimated or late or wrap_up:
        said = ((usage.estimated, semconv.ESTIMATED), (late, semconv.LATE), (wrap_up, semconv.WRAP_UP))
        flags = [name for holds, name in said if holds]
    if usage.estimated:
        payer.note_estimate()
    if notices.RECORDS.isEnabledFor(logging.INFO):
        notices.step(payer, amounts, usage.model or asked_model, owner, charge.cost, flags)
    span = site.span
    if span is not None:
        charged = (amounts[INPUT], amounts[OUTPUT], amounts[COST])
        of_a_call = site is not payer.site
        payer.say(site, events.record_event, charged, flags, "" if of_a_call else charge.cost.source)
        if of_a_call and payer.kind != "quota" and span.is_recording():
            # As an attribute of the call's own span, since trace queries sum over attributes and not over events.
            semconv_cost = payer.engine.config.telemetry.semconv_cost
            payer.say(site, events.mark, charge.cost.attributes(amounts[COST], semconv_cost=semconv_cost))
    if crossed:
        say_crossed(payer, site, crossed)
    if payer.kind == "implicit" and payer.run is not None:
        closing.write_totals(payer.run)
    if payer.engine.ledger.expired:
        tell_expired(payer.engine)


def say_crossed(payer: Payer, site: Site, crossed: Sequence[Crossing]) -> None:
    """Say which thresholds were reached: on the span of the run whose limit it is, for a quota on that of *payer*, and
    on *site*, the call's, where that has no span."""
    for crossing in crossed:
        one: Payer | RunState = payer.ancestor_of(crossing.account) or payer
        where = site if one.site.span is None else one.site
        one.log(where, semconv.EVENT_THRESHOLD, events.threshold(crossing))
        one.say(where, events.crossed, crossing)


def tell_expired(engine: Any) -> None:
    """Say which thresholds were reached by what has expired, and finish the runs that waited for it."""
    expired = engine.ledger.expired
    while expired:
        try:
            held, crossed = expired.popleft()
        except IndexError:  # another thread tells of it
            return
        if held.payer is not None:
            if any(held.on_expiry):
                held.payer.note_estimate()
            else:
                notices.dropped(held.payer)
            if any(held.on_expiry) and notices.RECORDS.isEnabledFor(logging.INFO):
                notices.step(held.payer, held.on_expiry, None, None, Price(held.on_expiry[COST]), ["expired"])
            say_crossed(held.payer, held.payer.site, crossed)
            closing.finish_if_idle(held.payer)
