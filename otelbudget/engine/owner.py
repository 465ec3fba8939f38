"""Who spends: organisation, tenant, user and priority of a run, and the books of the quotas that bind them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from otelbudget.ledger.account import QuotaAccount, limited_in
from otelbudget.model.amounts import COST, UNLIMITED
from otelbudget.model.names import is_pattern, matching
from otelbudget.model.quota import Quota, Quotas, check_priority
from otelbudget.model.windows import window_at
from otelbudget.stores.books import Book, Where

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otelbudget.stores.memory import MemoryStore

__all__ = ["DEFAULT", "Owner", "Owners"]

#: The organisation and the tenant of a run that names none.
DEFAULT = "default"


class Owner:
    """Whose a run is. Runs of the same owner share one of these.

    Attributes:
        known: A tenant was named, or need not be.
        books: What quotas count of it, widest scope first; those that each root run has on its own are in `per_run`.
        limited: The resources that a quota limits.
        money_limited: A quota limits money, and does not only warn.
    """

    # fmt: off
    __slots__ = (
        "__weakref__", "books", "known", "limited", "money_limited", "org", "per_run", "priority", "tenant", "user",
    )
    # fmt: on

    def __init__(self, org: str, tenant: str, user: str | None, priority: str, *, known: bool) -> None:
        self.org = org
        self.tenant = tenant
        self.user = user
        self.priority = priority
        self.known = known
        self.books: tuple[Book, ...] = ()
        self.per_run: tuple[Book, ...] = ()
        self.limited: frozenset[int] = frozenset()
        self.money_limited = False

    def bind(self, rules: Owners, store: MemoryStore) -> None:
        """Look its quotas up. Called with the lock held."""
        now_s = store.clock_s()
        books: list[Book] = []
        per_run: list[Book] = []
        for where, listed in self._scopes(rules):
            own = [store.books.book(where, quota, now_s) for quota in listed if quota.per != "run"]
            books += own + [book for book in store.books.overridden(where) if book not in own]
            per_run += [Book(where, quota) for quota in listed if quota.per == "run"]
        self.books, self.per_run = tuple(books), tuple(per_run)
        found = [book.quota for book in (*books, *per_run)]
        self.limited = frozenset(i for quota in found for i, limit in enumerate(quota.limits) if limit < UNLIMITED)
        self.money_limited = any(map(limits_money, found))

    def _scopes(self, rules: Owners) -> Iterator[tuple[Where, tuple[Quota, ...]]]:
        yield Where("org", self.org), rules.quotas.org
        yield Where("tenant", self.org, self.tenant), rules.of_tenant(self.tenant)
        if self.user is not None:
            yield Where("user", self.org, self.tenant, self.user), rules.quotas.of_user(self.user)

    def run_accounts(self, now_s: float) -> tuple[QuotaAccount, ...]:
        """The accounts of a new root run's own quotas."""
        return tuple(QuotaAccount(book, window_at(book.quota.window, now_s)) for book in self.per_run)


def _counting(quota: Quota, books: Sequence[Book]) -> Book | None:
    """The book of the same window that *quota* would replace: by its name, else by what it limits."""
    same = [book for book in books if book.given.window == quota.window]
    named = next((book for book in same if book.given.name == quota.name), None)
    limited = limited_in(quota.limits)
    return named or next((book for book in same if limited_in(book.given.limits) == limited), None)


def limits_money(quota: Quota) -> bool:
    """Whether *quota* refuses for want of money."""
    return quota.limits[COST] < UNLIMITED and quota.on_exhausted == "raise"


class Owners:
    """All owners that somebody uses, each once.

    Args:
        store: Where the books are.
        quotas: Whose quota is whose.
        orgs: Tenant -> organisation.
        tenant: Whose runs are those that name no tenant; None is ``default``.
        require_tenant: Such runs may not call anything, unless *tenant* says whose they are.
    """

    def __init__(
        self,
        store: MemoryStore,
        quotas: Quotas,
        orgs: Mapping[str, str],
        *,
        tenant: str | None,
        require_tenant: bool,
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._owners: WeakValueDictionary[tuple[str, str, str | None, str, bool], Owner] = WeakValueDictionary()
        self._added: tuple[Quotas, ...] = ()
        self.configure(quotas, orgs, require_tenant=require_tenant)

    def configure(self, quotas: Quotas, orgs: Mapping[str, str], *, require_tenant: bool) -> None:
        """Use other rules from now on, for the owners in use too; what was used in a window that goes on stays used."""
        with self._store.lock:
            self.quotas = quotas
            self._orgs = orgs
            self._require_tenant = require_tenant
            self._review()

    def add(self, quotas: Quotas) -> None:
        """Hold tenants to *quotas* where the configuration and what was added before say nothing of them."""
        with self._store.lock:
            if quotas not in self._added:
                self._added += (quotas,)
                self._review()

    def _review(self) -> None:
        self._move_overrides()
        self._store.books.review(self._listed, self._store.clock_s())
        self._bind()
        self._pin()
        self._store.changed()

    def _move_overrides(self) -> None:
        """Take what was set for tenants along that belong to another organisation now."""
        books = self._store.books
        for book in books.overridden():
            where, quota = book.where, book.quota
            if where.org != self.org_of(where.tenant):
                books.override(book, None)
                self.override(where.tenant, quota)

    def _bind(self, tenant: str | None = None) -> None:
        for owner in list(self._owners.values()):
            if tenant is None or owner.tenant == tenant:
                owner.bind(self, self._store)

    def org_of(self, tenant: str) -> str:
        """The organisation that *tenant* belongs to."""
        return self._orgs.get(tenant, DEFAULT)

    def of_tenant(self, tenant: str) -> tuple[Quota, ...]:
        """What *tenant* may use: its own quotas, else the default ones; the configuration's before those added."""
        for given in (self.quotas, *self._added):
            name = matching(given.tenants, tenant)
            if name is not None:
                return given.tenants[name]
        return next((given.default for given in (self.quotas, *self._added) if given.default), ())

    def override(self, tenant: str, quota: Quota) -> Quota | None:
        """Put *quota* in force for *tenant* until `restore`, now and after every reload.

        It takes the place of the one with its name and window, or with its window and resources, and keeps that one's
        name; else it comes on top.

        Returns:
            What was in force in that place; None if nothing was.
        """
        with self._store.lock:
            where, now_s = Where("tenant", self.org_of(tenant), tenant), self._store.clock_s()
            books = self._store.books
            listed = [books.book(where, one, now_s) for one in self.of_tenant(tenant) if one.per != "run"]
            found = _counting(quota, (*listed, *books.overridden(where)))
            before = None if found is None else found.quota
            book = books.book(where, quota, now_s) if found is None else found
            books.override(book, replace(quota, name=book.given.name))
            self._bind(tenant)
            self._store.changed()
        return before

    def restore(self, tenant: str) -> list[tuple[Quota, Quota | None]]:
        """Hold *tenant* to what is configured again: (what was in force, what is now) of each quota that was not."""
        with self._store.lock:
            books = self._store.books
            overridden = tuple(books.overridden(Where("tenant", self.org_of(tenant), tenant)))
            changes: list[tuple[Quota, Quota | None]] = []
            for book in overridden:
                configured = self._configured(book)
                changes.append((book.quota, configured))
                books.override(book, None)
                if configured is None:
                    books.forget(book)
            self._bind(tenant)
            self._store.changed()
        return changes

    def _configured(self, book: Book) -> Quota | None:
        """What *book* counts by now; None if that is not configured any more."""
        listed = self._listed(book.where)
        return next((q for q in listed if (q.name, q.window) == (book.given.name, book.given.window)), None)

    def _listed(self, where: Where) -> tuple[Quota, ...]:
        """The quotas that are given to *where* now."""
        if where.scope == "org":
            return self.quotas.org
        if where.scope == "tenant":
            return self.of_tenant(where.tenant)
        if where.scope == "user":
            return self.quotas.of_user(where.user)
        return self.quotas.models.get(where.model, ())

    def _pin(self) -> None:
        """Open the books of everybody who is named, so that their limits are seen before anybody spends."""
        quotas, now_s = self.quotas, self._store.clock_s()
        own = (name for given in (quotas, *self._added) for name in given.tenants)
        orgs = dict.fromkeys(self._orgs.values()) or {DEFAULT: None}
        tenants = [name for name in dict.fromkeys((*self._orgs, *own)) if not is_pattern(name)]
        named = [(Where("org", org), quotas.org) for org in orgs]
        named += [(Where("tenant", self.org_of(t), t), self.of_tenant(t)) for t in tenants]
        named += [(Where("model", org, model=m), listed) for org in orgs for m, listed in quotas.models.items()]
        for where, listed in named:
            for quota in listed:
                if quota.per != "run":
                    self._store.books.book(where, quota, now_s).pinned = True

    def owner(self, org: str | None, tenant: str | None, user: str | None, priority: str | None) -> Owner:
        """The owner of a run; None takes the organisation of the tenant, the default tenant, normal priority.

        Raises:
            ValueError: There is no such priority.
        """
        named = tenant or self._tenant
        known = named is not None or not self._require_tenant
        whose = named or DEFAULT
        key = (org or self.org_of(whose), whose, user, check_priority(priority or "normal"), known)
        with self._store.lock:
            found = self._owners.get(key)
            if found is None:
                found = self._owners[key] = Owner(*key[:4], known=known)
                found.bind(self, self._store)
        return found

    def of_model(self, org: str, model: str | None) -> Sequence[QuotaAccount]:
        """The accounts that a call of *model* is counted on, of now. Called with the lock held."""
        if model is None or not self.quotas.models:
            return ()
        name, quotas = self.quotas.of_model(model)
        books, now_s = self._store.books, self._store.clock_s()
        return [books.book(Where("model", org, model=name), quota, now_s).current(now_s) for quota in quotas]

    def limits_money_of(self, model: str | None) -> bool:
        """Whether a quota of *model* refuses for want of money."""
        if model is None or not self.quotas.models:
            return False
        return any(map(limits_money, self.quotas.of_model(model)[1]))
