"""The arithmetic of budgets: accounts and holds, changed in place under their store's lock.

Pure: no clock, lock or I/O; the caller holds the lock and passes the time in. One admission rule everywhere: a request
is admitted iff for every account and every resource ``used + reserved + requested <= limit``, all or nothing.

Lists are indexed as `RESOURCES`. An account's `used` is its own spend plus that of its shared children; what came from
below is kept apart in `below`, so own = used - below.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from otelbudget.amounts import NOTHING, UNLIMITED, Amounts
from otelbudget.thresholds import Crossing, cross, crossings, first_marks, rearm

__all__ = [
    "Account",
    "Crossing",
    "Hold",
    "HoldState",
    "Refusal",
    "charge",
    "crossings",
    "exceeds_warned",
    "expire",
    "extend",
    "hold",
    "rearm",
    "refusal",
    "relimit",
    "resize",
    "settle",
    "tightest",
]

_ZEROS = (0,) * len(NOTHING)
_INDEXES = range(len(NOTHING))

HoldState = Literal["open", "committed", "released", "expired"]


class Account:
    """What one scope has used and holds, against its limits. Changed only under its store's lock.

    Attributes:
        scope: ``run``, ``tenant``, ``user``, ``org`` or ``model``.
        name: The budget's name; None if it has none.
        limits: What ordinary requests may reach, UNLIMITED where there is no limit.
        limited: The resources that have a limit, ascending.
        full: The same including what is set aside for wrapping up.
        used, reserved: Charged and held amounts.
        room: limits - reserved, what `used` may reach now; the limits themselves while nothing is held.
        below: The part of `used` that child runs spent; None while there is none.
        warn: Over-limit requests are admitted and flagged.
        marks: Per resource the amount whose reaching is reported next.
        thresholds: The ratios that marks are made from, ascending.
    """

    __slots__ = (
        "below",
        "full",
        "limited",
        "limits",
        "marks",
        "name",
        "reserved",
        "room",
        "scope",
        "thresholds",
        "used",
        "warn",
    )

    def __init__(
        self,
        limits: Sequence[int],
        *,
        full: Sequence[int] | None = None,
        scope: str = "run",
        name: str | None = None,
        thresholds: tuple[float, ...] = (),
        warn: bool = False,
    ) -> None:
        self.scope = scope
        self.name = name
        self.limits = limits
        self.full = limits if full is None else full
        self.limited = _limited(tuple(self.full))
        self.room = limits
        self.used: list[int] = list(_ZEROS)
        self.reserved: list[int] | tuple[int, ...] = _ZEROS  # becomes a list with the first hold: most runs never hold
        self.below: list[int] | None = None
        self.warn = warn
        self.thresholds = thresholds
        self.marks: Sequence[int] = first_marks(tuple(self.full), thresholds)

    def remaining(self, resource: int) -> int:
        """What is left of a limited resource, at least 0."""
        return max(0, self.limits[resource] - self.used[resource] - self.reserved[resource])

    def overage(self, resource: int) -> int:
        """By how much the full limit is exceeded, 0 if it is not."""
        return max(0, self.used[resource] - self.full[resource])


class Refusal(NamedTuple):
    """Why a request was not admitted, with the numbers of that moment."""

    account: Account
    resource: int
    used: int
    reserved: int
    limit: int
    busy: bool


class Hold:
    """An amount held on several accounts until it is settled.

    Attributes:
        accounts: From the widest scope to the leaf.
        amounts: What is held on each.
        on_expiry: What an expiry charges.
        expires_ns: When it may be reclaimed if nobody holds on to it.
        state: ``open`` until settled, once.
        owner: A weak reference to what keeps it alive.
        payer: Who is told of an expiry (a run).
        wrapping: The account that judges its growth by full limits, or None.
        paid: The usage that it was charged for, as the caller gave it.
    """

    # fmt: off
    __slots__ = (
        "accounts", "amounts", "expires_ns", "on_expiry", "opened_ns", "owner", "paid", "payer", "state", "wrapping",
    )
    # fmt: on

    def __init__(
        self,
        accounts: tuple[Account, ...],
        amounts: Amounts,
        *,
        on_expiry: Amounts = NOTHING,
        payer: Any = None,
    ) -> None:
        self.accounts = accounts
        self.amounts = amounts
        self.on_expiry = on_expiry
        self.opened_ns = 0
        self.expires_ns = UNLIMITED
        self.state: HoldState = "open"
        self.owner: Any = None
        self.payer = payer
        self.wrapping: Account | None = None
        self.paid: Any = None


def refusal(accounts: Sequence[Account], amounts: Sequence[int], wrapping: Account | None = None) -> Refusal | None:
    """The account that refuses *amounts*, or None when all admit them.

    The first account whose used amount alone is in the way decides; else the first that only open holds keep busy.
    *wrapping* is judged by its full limits.
    """
    busy: Refusal | None = None
    for account in accounts:
        if account.warn:
            continue
        limits = account.full if account is wrapping else account.limits
        used, reserved = account.used, account.reserved
        for i in account.limited:
            asked = amounts[i]
            if not asked or used[i] + reserved[i] + asked <= limits[i]:
                continue
            if used[i] + asked > limits[i]:
                return Refusal(account, i, used[i], reserved[i], limits[i], busy=False)
            if busy is None:
                busy = Refusal(account, i, used[i], reserved[i], limits[i], busy=True)
    return busy


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


def expire(held: Hold) -> list[Crossing]:
    """Reclaim an abandoned hold: all but what it stored for this case comes back."""
    return settle(held, held.on_expiry, "expired")


def extend(held: Hold, delta: Amounts, *, force: bool = False) -> Refusal | None:
    """Grow an open hold by *delta* under the admission rule, or in any case; a refusal leaves it unchanged."""
    refused = None if force else refusal(held.accounts, delta, held.wrapping)
    if refused is None:
        _shift_reserved(held.accounts, delta, 1)
        held.amounts = Amounts(*map(sum, zip(held.amounts, delta, strict=True)))
    return refused


def resize(held: Hold, amounts: Amounts, *, force: bool = False) -> Refusal | None:
    """Make an open hold exactly *amounts* under the admission rule; a refusal leaves it unchanged."""
    _shift_reserved(held.accounts, held.amounts, -1)
    refused = None if force else refusal(held.accounts, amounts, held.wrapping)
    if refused is None:
        held.amounts = amounts
    _shift_reserved(held.accounts, held.amounts, 1)
    return refused


def charge(accounts: Sequence[Account], actual: Sequence[int]) -> list[Crossing]:
    """Add *actual* to every account, limits or not; gives the thresholds crossed by it."""
    crossed: list[Crossing] = []
    leaf = accounts[-1]
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


def relimit(account: Account, limits: Sequence[int], full: Sequence[int]) -> None:
    """Give *account* other limits and re-arm its thresholds for amounts not reached yet."""
    account.limits = tuple(limits)
    account.full = tuple(full)
    account.limited = _limited(account.full)
    _make_room(account)
    rearm(account)


@lru_cache(maxsize=1024)
def _limited(limits: tuple[int, ...]) -> tuple[int, ...]:
    """The resources that *limits* limit; one tuple for all runs of a budget."""
    return tuple(i for i in _INDEXES if limits[i] < UNLIMITED)


def _shift_reserved(accounts: Sequence[Account], amounts: Sequence[int], sign: int) -> None:
    for account in accounts:
        reserved = account.reserved
        if not isinstance(reserved, list):
            reserved = account.reserved = list(_ZEROS)
        for i, amount in enumerate(amounts):
            reserved[i] += sign * amount  # in place: a change that nests here is not lost
        _make_room(account)


def _make_room(account: Account) -> None:
    held = account.reserved
    account.room = [a - b for a, b in zip(account.limits, held, strict=True)] if any(held) else account.limits
