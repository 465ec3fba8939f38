"""Trips to a shared store: quotas and shared runs are held, read and charged there; other runs stay in this process.

A request is held here first; then one trip holds it on all that the store keeps, or it is given back. So nothing
exceeds a limit anywhere, and the limit of a run that is not shared is named before a wider quota.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from otelbudget.admission.payer import Payer
from otelbudget.admission.request import Once, Request
from otelbudget.admission.state import RunState
from otelbudget.ledger.account import Account, Crossing, Hold, QuotaAccount, Refusal, SharedAccount, crossings
from otelbudget.ledger.change import Changes, write
from otelbudget.ledger.judging import asked_of, exceeded, refusal
from otelbudget.ledger.rules import Rule
from otelbudget.model.amounts import NOTHING, UNLIMITED, Amounts
from otelbudget.model.levels import LEVELS, Where
from otelbudget.model.vector import lane, pack, positive
from otelbudget.model.windows import WindowSpec
from otelbudget.stores.base import FOREVER_S, Answer, Line, Reserve, Reset, Settle, Settled, Stored
from otelbudget.stores.errands import Steps, at_once, waited
from otelbudget.stores.owed import Owed

Told = Callable[[list[Crossing]], object]
Accounts = tuple[QuotaAccount | SharedAccount, ...]
Place = tuple[str, int, int, bool]


class Trip(NamedTuple):
    """What a shared store holds for a hold.

    Attributes:
        id, shard, lines: As the store knows it.
        on_expiry: What its expiry charges there, in all.
        paid: What the expiry of an earlier one has charged.
        digest: Of the payload, if the id follows from an idempotency key; else empty.
    """

    id: str
    shard: str
    lines: tuple[Line, ...]
    accounts: Accounts
    on_expiry: Amounts
    paid: Sequence[int] = NOTHING
    digest: str = ""


@lru_cache(maxsize=4096)
def _limits(rules: tuple[Rule, ...], level: int, *, full: bool = False) -> tuple[int, ...]:
    """What the rules that refuse leave to a priority, or have in *full*; -1 where they limit nothing."""
    strict = [rule.full if full else rule.limits[level] for rule in rules if not rule.warn]
    strict = strict or [(UNLIMITED,) * len(NOTHING)]
    return tuple(-1 if least >= UNLIMITED else least for least in map(min, zip(*strict, strict=True)))


def _lines(payer: Payer, accounts: Accounts, wrapping: Account | None = None) -> tuple[Line, ...]:
    level = payer.owner.level
    return tuple(
        Line(*_place(account), _limits(account.rules, level, full=account is wrapping)) for account in accounts
    )


def _place(account: QuotaAccount | SharedAccount) -> Place:
    """What the store calls it, and in which window it is counted there."""
    if account.there is None:
        assert isinstance(account, QuotaAccount)
        spec = account.spec
        if spec.rolling_s is not None:
            start_s, end_s = 0, spec.rolling_s
        elif account.end_s == float("inf"):
            start_s, end_s = 0, FOREVER_S
        else:
            start_s, end_s = int(account.start_s), int(account.end_s)
        account.there = _key(account), start_s, end_s, spec.rolling_s is not None
    return account.there


def _key(account: QuotaAccount) -> str:
    """Whose account it is, and counted in which kind of window."""
    names = (name.replace("%", "%25").replace("/", "%2F") for name in account.where.names)
    return "/".join((account.scope, *names, window_in_key(account.spec)))


def window_in_key(spec: WindowSpec) -> str:
    """What the key of an account in a shared store ends with."""
    return f"{spec.per} {spec.timezone} {spec.at or ''}".rstrip()


def owner_in_key(key: str) -> tuple[Where, str]:
    """Whose account of a shared store has *key*, and what that ends with; nothing if its scope has no quotas."""
    scope, *parts = key.split("/")
    number = len(LEVELS[scope].fields) if scope in LEVELS else len(parts)
    names = tuple(name.replace("%2F", "/").replace("%25", "%") for name in parts[:number])
    return Where(scope, names), "/".join(parts[number:])


def _new_id() -> str:
    return f"{secrets.randbits(128):032x}"


def _named(once: Once | None) -> tuple[str, str]:
    """The id of what is asked of the store, and its digest."""
    return (_new_id(), "") if once is None or once.there is None else once.there


# --- before a request goes on


def anew(payer: Payer, hold: Hold, accounts: Accounts, paid: Sequence[int] = NOTHING, once: Once | None = None) -> Trip:
    """What is to hold on *accounts* for *hold* from now on, under the key of *once*, if there is one."""
    id, digest = _named(once)
    lines = _lines(payer, accounts, hold.wrapping)
    return Trip(id, payer.engine.store.shard(payer.owner), lines, accounts, hold.on_expiry, paid, digest)


def ask(payer: Payer, hold: Hold, before: Sequence[int]) -> Reserve:
    """What is asked of the store so that *hold*, which held *before* there, becomes what it is here by now."""
    trip: Trip = hold.trip
    lines = _lines(payer, trip.accounts, hold.wrapping) if any(before) else trip.lines  # under the limits of now
    amounts, held, on_expiry = (_beyond(one, trip.paid) for one in (hold.amounts, before, hold.on_expiry))
    return Reserve(trip.id, trip.shard, lines, amounts, held, on_expiry, payer.engine.store.ttl_s, trip.digest)


def instead(payer: Payer, request: Request, accounts: Accounts) -> Reserve:
    """What is asked of whoever stands in for the store, which also a request that holds nothing has to fit."""
    if request.hold is not None:
        return ask(payer, request.hold, NOTHING)
    shard, lines = look(payer, accounts)
    return Reserve(_new_id(), shard, lines, tuple(request.amounts), tuple(NOTHING), tuple(NOTHING), 0.0)


def look(payer: Payer, accounts: Accounts) -> tuple[str, tuple[Line, ...]]:
    """What is asked of the store for a request that holds nothing."""
    return payer.engine.store.shard(payer.owner), _lines(payer, accounts)


def answered(
    payer: Payer, accounts: Accounts, answer: Answer, more: int, own: int, wrapping: Account | None, *, held: bool
) -> Refusal | None:
    """What refuses *more* than its *own* by the *answer* of the store, which is noted for all who look at *accounts*
    here."""
    payer.engine.ledger.mirror(accounts, answer.states)
    level = payer.owner.level
    if not held:
        return refusal(accounts, more, level, wrapping)
    if answer.refused is None:
        return None
    account, i = accounts[answer.refused], answer.resource
    asks = asked_of(account, i, *answer.states[answer.refused], more)
    found = exceeded(asks, asks.used + lane(own + more, i), None if account is wrapping else level)
    return (found or asks)._replace(busy=answer.busy)  # none where other rules have come meanwhile


# --- afterwards: what is owed to the store before the ledger changes, and sent once it has


def owe(
    payer: Payer, hold: Hold, actual: Amounts, told: Told, *, late: bool = False, seen: bool = False
) -> tuple[Owed, ...]:
    """What tells the store what a hold was charged, if it knows it; *told* which thresholds that crossed.

    For a call that was *seen* it is charged whoever else has settled the hold under its key: then both were made.
    """
    trip: Trip | None = hold.trip
    if trip is None:
        return ()
    hold_id = f"{trip.id}:late" if late and not trip.digest else trip.id  # under a key it is charged once altogether
    held, charged, on_expiry = (_beyond(one, trip.paid) for one in (hold.amounts, actual, hold.on_expiry))
    ended = Settle(hold_id, trip.shard, trip.lines, held, charged, on_expiry, trip.digest)
    return _owed(payer, trip.accounts, ended, told, seen=seen)


def owe_record(
    payer: Payer, accounts: Sequence[Any], actual: Amounts, told: Told, once: Once | None = None
) -> tuple[Owed, ...]:
    """What charges the store for what was held nowhere; *told* which thresholds that crossed."""
    if not accounts:
        return ()
    there, nothing = tuple(accounts), tuple(NOTHING)
    id, digest = _named(once)
    ended = Settle(
        id, payer.engine.store.shard(payer.owner), _lines(payer, there), nothing, tuple(actual), nothing, digest
    )
    return _owed(payer, there, ended, told)


def _owed(payer: Payer, accounts: Accounts, ended: Settle, told: Told, *, seen: bool = False) -> tuple[Owed, ...]:
    return (Owed(ended, partial(_settled, payer, accounts, ended, told, seen)),)


def owing(payer: Payer, owed: tuple[Owed, ...]) -> Changes:
    """What the ledger writes as it charges that: from then on it is owed, whatever interrupts its sending."""
    return [(payer.engine.store.owed, one.name, one) for one in owed]


def send(payer: Payer, owed: tuple[Owed, ...]) -> None:
    """Send what the ledger has charged."""
    for one in owed:
        payer.engine.store.settle(one)


def sent_first(payer: Payer, owed: tuple[Owed, ...], settled: Settled | None) -> tuple[Owed, ...]:
    """What is still to be sent now that the ledger has charged what the store was asked about before; None: in vain."""
    for one in owed:
        if settled is None:
            payer.engine.store.put_off()
        else:
            one.told(settled)
    return ()


def _settled(payer: Payer, accounts: Accounts, ended: Settle, told: Told, seen: bool, answer: Settled) -> None:
    if seen and answer.replayed:
        mine = ended._replace(id=_new_id(), held=ended.actual, digest="")
        write(owing(payer, _owed(payer, accounts, mine, told)))  # sent with the next trip
    paid = ended.on_expiry if answer.was == "expired" else NOTHING
    charged = 0 if answer.replayed else pack(_beyond(ended.actual, paid))  # `settled` answers one that came twice
    held = pack(ended.held) if answer.was == "open" else 0
    crossed: list[Crossing] = []
    before = [used - charged for used in answer.used] if answer.since is None else answer.since
    for account, since, used in zip(accounts, before, answer.used, strict=True):
        crossed += crossings(account, since, used) if charged else []
    states = [(used, used + positive(one.holding - held)) for one, used in zip(accounts, answer.used, strict=True)]
    payer.engine.ledger.mirror(accounts, states)
    if crossed:
        told(crossed)


def _beyond(amounts: Sequence[int], paid: Sequence[int]) -> tuple[int, ...]:
    """What of *amounts* was not *paid* before."""
    if not any(paid):
        return tuple(amounts)
    return tuple(max(0, a - b) for a, b in zip(amounts, paid, strict=True))


def share(run: RunState, ends_s: int) -> None:
    """Count a shared run, and what each run may use of quotas, in the store under its id, until *ends_s* at most."""
    for account in run.kept[1]:
        of = _key(account) if isinstance(account, QuotaAccount) else "run"
        account.there = (f"{of}/{run.run_id}", 0, ends_s, False)


def run_of(account: Stored) -> str | None:
    """The id of the shared run that has *account*; None if it is not one's."""
    key, start_s, end_s, rolling = account[:4]
    return None if rolling or start_s or end_s == FOREVER_S else key.rpartition("/")[2]  # see `share`


# --- looking


def refresh(payer: Payer) -> None:
    """Note what the store says now of all that binds *payer*; it is asked also where nothing is known to."""
    at_once(_refreshed(payer, ""))


async def arefresh(payer: Payer) -> None:
    """`refresh` for coroutines."""
    await waited(_refreshed(payer, "a"))


def _refreshed(payer: Payer, twin: str) -> Steps[None]:
    if payer.engine.store is not None:
        accounts = payer.binding_here().shared
        answer = yield from payer.engine.store.ask(twin, "read", *look(payer, accounts))
        payer.engine.ledger.mirror(accounts, answer.states)


def forget(payer: Payer, account: QuotaAccount | SharedAccount) -> None:
    """Forget in the store what *account* has used."""
    payer.engine.store.store.configure(payer.engine.store.shard(payer.owner), _place(account)[0], Reset())
