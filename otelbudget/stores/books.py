"""Books: what each organisation, tenant, user and model has used of each of its quotas, window by window.

A window follows from the clock whenever somebody looks, so there is no reset job to forget. Called with the store's
lock held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from otelbudget import ledger
from otelbudget.accounts import QuotaAccount
from otelbudget.quotas import Quota
from otelbudget.windows import Buckets, WindowSpec, window_at

__all__ = ["Book", "Books", "Where"]

#: How long an ended window is kept, in seconds: for clocks that are set back.
KEPT_S: Final = 86_400
#: How many of them at most: all of a day but for windows of a minute, whose day would be a megabyte a tenant.
_MOST_ENDED: Final = 128
#: Books at which those that nobody needs are looked for first.
_MANY: Final = 1024


class Where(NamedTuple):
    """Whose account it is; what does not apply is empty."""

    scope: str
    org: str
    tenant: str = ""
    user: str = ""
    model: str = ""


class Book:
    """One quota of one organisation, tenant, user or model.

    Attributes:
        where: Whose.
        given: The quota as configured.
        override: The quota that replaces it until it is removed, or None.
        pinned: It is shown and kept also while nobody uses it.
        forgotten: Nothing was used of it, so it is kept only by those who refer to it, until they charge it.
    """

    __slots__ = ("__weakref__", "_account", "_ended", "forgotten", "given", "override", "pinned", "where")

    def __init__(self, where: Where, quota: Quota) -> None:
        self.where = where
        self.given = quota
        self.override: Quota | None = None
        self.pinned = self.forgotten = False
        self._account: QuotaAccount | None = None
        self._ended: list[QuotaAccount] = []

    @property
    def quota(self) -> Quota:
        """The quota in force."""
        return self.given if self.override is None else self.override

    def change(self, given: Quota, override: Quota | None) -> None:
        """Put other limits in force, from now on, for the current window too; what is used stays used."""
        before = self.quota
        self.given, self.override = given, override
        if self._account is not None and self.quota != before:
            self._limit(self._account)

    def _limit(self, account: QuotaAccount) -> None:
        """Hold *account* to the quota in force."""
        quota = self.quota
        account.thresholds = quota.thresholds
        account.warn = quota.on_exhausted == "warn"
        account.limits_of = quota.limits_of or None
        ledger.relimit(account, quota.limits, quota.limits)

    def current(self, now_s: float) -> QuotaAccount:
        """The account of the window that *now_s* (Unix seconds) lies in."""
        account = self._account
        if account is not None and account.window.start_s <= now_s < account.window.end_s:
            if account.buckets is not None:
                _forget_old(account, account.buckets, now_s)
            return account
        return self._turn(account, now_s)

    def _turn(self, before: QuotaAccount | None, now_s: float) -> QuotaAccount:
        """Open the window of now, or the one that it was before the clock was set back."""
        spec = self.quota.window
        window = window_at(spec, now_s)
        if before is not None:
            self._ended.append(before)
        found = next((one for one in self._ended if one.window.key == window.key), None)
        ended = [one for one in self._ended if one is not found]
        # The last one in any case: a clock that jumps far ahead and comes back finds what it had.
        self._ended = [one for one in ended[-_MOST_ENDED:-1] if not _is_past(one, now_s)] + ended[-1:]
        if found is None:
            buckets = None if spec.rolling_s is None else Buckets(spec.rolling_s)
            found = QuotaAccount(self, window, buckets)
        else:
            self._limit(found)
        self._account = found
        return found

    def resets_at_s(self, account: QuotaAccount) -> float | None:
        """When *account*, or the first part of a rolling one, is free again, in Unix seconds; None for never."""
        if account.buckets is not None:
            return account.buckets.next_s()
        return account.window.end_s if account.window.end_s < float("inf") else None

    def reset(self, now_s: float) -> list[int]:
        """Forget what was used in the current window; what is held stays held. Gives what it was."""
        account = self.current(now_s)
        used = list(account.used)
        if account.buckets is not None:
            account.buckets.clear()
        ledger.forget(account)
        return used

    def idle(self, now_s: float) -> bool:
        """Whether it can be forgotten: it says nothing that a new one would not say."""
        if self.pinned or self.override is not None:
            return False
        account = self._account
        if account is None:
            return True
        if account.buckets is not None:
            _forget_old(account, account.buckets, now_s)
        told = any(any(one.used) and not _is_past(one, now_s) for one in (account, *self._ended))
        return not told and not any(account.reserved)


def _is_past(account: QuotaAccount, now_s: float) -> bool:
    """Whether its window ended so long ago that it need not be kept."""
    return account.window.end_s <= now_s - KEPT_S


def _forget_old(account: QuotaAccount, buckets: Buckets, now_s: float) -> None:
    gone = buckets.fallen_out(now_s)
    if gone is not None:
        for i, amount in enumerate(gone):
            account.used[i] -= amount
        ledger.rearm(account)


class Books:
    """All books of a store. Those that nobody needs any more are forgotten, so visitors do not fill the memory."""

    def __init__(self) -> None:
        # Whoever still uses a forgotten book keeps it alive, and finds it here: two books of one quota would be twice
        # the money.
        self._known: WeakValueDictionary[tuple[Where, str | None, WindowSpec], Book] = WeakValueDictionary()
        self._kept: dict[tuple[Where, str | None, WindowSpec], Book] = {}
        self._overridden: dict[Where, list[Book]] = {}
        self._look_at = _MANY

    def __iter__(self) -> Iterator[Book]:
        return iter(self._kept.values())

    def book(self, where: Where, quota: Quota, now_s: float) -> Book:
        """The book of *quota* for *where*; made when it is first asked for."""
        key = (where, quota.name, quota.window)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Book(where, quota)
        elif found.given is not quota:
            found.change(quota, found.override)
        if key not in self._kept:
            self._kept[key] = found
            found.forgotten = False
            if len(self._kept) >= self._look_at:
                self._forget_idle(now_s)
        return found

    def review(self, configured: Callable[[Book], Quota | None]) -> None:
        """Put what is *configured* now in force, and forget the books of which nothing is. Calls in flight settle."""
        for key, book in list(self._kept.items()):
            book.pinned = False
            quota = configured(book)
            if quota is not None:
                book.change(quota, book.override)
            elif book.override is None:
                del self._kept[key]

    def override(self, book: Book, quota: Quota | None) -> None:
        """Put *quota* in force on *book*, whatever is configured; None takes that back."""
        book.change(book.given, quota)
        others = [one for one in self._overridden.pop(book.where, ()) if one is not book]
        if quota is not None:
            others.append(book)
        if others:
            self._overridden[book.where] = others

    def overridden(self, where: Where | None = None) -> Sequence[Book]:
        """The books, of *where* if that is given, that are not held to what is configured."""
        if where is None:
            return [book for books in self._overridden.values() for book in books]
        return self._overridden.get(where, ())

    def forget(self, book: Book) -> None:
        """Let go of a book whose quota nobody gives any more. Calls in flight settle."""
        self._kept.pop((book.where, book.given.name, book.given.window), None)

    def remember(self, book: Book) -> None:
        """Keep a book again that was forgotten, and is charged after all by a run that still refers to it."""
        book.forgotten = False
        self._kept[book.where, book.given.name, book.given.window] = book

    def _forget_idle(self, now_s: float) -> None:
        for key, book in list(self._kept.items()):
            if book.idle(now_s):
                book.forgotten = True
                del self._kept[key]
        self._look_at = max(_MANY, 2 * len(self._kept))
