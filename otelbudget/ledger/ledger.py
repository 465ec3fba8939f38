"""The arithmetic of budgets: accounts and holds, changed in place under their store's lock.

Pure: no clock, lock or I/O; the caller holds the lock and passes the time in. One admission rule everywhere: a request
is admitted iff for every account and every resource ``used + reserved + requested <= limit``, all or nothing.

Carved children are explained in `carves`.
"""

from __future__ import annotations

from collections.abc import Sequence

from otelbudget.ledger.account import (
    ZEROS,
    Account,
    CarvedAccount,
    Hold,
    HoldState,
    QuotaAccount,
    Refusal,
    limited_in,
)
from otelbudget.ledger.carves import alone_on, any_carved, counts, kept_on_each, on_each
from otelbudget.ledger.changes import Change, at_once
from otelbudget.ledger.thresholds import Crossing, crossings, rearm
from otelbudget.model.amounts import UNLIMITED, Amounts

__all__ = [
    "Account",
    "CarvedAccount",
    "Crossing",
    "Hold",
    "HoldState",
    "QuotaAccount",
    "Refusal",
    "carve",
    "carve_in",
    "charge",
    "crossings",
    "extend",
    "forget",
    "hold",
    "left",
    "misfit",
    "rearm",
    "refusal",
    "relimit",
    "resize",
    "settle",
    "take_over",
    "tightest",
    "uncarve",
]


def refusal(
    accounts: Sequence[Account],
    amounts: Sequence[int],
    wrapping: Account | None = None,
    priority: str = "normal",
    *,
    own: Sequence[int] = ZEROS,
    warn: bool = False,
) -> Refusal | None:
    """The account that refuses *amounts*, or None when all admit them; at most 0 of a resource passes.

    The first account whose used amount alone is in the way decides; else the first that only open holds keep busy.
    *wrapping* is judged by its full limits, a quota by what it leaves to *priority*. *own* is what the same call holds
    already, whose end is not worth waiting for. *warn* asks the accounts that only warn instead of the others.
    """
    busy: Refusal | None = None
    asks = on_each(accounts, amounts) if any_carved(accounts) else None
    for n, account in enumerate(accounts):
        if account.warn is not warn:
            continue
        limits = account.full if account is wrapping else account.limits
        if account.limits_of is not None:
            limits = account.limits_of[priority]
        used, reserved = account.used, account.reserved
        asked = amounts if asks is None else asks[n]
        for i in account.limited:
            if asked[i] <= 0 or used[i] + reserved[i] + asked[i] <= limits[i]:
                continue
            if used[i] + alone_on(accounts, n, i, own[i] + amounts[i]) > limits[i]:
                return Refusal(account, i, used[i], reserved[i], limits[i], busy=False)
            if busy is None:
                busy = Refusal(account, i, used[i], reserved[i], limits[i], busy=True)
    return busy


def tightest(accounts: Sequence[Account]) -> tuple[int, int] | None:
    """(resource, what remains of it) where the greatest part of a limit is taken; None without a limit."""
    best: tuple[int, int] | None = None
    greatest = -1.0
    kept = kept_on_each(accounts) if any_carved(accounts) else None
    for n, account in enumerate(accounts):
        used, reserved, limits = account.used, account.reserved, account.limits
        for i in account.limited:
            limit = limits[i]
            taken = used[i] + reserved[i]
            if kept is not None:
                taken = min(taken, limit) - kept[n][i]
            ratio = taken / limit if limit > 0 else 1.0
            if ratio > greatest:
                greatest = ratio
                best = (i, limit - taken if limit > taken else 0)
    return best


def left(accounts: Sequence[Account], resource: int, priority: str = "normal") -> int | None:
    """What a request of *resource* may be at most, at least 0; None where nothing limits it."""
    found: int | None = None
    kept = kept_on_each(accounts) if any_carved(accounts) else None
    for n, account in enumerate(accounts):
        limit = (account.limits if account.limits_of is None else account.limits_of[priority])[resource]
        if limit < UNLIMITED:
            room = max(0, limit - account.used[resource] - account.reserved[resource])
            if kept is not None:
                room += kept[n][resource]
            found = room if found is None or room < found else found
    return found


def hold(new: Hold) -> None:
    """Put an admitted hold on its accounts."""
    at_once(lambda change: change.hold(new.accounts, new.amounts))


def settle(held: Hold, actual: Sequence[int], state: HoldState) -> list[Crossing]:
    """End an open hold in *state*: return what it held, charge *actual*; gives the thresholds crossed."""
    return at_once(lambda change: change.settle(held, actual, state))


def misfit(held: Hold, amounts: Amounts, joining: Sequence[Account] = ()) -> Refusal | None:
    """What refuses that an open hold becomes *amounts*, on the quotas *joining* too; None if it would be admitted."""
    found = [
        refusal(held.accounts, _less(amounts, held.amounts), held.wrapping, held.priority, own=held.amounts),
        refusal(joining, amounts, None, held.priority),
    ]
    # Of equals the widest decides, and those that join come before the runs.
    refused = [one for one in found if one is not None]
    return min(refused, key=lambda one: (one.busy, one.account.scope == "run"), default=None)


def resize(held: Hold, amounts: Amounts, joining: Sequence[Account] = (), *, force: bool = False) -> Refusal | None:
    """Make an open hold exactly *amounts*, on the quotas *joining* too, under the admission rule or in any case.

    A refusal leaves it unchanged. What it holds already was admitted and is not asked for again.
    """

    def plan(change: Change) -> Refusal | None:
        change.watch((*held.accounts, *joining))
        refused = None if force else misfit(held, amounts, joining)
        if refused is None:
            change.resize(held, amounts, joining)
        return refused

    return at_once(plan)


def extend(held: Hold, delta: Amounts, *, force: bool = False) -> Refusal | None:
    """Grow an open hold by *delta* under the admission rule, or in any case; a refusal leaves it unchanged."""
    return resize(held, Amounts(*map(sum, zip(held.amounts, delta, strict=True))), force=force)


def _less(amounts: Sequence[int], others: Sequence[int]) -> list[int]:
    return [a - b for a, b in zip(amounts, others, strict=True)]


def charge(accounts: Sequence[Account], actual: Sequence[int]) -> list[Crossing]:
    """Add *actual* to every account, limits or not; gives the thresholds crossed by it."""
    return at_once(lambda change: change.charge(accounts, actual))


def carve(accounts: Sequence[Account], amounts: Sequence[int]) -> None:
    """Keep *amounts*, admitted by the runs above, for the last account, which is a fresh `CarvedAccount`.

    It can't have more of a carved resource than that.
    """
    at_once(lambda change: carve_in(change, accounts, amounts))


def carve_in(change: Change, accounts: Sequence[Account], amounts: Sequence[int]) -> None:
    """`carve` as a part of *change*; only the limits of the account, which nobody uses yet, are changed before."""
    child = _carved_child(accounts)
    set_aside = _less(child.full, child.limits)
    full = [min(limit, share) if share else limit for limit, share in zip(child.full, amounts, strict=True)]
    relimit(child, [max(0, limit - aside) for limit, aside in zip(full, set_aside, strict=True)], full)
    change.hold(_runs_above(accounts), amounts)
    change.set(child, "carved", amounts)


def uncarve(accounts: Sequence[Account]) -> None:
    """Give the runs above the last account back what it kept of them and has neither used nor holds."""
    at_once(lambda change: _uncarve_in(change, accounts))


def _uncarve_in(change: Change, accounts: Sequence[Account]) -> None:
    child = _carved_child(accounts)
    if child.carved is not None:
        change.watch((child,))
        kept = zip(child.carved, child.used, child.reserved, strict=True)
        rest = [reserved - counts(carved, used, reserved) for carved, used, reserved in kept]
        change.set(child, "carved", None)
        change.hold(_runs_above(accounts), rest)


def _carved_child(accounts: Sequence[Account]) -> CarvedAccount:
    child = accounts[-1]
    assert isinstance(child, CarvedAccount)
    return child


def _runs_above(accounts: Sequence[Account]) -> list[Account]:
    return [account for account in accounts[:-1] if account.scope == "run"]


def forget(account: Account) -> None:
    """Nothing used any more; what is held stays held, thresholds are armed anew."""
    if account.carved is not None:  # what it has spent of its carve stays spent for the runs above
        carved = [max(0, c - u) for c, u in zip(account.carved, account.used, strict=True)]
        assert isinstance(account, CarvedAccount)
        account.carved = carved
    account.used[:] = ZEROS
    account.below = None
    rearm(account)


def take_over(account: Account, other: Account) -> None:
    """Begin with what *other* has used and holds; what that has reached of the limits is no news any more."""
    account.used[:] = other.used
    account.reserved = list(other.reserved)
    _make_room(account)
    rearm(account)


def relimit(account: Account, limits: Sequence[int], full: Sequence[int]) -> None:
    """Give *account* other limits and re-arm its thresholds for amounts not reached yet."""
    account.limits = tuple(limits)
    account.full = tuple(full)
    account.limited = limited_in(account.full)
    _make_room(account)
    rearm(account)


def _make_room(account: Account) -> None:
    held = account.reserved
    account.room = [a - b for a, b in zip(account.limits, held, strict=True)] if any(held) else account.limits
