"""The directory: which rules bind whom: those of the configuration, and what is set while running.

Accounts count by owner and window, so other rules, names or limits need no care: they are put on the accounts at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final
from weakref import WeakValueDictionary

from otelbudget.engine.owner import DEFAULT, Names, Owner, Payers
from otelbudget.ledger.account import QuotaAccount
from otelbudget.ledger.accounts import Accounts
from otelbudget.ledger.ledger import Ledger
from otelbudget.ledger.rules import Rule, rule_of
from otelbudget.model.amounts import UNLIMITED
from otelbudget.model.levels import LEVELS, Where
from otelbudget.model.names import is_pattern
from otelbudget.model.quota import Quota, Quotas, check_priority
from otelbudget.model.windows import WindowSpec

#: How many models an owner's accounts are remembered for.
_MODELS: Final = 64


class Directory:
    """All owners that somebody uses, each once, and the rules that bind them.

    *orgs* maps tenants to organisations. Who names no tenant is *tenant*; if that is None either, it is ``default``, or
    with *require_tenant* may call nothing.
    """

    def __init__(
        self,
        ledger: Ledger,
        quotas: Quotas,
        orgs: Mapping[str, str],
        *,
        tenant: str | None = None,
        require_tenant: bool = False,
    ) -> None:
        self.ledger = ledger
        self.clock_s = ledger.clock_s
        self.accounts = Accounts(ledger)
        #: Another one as soon as rules change.
        self.generation = 0
        self._tenant = tenant
        #: By tenant: what was set while running, in the order in which it was set.
        self.overrides: dict[str, tuple[Quota, ...]] = {}
        self._owners: WeakValueDictionary[tuple[Names, bool], Owner] = WeakValueDictionary()
        self.configure(quotas, orgs, require_tenant=require_tenant)

    def configure(self, quotas: Quotas, orgs: Mapping[str, str], *, require_tenant: bool = False) -> None:
        """Use other rules from now on; what was used in a window that goes on stays used."""
        self.quotas, self._orgs, self._require_tenant = quotas, orgs, require_tenant
        self.by_model = bool(quotas.models)
        #: Quotas are given to what only spans name.
        self.by_span = bool(quotas.agents or quotas.conversations)
        self._review()

    # --- who

    def _home(self, tenant: str) -> Where:
        """Which account *tenant* has, where no other organisation is said."""
        return Where("tenant", (self._orgs.get(tenant, DEFAULT), tenant))

    def owner(self, names: Names, *, known: bool | None = None) -> Owner:
        """The owner of these names: without an organisation that of the tenant; ValueError for no such priority."""
        said = names.tenant or self._tenant
        tenant = said or DEFAULT
        org = names.org or self._orgs.get(tenant, DEFAULT)
        whole = names._replace(tenant=tenant, org=org, priority=check_priority(names.priority or "normal"))
        key = (whole, (said is not None or not self._require_tenant) if known is None else known)
        return self._owners.get(key) or self.ledger.locked(lambda: self._made(key))

    def _made(self, key: tuple[Names, bool]) -> Owner:
        found = self._owners.get(key)
        if found is None:
            found = self._owners[key] = Owner(self, key[0], known=key[1])
        return found

    # --- what binds them

    def resolve(self, owner: Owner, model: str | None, found: dict[str | None, Payers]) -> Payers:
        """What a request of *owner* for *model* counts on now; remembered in *found*."""
        generation, now_s = self.generation, self.clock_s()
        accounts: list[QuotaAccount] = []
        per_run: list[tuple[Where, Quota]] = []
        start_s, end_s = float("-inf"), float("inf")
        for scope, level in LEVELS.items():
            for names in level.named(self.quotas, owner, model):
                where = Where(scope, names)
                listed = self.in_force(where)
                per_run += [(where, quota) for quota in listed if quota.per == "run"]
                for account in self._bound(where, listed, now_s):
                    since_s, until_s = self.accounts.good_until(account, now_s)
                    start_s, end_s = max(start_s, since_s), min(end_s, until_s)
                    accounts.append(account)
        if generation != self.generation:  # other rules came meanwhile, and may have been bound before these
            return self.resolve(owner, model, found)
        if len(found) >= _MODELS:
            found.clear()
        made = found[model] = Payers(tuple(accounts), tuple(per_run), start_s, end_s, generation)
        return made

    def _bound(self, where: Where, listed: tuple[Quota, ...], now_s: float) -> Iterator[QuotaAccount]:
        """The accounts of *where* in the windows of now, with the rules that *listed* are."""
        for spec, rules in _by_window(listed).items():
            account = self.accounts.current(where, spec, now_s)
            self._bind(account, rules)
            yield account

    def _bind(self, account: QuotaAccount, rules: tuple[Rule, ...]) -> None:
        if account.rules != rules:
            self.ledger.limit(account, rules)

    def standing(self) -> tuple[QuotaAccount, ...]:
        """The accounts of now of everybody who is named, and of all who used something, now or in a window before."""
        now_s = self.clock_s()
        named = [account for where in self._named() for account in self._bound(where, self.in_force(where), now_s)]
        found = {account.key: account for account in named}
        for account in self.accounts:
            goes_on = account.start_s <= now_s < account.end_s
            if account.rules and (goes_on or LEVELS[account.scope].shown):
                current = self.accounts.current(account.where, account.spec, now_s)
                self._bind(current, account.rules)
                found[current.key] = current
        return tuple(found.values())

    def _named(self) -> Iterator[Where]:
        for org in dict.fromkeys(self._orgs.values()) or (DEFAULT,):
            yield Where("org", (org,))
            yield from (Where("model", (org, model)) for model in self.quotas.models)
            for tag, values in self.quotas.tags.items():
                yield from (Where("tag", (org, tag, value)) for value in values if not is_pattern(value))
        tenants = dict.fromkeys((*self._orgs, *self.quotas.tenants, *self.overrides))
        yield from (self._home(name) for name in tenants if not is_pattern(name))

    # --- what is set while running

    def in_force(self, where: Where) -> tuple[Quota, ...]:
        """What is configured for *where*, with what was set while running in the place of one of them, or on top."""
        listed = self.quotas.of(where)
        tenant = where.get("tenant")
        for quota in self.overrides.get(tenant, ()) if where == self._home(tenant) else ():
            place = _place(quota, listed)
            listed = (*listed[:place], quota, *listed[place + 1 :])
        return listed

    def quotas_of(self, tenant: str) -> tuple[Quota, ...]:
        """What *tenant* is held to, but for quotas of each root run."""
        return tuple(quota for quota in self.in_force(self._home(tenant)) if quota.per != "run")

    def override(self, tenant: str, quota: Quota) -> Quota | None:
        """Put *quota* in force for *tenant* until `restore`, also after a reload; gives what it takes the place of.

        That is the one with its name and window, or with its window and resources, whose name it gets; None if it comes
        on top.
        """
        before = self.ledger.locked(lambda: self._overridden(tenant, quota))
        self._review(self._home(tenant))
        return before

    def _overridden(self, tenant: str, quota: Quota) -> Quota | None:
        before = _replaced(quota, self.quotas_of(tenant))
        if before is not None:
            quota = replace(quota, name=before.name)
        others = (one for one in self.overrides.get(tenant, ()) if (one.name, one.window) != (quota.name, quota.window))
        self.overrides[tenant] = (*others, quota)
        return before

    def adopt(self, tenant: str, quotas: tuple[Quota, ...]) -> None:
        """Have *quotas*, which were set elsewhere, in force for *tenant*, and nothing else that was set."""
        if self.overrides.get(tenant, ()) != quotas:
            self.overrides[tenant] = quotas
            if not quotas:
                del self.overrides[tenant]
            self._review(self._home(tenant))

    def restore(self, tenant: str) -> list[tuple[Quota, Quota | None]]:
        """Hold *tenant* to what is configured again: (what was in force, what is now) of each quota that was not."""
        was = self.overrides.get(tenant, ())
        self.adopt(tenant, ())
        return [(quota, _replaced(quota, self.quotas_of(tenant))) for quota in was]

    def _review(self, where: Where | None = None) -> None:
        """Put the rules of now on the accounts that there are, of *where* or of all."""
        self.generation += 1
        for account in self.accounts:  # one at a time, so that nobody waits long
            if where is None or account.where == where:
                self._bind(account, _by_window(self.in_force(account.where)).get(account.spec, ()))


def _by_window(listed: tuple[Quota, ...]) -> dict[WindowSpec, tuple[Rule, ...]]:
    """The rules of each window."""
    found: dict[WindowSpec, tuple[Rule, ...]] = {}
    for quota in listed:
        if quota.per != "run":
            found[quota.window] = (*found.get(quota.window, ()), rule_of(quota))
    return found


def _place(quota: Quota, listed: tuple[Quota, ...]) -> int:
    """Which of *listed* has the window of *quota*, and its name or else its resources; their number if none has."""
    same = [i for i, one in enumerate(listed) if one.window == quota.window]
    named = [i for i in same if listed[i].name == quota.name]
    alike = [i for i in same if _limited(listed[i]) == _limited(quota)]
    return next(iter(named or alike), len(listed))


def _limited(quota: Quota) -> list[bool]:
    return [limit < UNLIMITED for limit in quota.limits]


def _replaced(quota: Quota, listed: tuple[Quota, ...]) -> Quota | None:
    return (*listed, None)[_place(quota, listed)]
