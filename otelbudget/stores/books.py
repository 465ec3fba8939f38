"""Books: what each organisation, tenant, user and model has used of each of its quotas, window by window.

A window follows from the clock whenever somebody looks, so there is no reset job to forget. Called with the store's
lock held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from otelbudget.engine.succession import closest
from otelbudget.ledger import ledger
from otelbudget.ledger.account import Account, QuotaAccount, limited_in
from otelbudget.ledger.changes import at_once
from otelbudget.model.quota import Quota
from otelbudget.model.windows import Buckets, WindowSpec, window_at

__all__ = ["Book", "Books", "Where"]

#: How long an ended window is kept, in seconds: for clocks that are set back.
KEPT_S: Final = 86_400
#: How many of them at most: all of a day but for windows of a minute, whose day would be a megabyte a tenant.
_MOST_ENDED: Final = 128
#: Whose books there are at which those that nobody needs are looked for first.
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

    def take_over(self, other: Book, now_s: float) -> tuple[QuotaAccount, QuotaAccount] | None:
        """Begin with what *other*, of the same windows, has counted and holds in that of now.

        Returns:
            (its account, the new one); None if nobody has asked for it yet.
        """
        if other._account is None:
            return None
        source = other.current(now_s)
        account = self._account = QuotaAccount(self, source.window, deepcopy(source.buckets))
        ledger.take_over(account, source)
        return source, account

    def _limit(self, account: QuotaAccount) -> None:
        """Hold *account* to the quota in force."""
        quota = self.quota
        account.name = quota.name
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
    if buckets.moves(now_s):
        at_once(lambda change: change.forget_old(account, now_s))


class Books:
    """All books of a store. Those that nobody needs any more are forgotten, so visitors do not fill the memory.

    Args:
        join: Called with an account and one that takes over what it counts, for the open holds to count on both.
    """

    def __init__(self, join: Callable[[QuotaAccount, QuotaAccount], None]) -> None:
        # Whoever still uses a forgotten book keeps it alive, and finds it here: two books of one quota would be twice
        # the money.
        self._known: WeakValueDictionary[tuple[Where, str | None, WindowSpec], Book] = WeakValueDictionary()
        self._kept: dict[Where, dict[Book, None]] = {}
        self._overridden: dict[Where, list[Book]] = {}
        # Quotas that are not configured any more: a mistake that is put right finds what was used before.
        self._left: dict[tuple[Where, str | None, WindowSpec], Book] = {}
        self._join = join
        self._look_at = _MANY

    def __iter__(self) -> Iterator[Book]:
        return (book for books in self._kept.values() for book in books)

    def book(self, where: Where, quota: Quota, now_s: float) -> Book:
        """The book of *quota* for *where*; made when it is first asked for.

        A new one takes over what others of *where* have counted in its window.
        """
        key = _key(where, quota)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Book(where, quota)
            self._begin(found, now_s)
        elif found.given is not quota:
            found.change(quota, found.override)
        kept = self._kept.get(where)
        if kept is None or found not in kept:
            self._left.pop(key, None)
            self._keep(found)
            if len(self._kept) >= self._look_at:
                self._forget_idle(now_s)
        return found

    def _begin(self, new: Book, now_s: float) -> None:
        left = [one for key, one in self._left.items() if (key[0], key[2]) == (new.where, new.given.window)]
        taken = next((new.take_over(other, now_s) for other in (*self._siblings(new), *left)), None)
        if taken is not None:
            self._join(*taken)

    def review(self, listed: Callable[[Where], Sequence[Quota]], now_s: float) -> None:
        """Put what is *listed* now in force, and forget the books of which nothing is. Calls in flight settle.

        What was used in a window that goes on stays used, whatever its quotas are called and limit by now.
        """
        for where, kept in list(self._kept.items()):
            quotas = {_key(where, quota): quota for quota in listed(where) if quota.per != "run"}
            without: list[Book] = []
            for book in kept:
                book.pinned = False
                quota = quotas.pop(_key(where, book.given), None)
                if quota is not None:
                    book.change(quota, book.override)
                else:
                    without.append(book)
            for quota in quotas.values():
                self._succeed(where, quota, without, now_s)
            for book in without:
                if book.override is None:
                    self._drop(book)
        self._left = {key: book for key, book in self._left.items() if not book.idle(now_s)}

    def _succeed(self, where: Where, quota: Quota, without: list[Book], now_s: float) -> None:
        """Let *quota* go on with one of the books *without* a quota, which is not one of them then, or with a copy."""
        same = [book for book in without if book.given.window == quota.window and _may_become(book, quota)]
        found = closest(quota, [book.given for book in same])
        if found is None:
            self.book(where, quota, now_s)
            return
        book = same[found]
        without.remove(book)
        self._known.pop(_key(where, book.given), None)
        book.change(quota, None if book.override is None else replace(book.override, name=quota.name))
        self._known[_key(where, quota)] = book

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
        self._drop(book)

    def remember(self, book: Book) -> None:
        """Keep a book again that was forgotten, and is charged after all by a run that still refers to it."""
        self._keep(book)

    def _keep(self, book: Book) -> None:
        book.forgotten = False
        self._kept.setdefault(book.where, {})[book] = None

    def _drop(self, book: Book) -> None:
        """Keep *book* no longer. Where another one counts on for it, it is not to be found again: it would lag."""
        kept = self._kept.get(book.where, {})
        kept.pop(book, None)
        if self._siblings(book):
            self._known.pop(_key(book.where, book.given), None)
        else:
            self._left[_key(book.where, book.given)] = book
        if not kept:
            self._kept.pop(book.where, None)

    def counting_on(self, accounts: Sequence[Account], now_s: float) -> list[Account]:
        """*accounts*, and those that have taken over from them since, in windows that have not ended."""
        more: list[Account] = []
        for account in accounts:
            if isinstance(account, QuotaAccount):
                same = (one.current(now_s) for one in self._siblings(account.book))
                more += [one for one in same if one.window == account.window and one not in (*accounts, *more)]
        return [*more, *accounts]

    def _siblings(self, book: Book) -> list[Book]:
        """The books that count the same as *book*, whatever they limit."""
        return [one for one in self._kept.get(book.where, ()) if one.given.window == book.given.window]

    def _forget_idle(self, now_s: float) -> None:
        for where, kept in list(self._kept.items()):
            for book in [one for one in kept if one.idle(now_s)]:
                book.forgotten = True
                del kept[book]
            if not kept:
                del self._kept[where]
        self._look_at = max(_MANY, 2 * len(self._kept))


def _may_become(book: Book, quota: Quota) -> bool:
    """Whether *book* may go on as that of *quota*: with an override only if that is one of the same resources."""
    return book.override is None or limited_in(book.given.limits) == limited_in(quota.limits)


def _key(where: Where, quota: Quota) -> tuple[Where, str | None, WindowSpec]:
    return where, quota.name, quota.window
