"""The one admission rule: ``used + reserved + requested <= limit`` for every account and resource, all or nothing.

Pure: nothing here changes anything. A carved child counts on the runs above it (never on quotas) as
``max(taken, floor)``, so what a request of it comes to there is the difference of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from otelbudget.ledger.account import Account, Refusal
from otelbudget.model.vector import GUARDS, LANE, LOW, SHIFTS, asked, greater, lane, step


def rises(accounts: Sequence[Account], more: int) -> list[int]:
    """What *more* on the last account comes to on each."""
    found, here = [], more
    for account in reversed(accounts):
        found.append(here if account.scope == "run" else more)
        if account.floor:
            here = greater(account.taken + here, account.floor) - greater(account.taken, account.floor)
    found.reverse()
    return found


def refusal(
    accounts: Sequence[Account], more: int, priority: int, wrapping: Account | None = None, own: int = 0
) -> Refusal | None:
    """What refuses *more*, of which lanes at or below 0 pass; None if all admit it.

    Args:
        accounts: From the widest scope to the leaf.
        more: A vector.
        priority: An index into `PRIORITIES`.
        wrapping: The account that is judged by its full limits.
        own: What the same call holds already, whose end is not worth waiting for.
    """
    guards = (more + LOW) & GUARDS
    for account in accounts:
        limits = account.limits
        cap = limits.full if account is wrapping else limits.caps[priority]
        if (cap - account.taken - more) & guards != guards or account.floor:
            return next(refusals(accounts, more, priority, wrapping, own), None)
    return None


def refusals(
    accounts: Sequence[Account], more: int, priority: int, wrapping: Account | None = None, own: int = 0
) -> Iterator[Refusal]:
    """Everything that refuses *more*: what used amounts alone block, then what only open holds keep busy.

    In each part from the widest account to the leaf, in the order of resources, then of rules.
    """
    busy = []
    for n, (account, here) in enumerate(zip(accounts, rises(accounts, more), strict=True)):
        wraps = account is wrapping
        for i in _short(account, account.limits.full if wraps else account.limits.caps[priority], here):
            alone = lane(account.used + _alone(accounts, n, own + more), i)
            found = exceeded(
                asked_of(account, i, account.used, account.taken, here), alone, None if wraps else priority
            )
            if found is None:  # given back meanwhile: who says why asks without the lock
                continue
            if found.busy:
                busy.append(found)
            else:
                yield found
    yield from busy


def _short(account: Account, cap: int, more: int) -> list[int]:
    """The resources of which *account* has not so much left under *cap*."""
    guards = asked(more)
    short = ((cap - account.taken - more) & guards) ^ guards
    return [i for i in range(len(SHIFTS)) if lane(short, i)] if short else []


def asked_of(account: Account, i: int, used: int, taken: int, more: int) -> Refusal:
    """What is refused where *more* is asked beside these vectors of *account*, for `exceeded` to say by which rule."""
    before = lane(used, i)
    return Refusal(account, account.rules[0], i, before, lane(taken, i) - before, 0, step(more, i), busy=False)


def exceeded(asks: Refusal, alone: int, priority: int | None, *, warn: bool = False) -> Refusal | None:
    """*asks* by the rule that refuses it or, with *warn*, only warns: the first that refuses what there is *alone*,
    without what others hold, else the first, which is busy. No *priority* means full limits."""
    whole, busy = asks.used + asks.reserved + asks.asked, None
    for rule in asks.account.rules:
        limit = (rule.full if priority is None else rule.limits[priority])[asks.resource]
        if rule.warn is warn and whole > limit:
            found = asks._replace(rule=rule, limit=limit, busy=alone <= limit)
            if not found.busy:
                return found
            busy = busy or found
    return busy


def _alone(accounts: Sequence[Account], n: int, whole: int) -> int:
    """What a call of *whole* comes to on account *n* if no other one is open."""
    if accounts[n].scope == "run":
        for below in reversed(accounts[n + 1 :]):
            if below.floor:
                whole = greater(below.used + whole, below.floor) - below.used
    return whole


def warning(accounts: Sequence[Account], more: int, priority: int, own: int = 0) -> Refusal | None:
    """The first rule that only warns and that *more* exceeds; *own* of it the accounts have taken already."""
    for account, here in zip(accounts, rises(accounts, more), strict=True):
        warns = account.limits.warns
        for i in () if warns is None else _short(account, warns[priority] + own, here):
            asks = asked_of(account, i, account.used, account.taken - own, here)
            found = exceeded(asks, asks.used + asks.reserved + asks.asked, priority, warn=True)
            if found is not None:
                return found
    return None


def _slacks(accounts: Sequence[Account]) -> list[int]:
    """What each account has set aside for carved children below it and the last one may still use."""
    found, slack = [], 0
    for account in reversed(accounts):
        found.append(slack if account.scope == "run" else 0)
        if account.floor:
            slack += greater(account.floor, account.taken) - account.taken
    found.reverse()
    return found


def left(accounts: Sequence[Account], resource: int, priority: int) -> int | None:
    """What a request of *resource* may be at most, at least 0; None where nothing limits it."""
    found: int | None = None
    for account, slack in zip(accounts, _slacks(accounts), strict=True):
        if resource in account.limits.refusing:
            limit = lane(account.limits.caps[priority] & LOW, resource)
            room = max(0, limit - lane(account.taken, resource)) + lane(slack, resource)
            found = room if found is None or room < found else found
    return found


def tightest(accounts: Sequence[Account]) -> tuple[int, int] | None:
    """(resource, what remains of it) where the greatest part of a limit is taken; None without a limit."""
    best: tuple[int, int] | None = None
    greatest, slacks = -1.0, None
    for n, account in enumerate(accounts):
        taken = account.taken
        if account.floor:
            slacks = slacks or _slacks(accounts)
        for i, limit in account.limits.most:
            here = taken >> SHIFTS[i] & LANE
            if slacks is not None:
                here = min(here, limit) - lane(slacks[n], i)
            ratio = here / limit if limit else 1.0
            if ratio > greatest:
                greatest, best = ratio, (i, limit - here if limit > here else 0)
    return best
