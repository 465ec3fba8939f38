"""The arithmetic of budgets: accounts and holds, changed in place under their store's lock.

Pure: no clock, lock or I/O; the caller holds the lock and passes the time in. One admission rule everywhere: a request
is admitted iff for every account and every resource ``used + reserved + requested <= limit``, all or nothing.

A carved child counts on the runs above it as at least its carve: they hold ``max(reserved, carve - used)`` of it, so
what it spends moves there from reserved to used, and what it spends beyond is ordinary use. Quotas count it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from otelbudget.accounts import (
    ZEROS,
    Account,
    CarvedAccount,
    Hold,
    HoldState,
    QuotaAccount,
    Refusal,
    limited_in,
)
from otelbudget.amounts import UNLIMITED, Amounts
from otelbudget.thresholds import Crossing, cross, crossings, rearm

__all__ = [
    "Account",
    "CarvedAccount",
    "Crossing",
    "Hold",
    "HoldState",
    "QuotaAccount",
    "Refusal",
    "carve",
    "charge",
    "crossings",
    "exceeds_warned",
    "extend",
    "forget",
    "hold",
    "left",
    "rearm",
    "refusal",
    "relimit",
    "resize",
    "settle",
    "tightest",
    "uncarve",
    "widen",
]


def refusal(
    accounts: Sequence[Account],
    amounts: Sequence[int],
    wrapping: Account | None = None,
    priority: str = "normal",
) -> Refusal | None:
    """The account that refuses *amounts*, or None when all admit them.

    The first account whose used amount alone is in the way decides; else the first that only open holds keep busy.
    *wrapping* is judged by its full limits, a quota by what it leaves to *priority*.
    """
    busy: Refusal | None = None
    for account, asks in _parts(accounts, ZEROS, amounts):
        if account.warn:
            continue
        limits = account.full if account is wrapping else account.limits
        if account.limits_of is not None:
            limits = account.limits_of[priority]
        used, reserved = account.used, account.reserved
        for i in account.limited:
            asked = asks[i]
            if not asked or used[i] + reserved[i] + asked <= limits[i]:
                continue
            if used[i] + asked > limits[i]:
                return Refusal(account, i, used[i], reserved[i], limits[i], busy=False)
            if busy is None:
                busy = Refusal(account, i, used[i], reserved[i], limits[i], busy=True)
    return busy


def _parts(
    accounts: Sequence[Account], used: Sequence[int], held: Sequence[int]
) -> list[tuple[Account, Sequence[int]]]:
    """What *held* more comes to on each account, given that *used* more is charged to it; the same where nothing is
    carved. Call it before the change."""
    parts: list[tuple[Account, Sequence[int]]] = []
    more = held
    for account in reversed(accounts):
        parts.append((account, more if account.scope == "run" else held))
        carved = account.carved
        if carved is not None:
            more = [
                _counts(c, u + a, r + b) - _counts(c, u, r)
                for c, u, r, a, b in zip(carved, account.used, account.reserved, used, more, strict=True)
            ]
    parts.reverse()
    return parts


def _counts(carved: int, used: int, reserved: int) -> int:
    """What the runs above a carved child hold for it."""
    return max(reserved, carved - used)


def exceeds_warned(accounts: Sequence[Account], amounts: Sequence[int]) -> Refusal | None:
    """The first account in warn mode that *amounts* would exceed, or None."""
    for account in accounts:
        if not account.warn:
            continue
        for i in account.limited:
            total = account.used[i] + account.reserved[i] + amounts[i]
            if amounts[i] and total > account.limits[i]:
                return Refusal(account, i, account.used[i], account.reserved[i], account.limits[i], busy=False)
    return None


def tightest(accounts: Sequence[Account]) -> tuple[int, int] | None:
    """(resource, what remains of it) where (used + reserved) / limit is greatest; None without a limit."""
    best: tuple[int, int] | None = None
    greatest = -1.0
    for account in accounts:
        used, reserved, limits = account.used, account.reserved, account.limits
        for i in account.limited:
            limit = limits[i]
            taken = used[i] + reserved[i]
            ratio = taken / limit if limit > 0 else 1.0
            if ratio > greatest:
                greatest = ratio
                best = (i, limit - taken if limit > taken else 0)
    return best


def hold(new: Hold) -> None:
    """Put an admitted hold on its accounts."""
    _shift_reserved(new.accounts, new.amounts, 1)


def settle(held: Hold, actual: Sequence[int], state: HoldState) -> list[Crossing]:
    """End an open hold in *state*: return what it held, charge *actual*; gives the thresholds crossed."""
    held.state = state
    _shift_reserved(held.accounts, held.amounts, -1)
    return charge(held.accounts, actual)


def extend(held: Hold, delta: Amounts, *, force: bool = False) -> Refusal | None:
    """Grow an open hold by *delta* under the admission rule, or in any case; a refusal leaves it unchanged."""
    refused = None if force else refusal(held.accounts, delta, held.wrapping, held.priority)
    if refused is None:
        _shift_reserved(held.accounts, delta, 1)
        held.amounts = Amounts(*map(sum, zip(held.amounts, delta, strict=True)))
        return None
    # What it holds itself is no other call whose end is worth waiting for.
    own = held.amounts[refused.resource] + delta[refused.resource]
    return refused._replace(busy=refused.busy and refused.used + own <= refused.limit)


def resize(held: Hold, amounts: Amounts, *, force: bool = False) -> Refusal | None:
    """Make an open hold exactly *amounts* under the admission rule; a refusal leaves it unchanged."""
    _shift_reserved(held.accounts, held.amounts, -1)
    refused = None if force else refusal(held.accounts, amounts, held.wrapping, held.priority)
    if refused is None:
        held.amounts = amounts
    _shift_reserved(held.accounts, held.amounts, 1)
    return refused


def charge(accounts: Sequence[Account], actual: Sequence[int]) -> list[Crossing]:
    """Add *actual* to every account, limits or not; gives the thresholds crossed by it."""
    crossed: list[Crossing] = []
    leaf = accounts[-1] if accounts else None
    if len(accounts) > 1 and any(account.carved is not None for account in accounts):
        _hold_more(_parts(accounts, actual, ZEROS))
    for account in accounts:
        used, marks = account.used, account.marks
        for i, amount in enumerate(actual):
            if amount:
                total = used[i] = used[i] + amount
                if total >= marks[i]:
                    crossed += cross(account, i)
        if account is not leaf and account.scope == "run":
            below = account.below
            account.below = list(actual) if below is None else [a + b for a, b in zip(below, actual, strict=True)]
    return crossed


def carve(accounts: Sequence[Account], amounts: Sequence[int]) -> None:
    """Keep *amounts*, admitted by the runs above, for the last account, which is a fresh `CarvedAccount`."""
    child, above = _carved_child(accounts)
    _hold_more(_parts(above, ZEROS, amounts))
    child.carved = amounts


def uncarve(accounts: Sequence[Account]) -> None:
    """Give the runs above the last account back what it kept of them and has neither used nor holds."""
    child, above = _carved_child(accounts)
    if child.carved is not None:
        kept = zip(child.carved, child.used, child.reserved, strict=True)
        rest = [reserved - _counts(carved, used, reserved) for carved, used, reserved in kept]
        child.carved = None
        _hold_more(_parts(above, ZEROS, rest))


def _carved_child(accounts: Sequence[Account]) -> tuple[CarvedAccount, list[Account]]:
    child = accounts[-1]
    assert isinstance(child, CarvedAccount)
    return child, [account for account in accounts[:-1] if account.scope == "run"]


def forget(account: Account) -> None:
    """Nothing used any more; what is held stays held, thresholds are armed anew."""
    if account.carved is not None:  # what it has spent of its carve stays spent for the runs above
        carved = [max(0, c - u) for c, u in zip(account.carved, account.used, strict=True)]
        assert isinstance(account, CarvedAccount)
        account.carved = carved
    account.used[:] = ZEROS
    account.below = None
    rearm(account)


def left(accounts: Sequence[Account], resource: int, priority: str = "normal") -> int | None:
    """What a request of *resource* may be at most, at least 0; None where nothing limits it."""
    found: int | None = None
    kept = 0
    for account in reversed(accounts):
        limit = (account.limits if account.limits_of is None else account.limits_of[priority])[resource]
        used, reserved = account.used[resource], account.reserved[resource]
        if limit < UNLIMITED:
            room = limit - used - reserved + (kept if account.scope == "run" else 0)
            found = room if found is None or room < found else found
        if account.carved is not None:
            kept += _counts(account.carved[resource], used, reserved) - reserved
    return found if found is None else max(0, found)


def widen(held: Hold, accounts: Sequence[Account], *, force: bool = False) -> Refusal | None:
    """Put an open hold on more quotas, before its other accounts; a refusal leaves it unchanged."""
    refused = None if force else refusal(accounts, held.amounts, None, held.priority)
    if refused is None:
        _hold_more([(account, held.amounts) for account in accounts])
        held.accounts = (*accounts, *held.accounts)
    return refused


def relimit(account: Account, limits: Sequence[int], full: Sequence[int]) -> None:
    """Give *account* other limits and re-arm its thresholds for amounts not reached yet."""
    account.limits = tuple(limits)
    account.full = tuple(full)
    account.limited = limited_in(account.full)
    _make_room(account)
    rearm(account)


def _shift_reserved(accounts: Sequence[Account], amounts: Sequence[int], sign: int) -> None:
    _hold_more(_parts(accounts, ZEROS, amounts if sign > 0 else [-amount for amount in amounts]))


def _hold_more(parts: Sequence[tuple[Account, Sequence[int]]]) -> None:
    for account, more in parts:
        reserved = account.reserved
        if not isinstance(reserved, list):
            reserved = account.reserved = list(ZEROS)
        for i, amount in enumerate(more):
            reserved[i] += amount  # in place: a change that nests here is not lost
        _make_room(account)


def _make_room(account: Account) -> None:
    held = account.reserved
    account.room = [a - b for a, b in zip(account.limits, held, strict=True)] if any(held) else account.limits
