"""`reserve`: what is asked for, and the reservation that it becomes; and idempotency keys, for it and for `record`.

A request that comes twice under one key is done once. What a key stands for is looked at in the critical section in
which its request would be admitted or charged. So of two equal requests that come at the same moment one is done and
the other finds it; a refused one leaves nothing behind.

The keys of a tenant and of a shared run are known to the store that its processes share: there a request has an id that
follows from its key. What is in doubt stays in doubt there, for whoever asks again: it is not taken back.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from weakref import ref

from otelbudget.admission.cost import wanted
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import REPLAYED, Once, Request
from otelbudget.engine.engine import Engine
from otelbudget.errors import IdempotencyError
from otelbudget.ledger.account import Hold
from otelbudget.model.amounts import nanoseconds
from otelbudget.model.decision import Decision
from otelbudget.model.keywords import ReserveKeywords, unknown
from otelbudget.runs import asking
from otelbudget.runs.reservation import Reservation
from otelbudget.stores import keyed

#: How many keys a run remembers, or a quota service of all tenants; beyond, the oldest that are settled are forgotten.
KEPT: Final = 100_000
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


# --- idempotency keys


def as_key(value: object) -> str:
    """*value* if it can be an idempotency key: a text that is not empty."""
    if isinstance(value, str) and value:
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"idempotency_key must be a text that is not empty, got {value!r} ({type(value).__name__})")


def keys_of(payer: Payer) -> Keys:
    """The keys of a run."""
    run = payer.run
    assert run is not None  # others bring theirs
    if run.keys is None:
        made = Keys(run.engine, shared_as=("run", run.run_id) if run.sharing else ())
        run.engine.ledger.locked(lambda: setattr(run, "keys", run.keys or made))  # unless another was faster
    keys: Keys = run.keys
    return keys


class Keys:
    """The keys of a run, or those of all tenants of a quota service; *shared_as* says whose they are to a store that
    processes share: nothing where nobody else has them."""

    def __init__(
        self, engine: Engine, kept: dict[tuple[str, str], Once] | None = None, *, shared_as: tuple[str, ...] = ()
    ) -> None:
        self._engine = engine
        self._kept = {} if kept is None else kept
        self._shared_as = shared_as if engine.store is not None else ()
        # A process may take up a run several times, and each is another one's then.
        self._mine = secrets.token_hex(8) if kept is None else ""

    @contextmanager
    def asking(self, tenant: str, asked: Once) -> Iterator[Once]:
        """What its key stands for while *asked* is decided: what was done under it before, else *asked*. An
        IdempotencyError if that is, or is about to be, something else."""
        if self._shared_as:
            digest = keyed.digest_of((asked.kind, repr(asked.payload)), self._engine.store.asker + self._mine)
            asked.there = keyed.id_of(*self._shared_as, tenant, asked.key), digest
        locked = self._engine.ledger.locked
        once = locked(partial(self._found, (tenant, asked.key), asked))
        if once is None:
            raise _other(asked)
        kept = self._kept
        if once is asked and len(kept) > KEPT:
            settled = [key for key in list(kept) if (one := kept.get(key)) and not one.open and one is not asked]
            for key in settled[: max(1, KEPT // 8)]:
                kept.pop(key, None)
            said = "idempotency keys beyond %d are forgotten; a request that comes again under an old one is done again"
            self._engine.warn_once("keys", said, KEPT)
        try:
            yield once
        except IdempotencyError as error:  # of the store, which knows nothing but what follows from the key
            raise _other(asked) from error
        finally:
            locked(partial(_counted, once, -1))

    def _found(self, place: tuple[str, str], asked: Once) -> Once | None:
        found = self._kept.setdefault(place, asked)
        if found.kind != asked.kind or found.payload != asked.payload:
            if found.hold is not None or found.done or found.asking:
                return None
            found = self._kept[place] = asked  # the other one was refused
        _counted(found, 1)
        return found


def _counted(once: Once, by: int) -> None:
    once.asking += by


def _other(asked: Once) -> IdempotencyError:
    return IdempotencyError(
        f"the key {asked.key!r} was used before for something else, perhaps in another process: nothing has changed;"
        " take a key of its own for every request"
    )
