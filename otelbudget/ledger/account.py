"""Accounts and holds: what one scope has used and holds, and what one call holds on several of them.

Plain state with slots, changed only by `ledger` and under the lock of the store that they live in. Lists are indexed as
`RESOURCES`. An account's `used` is its own spend plus that of its shared and carved children; what came from below is
kept apart in `below`, so own = used - below.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from otelbudget.ledger.thresholds import first_marks
from otelbudget.model.amounts import NOTHING, UNLIMITED, Amounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otelbudget.model.windows import Buckets, Window
    from otelbudget.stores.books import Book

__all__ = ["ZEROS", "Account", "CarvedAccount", "Hold", "HoldState", "QuotaAccount", "Refusal", "limited_in"]

#: Nothing of any resource.
ZEROS = (0,) * len(NOTHING)
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
    #: What a carved child keeps of the runs above it; None for all others.
    carved: Sequence[int] | None = None
    #: What each priority may reach; None where all may use everything.
    limits_of: Mapping[str, Sequence[int]] | None = None
    #: What a rolling window has to forget again; None for all others.
    buckets: Buckets | None = None
    #: The quota that it counts; None for runs.
    book: Book | None = None

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
        self.limited = limited_in(tuple(self.full))
        self.room = limits
        self.used: list[int] = list(ZEROS)
        self.reserved: list[int] | tuple[int, ...] = ZEROS  # becomes a list with the first hold: most runs never hold
        self.below: list[int] | None = None
        self.warn = warn
        self.thresholds = thresholds
        self.marks: Sequence[int] = first_marks(tuple(self.full), thresholds)

    def remaining(self, resource: int) -> int:
        """What is left of a limited resource, at least 0."""
        return max(0, self.limits[resource] - self.used[resource] - self.reserved[resource])

    def own(self) -> list[int]:
        """What was used here and not below."""
        below = self.below
        return list(self.used) if below is None else [a - b for a, b in zip(self.used, below, strict=True)]

    def overage(self, resource: int) -> int:
        """By how much the full limit is exceeded, 0 if it is not."""
        return max(0, self.used[resource] - self.full[resource])


class CarvedAccount(Account):
    """The account of a child run that holds its share on the runs above it."""

    __slots__ = ("carved",)

    def __init__(self, limits: Sequence[int], **options: Any) -> None:
        super().__init__(limits, **options)
        self.carved: Sequence[int] | None = None


class QuotaAccount(Account):
    """What an organisation, tenant, user or model has used in one window.

    Attributes:
        book: The quota that it counts, whose `where` says whose it is.
        window: Which window.
        limits_of: What each priority may reach, or None.
        buckets: What a rolling window has to forget again, or None.
    """

    __slots__ = ("book", "buckets", "limits_of", "window")

    def __init__(self, book: Book, window: Window, buckets: Buckets | None = None) -> None:
        quota = book.quota
        super().__init__(
            quota.limits,
            scope=book.where.scope,
            name=quota.name,
            thresholds=quota.thresholds,
            warn=quota.on_exhausted == "warn",
        )
        self.book: Book = book
        self.window = window
        self.limits_of: Mapping[str, Sequence[int]] | None = quota.limits_of or None
        self.buckets: Buckets | None = buckets


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
        priority: How important its call is.
        wrapping: The account that judges its growth by full limits, or None.
        permit: The permit to wrap up that its call has used, or None.
        paid: The usage that it was charged for, as the caller gave it.
    """

    # fmt: off
    __slots__ = (
        "accounts", "amounts", "expires_ns", "on_expiry", "opened_ns", "owner", "paid", "payer", "permit",
        "priority", "state", "wrapping",
    )
    # fmt: on

    def __init__(
        self,
        accounts: tuple[Account, ...],
        amounts: Amounts,
        *,
        on_expiry: Amounts = NOTHING,
        payer: Any = None,
        priority: str = "normal",
    ) -> None:
        self.accounts = accounts
        self.amounts = amounts
        self.on_expiry = on_expiry
        self.opened_ns = 0
        self.expires_ns = UNLIMITED
        self.state: HoldState = "open"
        self.owner: Any = None
        self.payer = payer
        self.priority = priority
        self.wrapping: Account | None = None
        self.permit: Any = None
        self.paid: Any = None


@lru_cache(maxsize=1024)
def limited_in(limits: tuple[int, ...]) -> tuple[int, ...]:
    """The resources that *limits* limit; one tuple for all runs of a budget."""
    return tuple(i for i in _INDEXES if limits[i] < UNLIMITED)
