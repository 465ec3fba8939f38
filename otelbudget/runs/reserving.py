"""`reserve`: what is asked for, under an idempotency key too, and the reservation that it becomes."""

from __future__ import annotations

from typing import Any, Final
from weakref import ref

from otelbudget.admission.cost import wanted
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import REPLAYED, Once, Request
from otelbudget.ledger.account import Hold
from otelbudget.model.amounts import nanoseconds
from otelbudget.model.decision import Decision
from otelbudget.model.keywords import ReserveKeywords, unknown
from otelbudget.runs import asking
from otelbudget.runs.idempotency import Keys, as_key, keys_of
from otelbudget.runs.reservation import Reservation

_KNOWN: Final = {**ReserveKeywords.__annotations__, "seconds": None}  # which has an error of its own


def reserve(payer: Payer, given: Any, keys: Keys | None = None) -> Reservation:
    """Hold *given* for one call of *payer*."""
    request, made, wait_ns = _request(payer, given)
    if request.once is None:
        asking.decide(payer, request, wait_ns)
        return made
    with (keys or keys_of(payer)).asking(payer.tenant, request.once) as once:
        decision = asking.decide(payer, request._replace(once=once), wait_ns)
    return _replayed(once, made, decision)


async def areserve(payer: Payer, given: Any) -> Reservation:
    """`reserve` for coroutines."""
    request, made, wait_ns = _request(payer, given)
    if request.once is None:
        await asking.adecide(payer, request, wait_ns)
        return made
    with keys_of(payer).asking(payer.tenant, request.once) as once:
        decision = await asking.adecide(payer, request._replace(once=once), wait_ns)
    return _replayed(once, made, decision)


def _request(payer: Payer, given: Any) -> tuple[Request, Reservation, int]:
    """What is asked for, the reservation that it becomes, and how long it may wait."""
    if strange := given.keys() - _KNOWN:
        raise unknown("reserve() has no", min(strange), _KNOWN)
    wait_ns = nanoseconds("wait_s", given.pop("wait_s")) if "wait_s" in given else 0
    on_unknown = given.pop("on_unknown", "full")
    if on_unknown not in ("input", "full", "open"):
        raise ValueError(f"on_unknown must be 'input', 'full' or 'open', got {on_unknown!r}")
    if "seconds" in given:
        raise ValueError("seconds can't be reserved: time passes by itself; use check(seconds=...)")
    key = given.pop("idempotency_key", None)
    priced = "cost_usd" in given
    here = payer.around()
    amounts, model, unpriced = wanted(payer, given, here.owner)
    hold = Hold(payer)
    made = Reservation(payer, hold, on_unknown, model, here.owner)
    once = None
    if key is not None:
        # Prices may change between two equal requests, so only a cost that was given is part of what is compared.
        payload = amounts if priced else amounts._replace(cost_nanousd=0)
        once = Once("reserve", as_key(key), payload, on_unknown)
    site, owner, permit = here.site, here.owner, here.permit
    request = Request("reserve", amounts, site, model, owner, permit, unpriced, hold=hold, keeper=made, once=once)
    return request, made, wait_ns


def _replayed(once: Once, made: Reservation, decision: Decision) -> Reservation:
    """The reservation that a key stands for: the one just *made*, or an earlier one."""
    if once.hold is None or once.hold is made._hold:
        made.replayed = decision is REPLAYED  # in another process
        return made
    hold = once.hold
    earlier: Reservation | None = hold.owner()
    if earlier is None:  # its object is gone: this one takes its place
        made._payer, made._hold, made.on_unknown, earlier = hold.payer, hold, once.on_unknown, made
        hold.owner = ref(made)
    earlier.replayed = True
    return earlier
